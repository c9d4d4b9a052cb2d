"""Ranges of activations: the steps of int8 lie where least is lost of what flows in a network."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from pipeline.base.lazy import keras
from pipeline.inference.keras_files import load_model
from pipeline.inference.litert import operators
from pipeline.quantization import calibration as ranges
from pipeline.quantization.convert import calibration_sample, convert
from tests.helpers.toy_networks import toy_network


def squared_error(values, low, high):
    """Of values in the 256 steps between two ends, as the definition of int8 has it."""
    step = (high - low) / 255
    zero = round(-low / step)
    return np.mean(((np.clip(np.round(values / step) + zero, 0, 255) - zero) * step - values) ** 2)


def best_range(values):
    """Of values and not of their histogram."""
    extremes = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    return ranges.best_range(np.histogram(values, ranges.BINS, extremes)[0], extremes)


def test_range_of_normal_values_ends_where_the_literature_says():
    """At 3.92 standard deviations for 8 bits (Banner et al. 2019, table of clipping values)."""
    values = np.random.default_rng(0).normal(size=400_000)
    low, high = best_range(values)
    assert (-low, high) == pytest.approx((3.92, 3.92), rel=0.06)


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(1).laplace(size=20_000),
        np.abs(np.random.default_rng(2).normal(size=20_000)) ** 3,
        np.random.default_rng(3).normal(-1, 0.5, 20_000) ** 3,
        np.random.default_rng(4).uniform(-2, 6, 20_000),
    ],
    ids=["both signs", "positive, rare ones large", "mostly negative", "none is rare"],
)
def test_range_loses_least_of_all_that_were_tried_one_by_one(values):
    extremes = min(values.min(), 0), max(values.max(), 0)
    shares = np.linspace(0.3, 1, 36)
    errors = [
        squared_error(values, a * extremes[0], b * extremes[1]) for a in shares for b in shares
    ]
    found = squared_error(values, *best_range(values))
    assert found <= 1.02 * min(errors)
    assert found <= 1.001 * squared_error(values, *extremes)


def test_values_that_are_all_zero_have_no_range():
    assert best_range(np.zeros(10, np.float32)) == (0, 0)


@pytest.fixture(scope="module")
def pruned(finished_run):
    return load_model(finished_run, "pruned")


@pytest.fixture(scope="module")
def calibration(finished_run):
    return calibration_sample(finished_run, 20, 7)[1]


@pytest.fixture(scope="module")
def found(pruned, calibration):
    """The float32 file and what was found for it."""
    content = convert(pruned, "float32")
    return content, ranges.activation_ranges(content, calibration)


def test_every_activation_has_a_range_that_loses_less_than_its_extremes(pruned, calibration, found):
    content, limits = found
    every = operators(content)
    assert {each.tensor for each in every} <= set(limits)
    for layer, ending in (("block1_project", "_norm"), ("up8_mix3", "_relu")):
        (tensor,) = (each.tensor for each in every if each.layer == layer)
        part = keras.Model(pruned.input, pruned.get_layer(layer + ending).output)
        values = part(calibration).numpy().ravel()
        extremes = min(0, values.min()), values.max()
        assert squared_error(values, *limits[tensor]) <= 1.02 * squared_error(values, *extremes)


def test_operators_that_only_move_values_keep_their_range(found):
    content, limits = found
    last = [each for each in operators(content)][-4:]
    assert [each.kind for each in last] == ["CONV_2D", "RESHAPE", "TRANSPOSE", "RESHAPE"]
    assert len({limits[each.tensor] for each in last}) == 1


def test_input_reaches_from_black_to_white_whatever_the_images_are():
    model, images = toy_network()
    content = convert(model, "float32")
    found = ranges.activation_ranges(content, np.full_like(images, 0.5))
    (image,) = (limits for name, limits in found.items() if "image" in name)
    assert image == (0, 1)


def test_int8_file_has_the_ranges_that_were_found(pruned, calibration, monkeypatch):
    """They reach the file, whose scale times 255 is the width; the last step may be nudged."""
    given = {}

    def spied(content, limits):
        given.update(limits)
        return ranges_set(content, limits)

    ranges_set = ranges.with_ranges
    monkeypatch.setattr("pipeline.quantization.convert.with_ranges", spied)
    content = convert(pruned, "int8", calibration)
    seen = {each.tensor: each for each in operators(content) if each.limits}
    shared = [name for name in given if name in seen and seen[name].kind == "CONV_2D"]
    assert len(shared) > 20
    for name in shared:
        step = (given[name][1] - given[name][0]) / 255
        assert seen[name].limits == pytest.approx(given[name], abs=0.6 * step), name


def test_ranges_are_set_in_the_tensors_that_have_these_names_and_in_no_other(
    pruned, calibration, monkeypatch
):
    files = []
    monkeypatch.setattr(
        "pipeline.quantization.convert.with_ranges",
        lambda content, _: files.append(content) or content,
    )
    convert(pruned, "int8", calibration[:1])
    (before,) = files
    name = next(each.tensor for each in operators(before) if each.kind == "DEPTHWISE_CONV_2D")
    after = ranges.with_ranges(before, {name: (-1.5, 2.5)})
    for old, new in zip(*(tensors_of(content) for content in (before, after))):
        limits = (-1.5, 2.5) if new[0] == name else old[1]
        assert new == (old[0], limits)


def tensors_of(content):
    """Names and ranges of a file's tensors."""
    graph = schema.ModelT.InitFromPackedBuf(content, 0).subgraphs[0]
    for tensor in graph.tensors:
        ends = tensor.quantization and (tensor.quantization.min, tensor.quantization.max)
        single = ends and all(end is not None and len(end) == 1 for end in ends)
        yield tensor.name.decode(), tuple(float(end[0]) for end in ends) if single else None
