"""Memory plan and multiply-accumulates, against small graphs planned and counted by hand."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from pipeline.base.lazy import keras, layers
from pipeline.evaluation import memory_plan
from pipeline.inference.tflite_files import packed, tables
from pipeline.quantization import convert
from pipeline.training import networks
from pipeline.variants import VARIANTS

FLOAT32, INT8 = schema.TensorType.FLOAT32, schema.TensorType.INT8


def tflite_file(tensors, operators, subgraphs=1):
    """A .tflite file with the tables that `memory_plan.plan` reads.

    Args:
        tensors: (name, shape, type, whether it is a constant); the first is the input, the last
            the output.
        operators: (kind, names of the inputs, names of the outputs).
    """
    graph, model = schema.SubGraphT(), schema.ModelT()
    model.buffers = [schema.BufferT()]
    graph.tensors = []
    for name, shape, kind, constant in tensors:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, shape, kind, 0
        if constant:
            tensor.buffer = len(model.buffers)
            model.buffers.append(schema.BufferT())
            model.buffers[-1].data = np.ones(4, np.uint8)  # its size does not matter
        graph.tensors.append(tensor)
    numbers = {name: index for index, (name, *_) in enumerate(tensors)} | {None: -1}
    model.operatorCodes, graph.operators = [], []
    for kind, inputs, outputs in operators:
        code, operator = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = getattr(schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        operator.opcodeIndex = len(model.operatorCodes)
        operator.inputs = [numbers[name] for name in inputs]
        operator.outputs = [numbers[name] for name in outputs]
        model.operatorCodes.append(code)
        graph.operators.append(operator)
    graph.inputs, graph.outputs = [0], [len(tensors) - 1]
    model.subgraphs, model.version = [graph] * subgraphs, 3
    return packed(model)


def activation(name, *shape, kind=INT8):
    return f"net/{name}/op", [1, *shape], kind, False


def kernel(name, *shape, kind=INT8):
    return name, list(shape), kind, True


# --- memory ---------------------------------------------------------------------------------


def residual_block():
    """Five operators; a, b, c and sum take 48 bytes, the input 75, aligned to 80."""
    return tflite_file(
        [
            activation("image", 5, 5, 3),
            kernel("stem", 3, 2, 2, 3),
            kernel("window", 1, 3, 3, 3),
            kernel("mix", 3, 1, 1, 3),
            kernel("last", 1, 1, 1, 3),
            activation("a", 4, 4, 3),
            activation("b", 4, 4, 3),
            activation("c", 4, 4, 3),
            activation("sum", 4, 4, 3),
            activation("logits", 4, 4, 1),
        ],
        [
            ("CONV_2D", ["net/image/op", "stem", None], ["net/a/op"]),
            ("DEPTHWISE_CONV_2D", ["net/a/op", "window", None], ["net/b/op"]),
            ("CONV_2D", ["net/b/op", "mix", None], ["net/c/op"]),
            ("ADD", ["net/b/op", "net/c/op"], ["net/sum/op"]),
            ("CONV_2D", ["net/sum/op", "last", None], ["net/logits/op"]),
        ],
    )


def test_plan_of_a_residual_block_by_hand():
    """Offsets of the greedy plan; in brackets the operators during which a buffer is in use.

    The largest buffer comes first: the image at 0..80 (1). Of the equal ones the last comes first:
    sum (4-5) at 0..48, c (3-4) at 48..96, b (2-4) at 96..144. The gap between the image and b is
    only 16 bytes, so a (1-2) goes to 144..192. The logits (5) go after the sum. No operator needs
    more than 144 bytes, so this greedy plan is not optimal.
    """
    plan = memory_plan.plan(residual_block())
    assert plan.activation_bytes == 192
    assert plan.peak == [("b", 48), ("c", 48), ("sum", 48)]
    # 48 outputs of 2 x 2 x 3 products, 48 of 3 x 3, 48 of 3, an addition, 16 outputs of 3.
    assert plan.multiply_accumulates == 48 * 12 + 48 * 9 + 48 * 3 + 16 * 3


@pytest.mark.parametrize(
    ("kind", "scratch", "activations"),
    [(INT8, 4, 16 + 32), (schema.TensorType.INT16, 8, 32 + 64), (FLOAT32, 0, 64 + 128)],
    ids=["int8", "int16", "float32"],
)
def test_transposed_convolution_on_integers_needs_accumulators(kind, scratch, activations):
    content = tflite_file(
        [
            activation("image", 2, 2, 4, kind=kind),
            kernel("shape", 4, kind=schema.TensorType.INT32),
            kernel("kernel", 2, 2, 2, 4),
            activation("up", 4, 4, 2, kind=kind),
        ],
        [("TRANSPOSE_CONV", ["shape", "kernel", "net/image/op"], ["net/up/op"])],
    )
    plan = memory_plan.plan(content)
    assert plan.activation_bytes == activations + 32 * scratch
    sums = [("up (sums)", 32 * scratch)] if scratch else []
    assert plan.peak == [*sums, ("up", activations * 2 // 3), ("input", activations // 3)]
    assert plan.multiply_accumulates == 16 * (2 * 2 * 2)  # 16 values times 2 x 2 x 2 weights


def test_unpacked_weights_do_not_count_but_a_dequantised_activation_does():
    half = schema.TensorType.FLOAT16
    content = tflite_file(
        [
            activation("image", 8, kind=INT8),
            kernel("packed", 1000, 8, kind=half),
            ("unpacked", [1000, 8], FLOAT32, False),
            activation("wide", 8, kind=FLOAT32),
            activation("logits", 1000, kind=FLOAT32),
        ],
        [
            ("DEQUANTIZE", ["packed"], ["unpacked"]),
            ("DEQUANTIZE", ["net/image/op"], ["net/wide/op"]),
            ("FULLY_CONNECTED", ["net/wide/op", "unpacked", None], ["net/logits/op"]),
        ],
    )
    plan = memory_plan.plan(content)
    assert plan.peak == [("logits", 4000), ("wide", 32)]
    assert plan.activation_bytes == 4032
    assert plan.multiply_accumulates == 8000


def test_output_of_the_graph_is_kept_to_the_end():
    content = tflite_file(
        [activation("image", 64), activation("side", 32), activation("last", 16)],
        [
            ("RELU", ["net/image/op"], ["net/side/op"]),
            ("RELU", ["net/image/op"], ["net/last/op"]),
        ],
    )
    assert (
        memory_plan.plan(content).activation_bytes == 64 + 32
    )  # "last" reuses the memory of "side"
    model = tables(content)
    model.subgraphs[0].outputs = [1, 2]
    assert memory_plan.plan(packed(model)).activation_bytes == 64 + 32 + 16


def test_file_without_a_fixed_plan_is_refused():
    image, relu = activation("image", 4), ("RELU", ["net/image/op"], ["net/out/op"])
    with pytest.raises(ValueError, match=r"no \.tflite file"):
        memory_plan.plan(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(ValueError, match="loops or branches"):
        memory_plan.plan(tflite_file([image, activation("out", 4)], [relu], subgraphs=2))
    strings = activation("out", 4, kind=schema.TensorType.STRING)
    with pytest.raises(ValueError, match="out has no fixed size"):
        memory_plan.plan(tflite_file([image, strings], [relu]))


# --- networks -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny():
    """By variant, the file of a network with every kind of layer that has multiplications."""
    keras.utils.set_random_seed(0)
    image = layers.Input((16, 16, 3))
    x = layers.Conv2D(16, 3, 2, padding="same", activation="relu")(image)  # 8 x 8
    x = layers.DepthwiseConv2D(5, padding="same")(x)
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)  # 16 x 16
    x = layers.MaxPool2D(2)(x)  # 8 x 8
    x = layers.Conv2DTranspose(4, 2, 2)(x)  # 16 x 16
    model = keras.Model(image, layers.Dense(3)(layers.ReLU(6.0)(x)))  # applied to every pixel
    calibration = np.random.default_rng(0).random((4, 16, 16, 3), np.float32)
    return {name: convert.convert(model, name, calibration) for name in VARIANTS}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_has_the_multiply_accumulates_of_its_keras_model(tiny, variant):
    convolution, window = (8 * 8 * 16) * (3 * 3 * 3), (8 * 8 * 16) * (5 * 5)
    transposed, dense = (8 * 8 * 16) * (2 * 2 * 4), (16 * 16 * 3) * 4
    count = memory_plan.plan(tiny[variant]).multiply_accumulates
    assert count == convolution + window + transposed + dense


def test_activations_of_every_variant(tiny):
    plans = {name: memory_plan.plan(content) for name, content in tiny.items()}
    bytes_of = {name: plan.activation_bytes for name, plan in plans.items()}
    # The enlarged tensor, 16 x 16 x 16 in float32, and the pooled one.
    assert bytes_of["float32"] == 4 * (4096 + 1024)
    # The type of the weights does not matter: activations stay float32.
    assert {bytes_of[name] for name in ("pruned_float32", "dynamic", "float16")} == {20480}
    # The accumulators of 16 x 16 x 4 values in int32, these values in int8, the pooled tensor.
    assert bytes_of["int8"] == 4 * 1024 + 1024 + 1024
    assert [size for _, size in plans["int8"].peak] == [4096, 1024, 1024]


def compact_by_hand(side):
    """Multiply-accumulates of the compact network, from its table of blocks."""
    total = (side // 2) ** 2 * 32 * 3 * 3 * 3  # stem
    side, channels, skips = side // 2, 32, []
    for size, stride, expansion, filters, repeats in networks.ENCODER_STAGES:
        if stride == 2:
            skips.append((side, channels))
        for repeat in range(repeats):
            wide = channels * expansion
            total += side**2 * channels * wide if expansion > 1 else 0
            side //= stride if repeat == 0 else 1
            total += side**2 * wide * (size**2 + filters)  # depthwise, then project
            channels = filters
    for filters, (larger, skip) in zip(networks.PRESETS["default"].decoder, reversed(skips)):
        total += side**2 * channels * filters + larger**2 * skip * filters
        for size in networks.DECODER_KERNELS:
            total += larger**2 * filters * (size**2 + filters)
        side, channels = larger, filters
    return total + side**2 * channels * 4 * 4 * 3  # 4 x 4 pixels of 3 classes


@pytest.mark.slow
def test_compact_network_at_128_pixels_enlarged():
    """The peak is the first expansion, 96 channels at 80 x 80, and its successor at 40 x 40.

    Vela reports 188.0 million multiply-accumulates: the same plus 2.6 million for resizing and
    the conversion of the input.
    """
    content = convert.convert(networks.compact_unet((128, 128), 3, 1.25), "float32")
    plan = memory_plan.plan(content)
    assert plan.multiply_accumulates == compact_by_hand(160) == 185_391_200
    assert plan.activation_bytes == 4 * 96 * (80 * 80 + 40 * 40) == 4 * 768_000
    assert plan.peak == [("block1_expand", 2_457_600), ("block1_depthwise", 614_400)]
