"""litert-quantizer's recipes: int8 in the operators that were chosen, and in no other."""

import re

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from pipeline.base.artifacts import artifact_path, read_record
from pipeline.base.lazy import keras, layers
from pipeline.data.dataset import load_split
from pipeline.inference.keras_files import load_model
from pipeline.inference.litert import Operator, logits_of, open_interpreter, operators
from pipeline.inference.litert_private import operator_details
from pipeline.quantization import selective
from pipeline.quantization.calibration import activation_ranges
from pipeline.quantization.convert import convert
from tests.helpers.runs import CLASSES, SIZE


@pytest.fixture(scope="module")
def pruned(finished_run):
    return load_model(finished_run, "pruned")


@pytest.fixture(scope="module")
def images(finished_run):
    return load_split(finished_run, "validation")[0][:]


@pytest.fixture(scope="module")
def float32_file(pruned):
    return convert(pruned, "float32")


@pytest.fixture(scope="module")
def ranges(float32_file, images):
    return activation_ranges(float32_file, images.astype(np.float32) / 255)


def in_int8(content):
    """Kinds of the operators of a file whose output is int8, in order."""
    interpreter = Interpreter(model_content=content)
    types = {tensor["index"]: tensor["dtype"] for tensor in interpreter.get_tensor_details()}
    nodes = operator_details(interpreter)
    return [node["op_name"] for node in nodes if types[node["outputs"][0]] == np.int8]


# --- dynamic range --------------------------------------------------------------------------


def test_dynamic_file_has_int8_weights_where_sums_are_long_and_nowhere_else(finished_run):
    """Depthwise convolutions with int8 weights, and short sums, are slower than in float32."""
    interpreter = open_interpreter(artifact_path(finished_run, "dynamic"))
    tensors = {tensor["index"]: tensor for tensor in interpreter.get_tensor_details()}
    nodes = operator_details(interpreter)
    nodes = [node for node in nodes if node["op_name"].endswith("CONV_2D")]
    kernels = [tensors[node["inputs"][1]] for node in nodes]
    long = [
        node["op_name"] == "CONV_2D" and np.prod(kernel["shape"][1:]) >= 64
        for node, kernel in zip(nodes, kernels)
    ]
    assert [kernel["dtype"] == np.int8 for kernel in kernels] == long
    assert 20 < sum(long) < len(long)
    names = read_record(finished_run, "dynamic")["metrics"]["int8_layers"]
    assert len(names) == sum(long)
    assert {"block6_expand", "up8_deep"} <= set(names) and "stem" not in names


def test_dynamic_range_of_one_operator_leaves_the_others(float32_file, images):
    (chosen,) = (each for each in operators(float32_file) if each.layer == "block1_project")
    content = selective.quantise_dynamic(float32_file, [chosen])
    interpreter = Interpreter(model_content=content)
    tensors = interpreter.get_tensor_details()
    (kernel,) = (tensor for tensor in tensors if tensor["dtype"] == np.int8)
    assert kernel["shape"].tolist() == [24, 1, 1, 96]
    exact = logits_of(float32_file, images)
    noise = np.mean((logits_of(content, images) - exact) ** 2)
    assert 0 < noise < 0.01 * np.mean(exact**2)


# --- single operators -----------------------------------------------------------------------


def test_one_operator_alone_is_in_int8(float32_file, ranges):
    (chosen,) = (each for each in operators(float32_file) if each.layer == "block6_project")
    content = selective.quantise_static(float32_file, ranges, only=chosen)
    assert in_int8(content) == ["QUANTIZE", "CONV_2D"]


def test_all_operators_but_some_are_in_int8(float32_file, ranges, images):
    every = operators(float32_file)
    kept = [each for each in every if each.layer in ("block6_project", "up8_depthwise3")]
    assert [each.kind for each in kept] == ["CONV_2D", "DEPTHWISE_CONV_2D"]
    content = selective.quantise_static(float32_file, ranges, but=kept)
    found = {each.tensor: each.limits for each in operators(content)}
    in_float = {each.tensor for each in every if found[each.tensor] is None}
    assert in_float == {each.tensor for each in kept}
    interpreter = Interpreter(model_content=content)
    assert interpreter.get_input_details()[0]["dtype"] == np.int8
    assert interpreter.get_output_details()[0]["dtype"] == np.int8
    exact, found = logits_of(float32_file, images), logits_of(content, images)
    assert np.mean((found - exact) ** 2) < 0.05 * np.mean(exact**2)


def test_transposed_convolutions_are_found_by_the_library_s_own_name_for_them():
    keras.utils.set_random_seed(1)
    image = layers.Input((SIZE, SIZE, 3), name="image")
    x = layers.Conv2D(8, 3, 2, padding="same", activation="relu", name="down")(image)
    x = layers.Conv2DTranspose(8, 2, 2, name="up")(x)
    model = keras.Model(image, layers.Conv2D(len(CLASSES), 1, name="logits")(x), name="small")
    content = convert(model, "float32")
    (chosen,) = (each for each in operators(content) if each.kind == "TRANSPOSE_CONV")
    pixels = np.random.default_rng(0).random((4, SIZE, SIZE, 3), np.float32)
    ranges = activation_ranges(content, pixels)
    found = selective.quantise_static(content, ranges, only=chosen)
    assert in_int8(found) == ["QUANTIZE", "TRANSPOSE_CONV"]


def test_name_of_an_operator_is_no_pattern_that_matches_others():
    """Names hold dots, plus signs and brackets at times, and one may begin another."""
    odd = Operator("CONV_2D", "net/a.b+c(1)/Conv2D", 27, None)
    pattern = re.compile(selective.recipe_scope(odd)["regex"])
    # The library writes a semicolon behind the names of fused tensors.
    assert pattern.search(odd.tensor) and pattern.search(odd.tensor + ";")
    for other in ("net/aXb+c(1)/Conv2D", odd.tensor + "1", "outer/" + odd.tensor):
        assert not pattern.search(other)
