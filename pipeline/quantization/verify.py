"""Checks that a new .tflite file must pass before it replaces the old one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from pipeline.base.artifacts import ARTIFACTS
from pipeline.base.console import UserError
from pipeline.base.lazy import keras
from pipeline.inference.keras_files import is_convolution
from pipeline.inference.litert import (
    CONVOLUTIONS,
    Operator,
    open_interpreter,
    operators,
    predict_tflite,
)
from pipeline.inference.litert_private import operator_details
from pipeline.variants import VARIANTS

FLOATS = (np.float16, np.float32)
# Operators that convert between types, and XNNPACK's part of the graph, whose operators are listed.
BETWEEN_TYPES = ("QUANTIZE", "DEQUANTIZE", "DELEGATE")
LEAST_AGREEMENT = 0.90  # fraction of the pixels that must get the same class as from the model


def check(
    path: Path,
    variant: str,
    images: np.ndarray,
    expected: np.ndarray,
    source: str,
    mixed: bool = False,
) -> float:
    """Opens a new file, runs it, and compares it with the model that it was made from.

    Args:
        variant: a key of VARIANTS.
        images: uint8 (n, height, width, 3).
        expected: class indices that the model predicts, integers (n, height, width).
        source: what messages call the model: "original", "pruned" or "fine-tuned".
        mixed: whether operators of an int8 file may compute in float32.

    Returns:
        The fraction of the pixels that get the same class, 0..1, rounded to 5 decimals.

    Raises:
        UserError: LiteRT refuses the file, fewer than LEAST_AGREEMENT of the pixels agree, or
            `check_input` or `check_integers` fails.
    """
    try:
        interpreter = open_interpreter(path, made_here=True)
    except UserError as error:
        raise UserError(f"LiteRT refuses the new {variant} file: {error}") from None
    if VARIANTS[variant].activations == "int8":
        if not mixed:
            check_integers(interpreter, variant)
        check_input(interpreter, variant)
    agreement = float(np.mean(np.stack(list(predict_tflite(interpreter, images))) == expected))
    if agreement < LEAST_AGREEMENT:
        raise UserError(
            f"the {variant} file agrees with the {source} model on only {agreement:.1%} of "
            f"the pixels of {len(images)} validation images; try --calibration-images 500, "
            "or train for more epochs"
        )
    return round(agreement, 5)


def check_integers(interpreter: Interpreter, variant: str) -> None:
    """Raises UserError if a tensor of an int8 file is float16 or float32."""
    if layers := float_layers(interpreter):
        raise UserError(
            f"the {variant} file computes in float in {', '.join(layers)}; use other layers in "
            "pipeline/training/networks.py, or let these stay float: quantization.py --max-drop 1"
        )
    for tensor in interpreter.get_tensor_details():
        if tensor["dtype"] in FLOATS:
            raise UserError(f"the {variant} file has a tensor in float: {tensor['name']}")


def float_layers(interpreter: Interpreter) -> list[str]:
    """The layers of the network whose operators compute in float in an int8 file, each once.

    Operators between float and int8 are not counted.
    """
    tensors = {tensor["index"]: tensor for tensor in interpreter.get_tensor_details()}
    named: dict[str, None] = {}
    for node in operator_details(interpreter):
        output = tensors[node["outputs"][0]]
        if node["op_name"] not in BETWEEN_TYPES and output["dtype"] in FLOATS:
            named[Operator(node["op_name"], output["name"], 0, None).layer] = None
    return list(named)


def check_input(interpreter: Interpreter, variant: str) -> None:
    """Raises UserError if the input of an int8 file does not map pixels 0..255 to 0..1."""
    image = interpreter.get_input_details()[0]
    if image["dtype"] not in (np.int8, np.uint8):
        raise UserError(f"the {variant} input is {image['dtype'].__name__}, not an 8-bit pixel")
    scale, zero_point = image["quantization"]
    black = scale * (np.iinfo(image["dtype"]).min - zero_point)  # real value of pixel 0
    if not np.allclose((black, black + 255 * scale), (0, 1), atol=scale / 10):
        raise UserError(
            f"the {variant} input has scale {scale}, zero point {zero_point}, not that of a pixel"
        )


def kernel_zeros(content: bytes) -> dict[str, float]:
    """Fraction of zeros, 0..1, in the kernel of each operator in CONVOLUTIONS, by layer."""
    # XNNPACK would not expose the kernels.
    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=plain)
    interpreter.allocate_tensors()
    layers = {operator.tensor: operator.layer for operator in operators(content)}
    tensors = {tensor["index"]: tensor["name"] for tensor in interpreter.get_tensor_details()}
    zeros = {}
    for node in operator_details(interpreter):
        if node["op_name"] in CONVOLUTIONS:
            kernel = interpreter.get_tensor(node["inputs"][1])
            zeros[layers[tensors[node["outputs"][0]]]] = float(np.mean(kernel == 0))
    return zeros


def check_zeros(content: bytes, variant: str, model: keras.Model) -> float:
    """Checks that a file with int8 weights and activations kept the zeros of its source.

    Args:
        variant: a key of VARIANTS, whose source the model is.

    Returns:
        The fraction of zeros among the weights of its convolution kernels, 0..1, rounded to 4
        decimals.

    Raises:
        UserError: a kernel has fewer zeros than the Keras layer that it was made from.
    """
    fractions, zeros, weights = kernel_zeros(content), 0.0, 0
    source = VARIANTS[variant].source
    for layer in model.layers:
        if not is_convolution(layer) or layer.name not in fractions:
            continue
        kernel, fraction = layer.kernel.numpy(), fractions[layer.name]
        if fraction < np.mean(kernel == 0) - 1e-6:
            raise UserError(
                f"the {variant} file has {fraction:.1%} zeros in {layer.name}, the {source} model "
                f"{np.mean(kernel == 0):.1%}; make the model anew with: python "
                f"{ARTIFACTS[source][1]}"
            )
        zeros, weights = zeros + fraction * kernel.size, weights + kernel.size
    return round(zeros / max(1, weights), 4)
