"""Activation ranges: least squared error for int8, and written into the file."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from pipeline.base.lazy import keras
from pipeline.inference.keras_files import load_model
from pipeline.inference.tflite_files import operators
from pipeline.quantization import calibration
from pipeline.quantization.convert import calibration_sample, convert
from tests.helpers.toy_networks import toy_network


def squared_error(values, low, high):
    """Mean squared error of values in int8 with this range, by the definition of int8."""
    step = (high - low) / 255
    zero_point = round(-low / step)
    rounded = (np.clip(np.round(values / step) + zero_point, 0, 255) - zero_point) * step
    return np.mean((rounded - values) ** 2)


def best_range(values):
    """`calibration.best_range` of values instead of their histogram."""
    extremes = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    counts = np.histogram(values, calibration.BINS, extremes)[0]
    return calibration.best_range(counts, extremes)


def test_range_of_normal_values_is_that_of_the_literature():
    """3.92 standard deviations for 8 bits (Banner et al. 2019, table of clipping values)."""
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
    ids=["both signs", "positive with large outliers", "mostly negative", "uniform"],
)
def test_range_has_the_least_error_of_all_candidates(values):
    extremes = min(values.min(), 0), max(values.max(), 0)
    fractions = np.linspace(0.3, 1, 36)
    errors = [
        squared_error(values, a * extremes[0], b * extremes[1])
        for a in fractions
        for b in fractions
    ]
    error = squared_error(values, *best_range(values))
    assert error <= 1.02 * min(errors)
    assert error <= 1.001 * squared_error(values, *extremes)


def test_range_of_zeros_alone_is_empty():
    assert best_range(np.zeros(10, np.float32)) == (0, 0)


@pytest.fixture(scope="module")
def pruned(finished_run):
    return load_model(finished_run, "pruned")


@pytest.fixture(scope="module")
def images(finished_run):
    return calibration_sample(finished_run, 20, 7)[1]


@pytest.fixture(scope="module")
def calibrated(pruned, images):
    """The float32 file of the pruned model, and its activation ranges by tensor."""
    content = convert(pruned, "float32")
    return content, calibration.activation_ranges(content, images)


def test_every_activation_has_a_range_of_less_error_than_its_extremes(pruned, images, calibrated):
    content, ranges = calibrated
    listed = operators(content)
    assert {operator.tensor for operator in listed} <= set(ranges)
    for layer, ending in (("block1_project", "_norm"), ("up4_mix", "_relu")):
        (tensor,) = (operator.tensor for operator in listed if operator.layer == layer)
        part = keras.Model(pruned.input, pruned.get_layer(layer + ending).output)
        values = part(images).numpy().ravel()
        extremes = min(0, values.min()), values.max()
        assert squared_error(values, *ranges[tensor]) <= 1.02 * squared_error(values, *extremes)


def test_operators_that_copy_values_keep_the_range(calibrated):
    content, ranges = calibrated
    last = operators(content)[-4:]
    assert [operator.kind for operator in last] == ["CONV_2D", "RESHAPE", "TRANSPOSE", "RESHAPE"]
    assert len({ranges[operator.tensor] for operator in last}) == 1


def test_range_of_the_input_is_0_to_1_for_any_images():
    model, images = toy_network()
    content = convert(model, "float32")
    ranges = calibration.activation_ranges(content, np.full_like(images, 0.5))
    (image,) = (limits for name, limits in ranges.items() if "image" in name)
    assert image == (0, 1)


@pytest.mark.slow
def test_int8_file_has_the_calibrated_ranges(pruned, images, monkeypatch):
    """Up to 0.6 steps, because the converter moves the ends so that 0 is exact."""
    ranges = {}

    def recording(content, limits):
        ranges.update(limits)
        return with_ranges(content, limits)

    with_ranges = calibration.with_ranges
    monkeypatch.setattr("pipeline.quantization.convert.with_ranges", recording)
    content = convert(pruned, "int8", images)
    in_file = {operator.tensor: operator for operator in operators(content) if operator.limits}
    shared = [name for name in ranges if name in in_file and in_file[name].kind == "CONV_2D"]
    assert len(shared) > 5
    for name in shared:
        step = (ranges[name][1] - ranges[name][0]) / 255
        assert in_file[name].limits == pytest.approx(ranges[name], abs=0.6 * step), name


@pytest.mark.slow
def test_ranges_are_set_in_the_named_tensors_only(pruned, images, monkeypatch):
    files = []
    monkeypatch.setattr(
        "pipeline.quantization.convert.with_ranges",
        lambda content, _: files.append(content) or content,
    )
    convert(pruned, "int8", images[:1])
    (before,) = files
    kind = "DEPTHWISE_CONV_2D"
    name = next(operator.tensor for operator in operators(before) if operator.kind == kind)
    after = calibration.with_ranges(before, {name: (-1.5, 2.5)})
    for old, new in zip(*(tensors_of(content) for content in (before, after))):
        limits = (-1.5, 2.5) if new[0] == name else old[1]
        assert new == (old[0], limits)


def tensors_of(content):
    """Yields name and range of each tensor; None for one without a range."""
    graph = schema.ModelT.InitFromPackedBuf(content, 0).subgraphs[0]
    for tensor in graph.tensors:
        ends = tensor.quantization and (tensor.quantization.min, tensor.quantization.max)
        single = ends and all(end is not None and len(end) == 1 for end in ends)
        yield tensor.name.decode(), tuple(float(end[0]) for end in ends) if single else None
