"""litert-quantizer quantises the operators that were chosen and no others."""

import re

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from pipeline.base.artifacts import artifact_path, read_record
from pipeline.base.lazy import keras, layers
from pipeline.data.dataset import load_split
from pipeline.inference.keras_files import load_model
from pipeline.inference.models import open_model
from pipeline.inference.tflite_files import Operator, Tensor, operators
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
    """Kinds of the operators whose output is int8, in the order of execution."""
    return [operator.kind for operator in operators(content) if operator.outputs[0].type == "int8"]


# --- dynamic range --------------------------------------------------------------------------


def test_dynamic_file_has_int8_weights_in_convolutions_of_64_products_or_more(finished_run):
    """Others, and depthwise convolutions, would be slower than in float32."""
    listed = operators(artifact_path(finished_run, "dynamic").read_bytes())
    convolutions = [operator for operator in listed if operator.kind.endswith("CONV_2D")]
    kernels = [operator.inputs[1] for operator in convolutions]
    expected = [
        operator.kind == "CONV_2D" and np.prod(kernel.shape[1:]) >= 64
        for operator, kernel in zip(convolutions, kernels)
    ]
    assert [kernel.type == "int8" for kernel in kernels] == expected
    assert 0 < sum(expected) < len(expected)
    names = read_record(finished_run, "dynamic")["metrics"]["int8_layers"]
    assert len(names) == sum(expected)
    assert {"block1_expand", "up4_mix"} <= set(names) and "stem" not in names


def named(content, layer):
    """The operator of a file that was made from a layer."""
    (operator,) = (operator for operator in operators(content) if operator.layer == layer)
    return operator


def test_dynamic_range_of_one_operator_leaves_the_others(float32_file, images):
    operator = named(float32_file, "block1_project")
    content = selective.quantise_dynamic(float32_file, [operator])
    interpreter = Interpreter(model_content=content)
    tensors = interpreter.get_tensor_details()
    (kernel,) = (tensor for tensor in tensors if tensor["dtype"] == np.int8)
    assert kernel["shape"].tolist() == [64, 1, 1, 160]
    exact = open_model(float32_file).logits(images)
    noise = np.mean((open_model(content).logits(images) - exact) ** 2)
    assert 0 < noise < 0.01 * np.mean(exact**2)


# --- single operators -----------------------------------------------------------------------


def test_one_operator_alone_is_in_int8(float32_file, ranges):
    operator = named(float32_file, "block1_project")
    content = selective.quantise_static(float32_file, ranges, only=operator)
    assert in_int8(content) == ["QUANTIZE", "CONV_2D"]


def test_all_operators_but_some_are_in_int8(float32_file, ranges, images):
    kept = [named(float32_file, layer) for layer in ("block1_project", "up4_depthwise")]
    assert [operator.kind for operator in kept] == ["CONV_2D", "DEPTHWISE_CONV_2D"]
    content = selective.quantise_static(float32_file, ranges, but=kept)
    limits = {operator.tensor: operator.limits for operator in operators(content)}
    tensors = {operator.tensor for operator in operators(float32_file)}
    in_float = {tensor for tensor in tensors if limits[tensor] is None}
    assert in_float == {operator.tensor for operator in kept}
    interpreter = Interpreter(model_content=content)
    assert interpreter.get_input_details()[0]["dtype"] == np.int8
    assert interpreter.get_output_details()[0]["dtype"] == np.int8
    exact, logits = open_model(float32_file).logits(images), open_model(content).logits(images)
    assert np.mean((logits - exact) ** 2) < 0.05 * np.mean(exact**2)


def test_transposed_convolution_is_quantised_although_the_library_names_it_otherwise():
    keras.utils.set_random_seed(1)
    image = layers.Input((SIZE, SIZE, 3), name="image")
    x = layers.Conv2D(8, 3, 2, padding="same", activation="relu", name="down")(image)
    x = layers.Conv2DTranspose(8, 2, 2, name="up")(x)
    model = keras.Model(image, layers.Conv2D(len(CLASSES), 1, name="logits")(x), name="small")
    content = convert(model, "float32")
    transposed = named(content, "up")
    assert transposed.kind == "TRANSPOSE_CONV"
    pixels = np.random.default_rng(0).random((4, SIZE, SIZE, 3), np.float32)
    ranges = activation_ranges(content, pixels)
    quantised = selective.quantise_static(content, ranges, only=transposed)
    assert in_int8(quantised) == ["QUANTIZE", "TRANSPOSE_CONV"]


def test_regex_of_an_operator_matches_no_other():
    """A name may contain characters that are special in a regex, or be the start of another."""
    output = Tensor(0, "net/a.b+c(1)/Conv2D", (1, 8, 8, 4), "float32")
    operator = Operator("CONV_2D", [], [output])
    pattern = re.compile(selective.recipe_scope(operator)["regex"])
    # The library appends a semicolon to the names of fused tensors.
    assert pattern.search(operator.tensor) and pattern.search(operator.tensor + ";")
    for other in ("net/aXb+c(1)/Conv2D", operator.tensor + "1", "outer/" + operator.tensor):
        assert not pattern.search(other)
