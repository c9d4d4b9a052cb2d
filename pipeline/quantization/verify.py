"""Checks that a new .tflite file must pass before it replaces the old one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.base.console import UserError
from pipeline.base.lazy import keras
from pipeline.inference.keras_files import is_convolution
from pipeline.inference.models import open_model
from pipeline.inference.tflite_files import FLOATS, Tensor, operators, read_graph
from pipeline.variants import VARIANTS

BETWEEN_TYPES = ("QUANTIZE", "DEQUANTIZE")  # operators
LEAST_AGREEMENT = 0.90  # fraction of the pixels that must get the same class as from the model


class Disagreement(UserError):
    """A file gives too many pixels another class than the model that it was made from."""


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
        Disagreement: fewer than LEAST_AGREEMENT of the pixels agree.
        UserError: LiteRT refuses the file, or `check_input` or `check_integers` fails.
    """
    try:
        model = open_model(path, made_here=True)
    except UserError as error:
        raise UserError(f"LiteRT refuses the new {variant} file: {error}") from None
    if VARIANTS[variant].activations == "int8":
        content = path.read_bytes()
        if not mixed:
            check_integers(content, variant)
        check_input(read_graph(content).inputs[0], variant)
    agreement = float(np.mean(model.class_maps(images) == expected))
    if agreement < LEAST_AGREEMENT:
        raise Disagreement(
            f"the {variant} file agrees with the {source} model on only {agreement:.1%} of "
            f"the pixels of {len(images)} validation images; try --calibration-images 500, "
            "or train for more epochs"
        )
    return round(agreement, 5)


def check_integers(content: bytes, variant: str) -> None:
    """Raises UserError if a tensor of an int8 file is float16 or float32."""
    if layers := float_layers(content):
        raise UserError(
            f"the {variant} file computes in float in {', '.join(layers)}; use other layers in "
            "pipeline/training/networks.py, or let these stay float: quantization.py --max-drop 1"
        )
    for tensor in read_graph(content).tensors:
        if tensor.type in FLOATS:
            raise UserError(f"the {variant} file has a tensor in float: {tensor.name}")


def float_layers(content: bytes) -> list[str]:
    """The layers of the network whose operators compute in float in an int8 file, each once.

    Operators between float and int8 are not counted.
    """
    computing = (one for one in operators(content) if one.kind not in BETWEEN_TYPES)
    return list(dict.fromkeys(one.layer for one in computing if one.outputs[0].type in FLOATS))


def check_input(image: Tensor, variant: str) -> None:
    """Raises UserError if the input of an int8 file does not map pixels 0..255 to 0..1."""
    if image.type not in ("int8", "uint8"):
        raise UserError(f"the {variant} input is {image.type}, not an 8-bit pixel")
    scale, zero_point = image.scale or 0.0, image.zero_point or 0
    black = scale * (np.iinfo(image.type).min - zero_point)  # real value of pixel 0
    if not np.allclose((black, black + 255 * scale), (0, 1), atol=scale / 10):
        raise UserError(
            f"the {variant} input has scale {scale}, zero point {zero_point}, not that of a pixel"
        )


def kernel_zeros(content: bytes) -> dict[str, float]:
    """Fraction of zeros, 0..1, in the kernel of each operator in CONVOLUTIONS, by layer.

    Left out are kernels that the file unpacks first, as float16 ones.
    """
    kernels = {operator.layer: operator.kernel for operator in operators(content)}
    constants = {layer: kernel for layer, kernel in kernels.items() if kernel and kernel.is_weight}
    return {layer: float(np.mean(kernel.values() == 0)) for layer, kernel in constants.items()}


def check_zeros(content: bytes, variant: str, model: keras.Model, remedy: str) -> float:
    """Checks that a file with int8 weights and activations kept the zeros of its source.

    Args:
        variant: a key of VARIANTS, whose source the model is.
        remedy: the command that makes the model anew.

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
                f"{np.mean(kernel == 0):.1%}; make the model anew with: {remedy}"
            )
        zeros, weights = zeros + fraction * kernel.size, weights + kernel.size
    return round(zeros / max(1, weights), 4)
