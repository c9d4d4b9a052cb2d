"""What a .tflite file must hold before it replaces the old one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from pipeline.base.console import UserError
from pipeline.base.lazy import keras
from pipeline.inference.keras_files import is_convolution
from pipeline.inference.litert import CONVOLUTIONS, open_interpreter, operators, predict_tflite
from pipeline.inference.litert_private import operator_details
from pipeline.variants import VARIANTS

LEAST_AGREEMENT = 0.90  # share of pixels of the same class, below which a file is refused


def check(
    path: Path,
    variant: str,
    images: np.ndarray,
    expected: np.ndarray,
    mixed: bool = False,
) -> float:
    """Opens a written file and compares it with the model it came from.

    Args:
        images: uint8 (n, height, width, 3).
        expected: the source's class indices (n, height, width).
        mixed: whether an int8 file may hold float operators.

    Returns:
        The share of pixels on which both agree.

    Raises:
        UserError: too little agreement, or an int8 file that computes in float or whose
            input is not a plain pixel.
    """
    try:
        interpreter = open_interpreter(path, made_here=True)
    except UserError as error:
        raise UserError(f"LiteRT does not take the {variant} file that was made: {error}") from None
    if VARIANTS[variant].activations == "int8" and not mixed:
        check_integers(interpreter, variant)
    agreement = float(np.mean(np.stack(list(predict_tflite(interpreter, images))) == expected))
    if agreement < LEAST_AGREEMENT:
        raise UserError(
            f"the {variant} file agrees with the pruned model on only {agreement:.1%} of the "
            f"pixels of {len(images)} validation images; try --calibration-images 500, "
            "or train for longer"
        )
    return round(agreement, 5)


def check_integers(interpreter: Interpreter, variant: str) -> None:
    """Raises UserError if a file computes in float, or pixels 0..255 do not mean 0..1 to it."""
    for tensor in interpreter.get_tensor_details():
        if tensor["dtype"] in (np.float16, np.float32):
            raise UserError(
                f"the {variant} file computes in float at {tensor['name']}; "
                "replace that layer in pipeline/training/networks.py"
            )
    slot = interpreter.get_input_details()[0]
    scale, zero_point = slot["quantization"]
    first = scale * (np.iinfo(slot["dtype"]).min - zero_point)
    if not np.allclose((first, first + 255 * scale), (0, 1), atol=scale / 10):
        raise UserError(
            f"the {variant} input has scale {scale}, zero point {zero_point}, not that of a pixel"
        )


def kernel_zeros(content: bytes) -> dict[str, float]:
    """Share of zeros in the kernel of each convolution of a .tflite file, by layer."""
    # XNNPACK would keep the kernels to itself.
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


def check_zeros(content: bytes, model: keras.Model) -> float:
    """The share of zeros in an int8 file's convolution kernels, weighted by size.

    Raises:
        UserError: a kernel has fewer zeros than the Keras layer it came from: the pruning was
            lost.
    """
    found, zeros, weights = kernel_zeros(content), 0.0, 0
    for layer in model.layers:
        if not is_convolution(layer) or layer.name not in found:
            continue
        kernel, share = layer.kernel.numpy(), found[layer.name]
        if share < np.mean(kernel == 0) - 1e-6:
            raise UserError(
                f"the int8 file has {share:.1%} zeros in {layer.name}, the pruned model "
                f"{np.mean(kernel == 0):.1%}; make it anew with: python pruning.py"
            )
        zeros, weights = zeros + share * kernel.size, weights + kernel.size
    return round(zeros / max(1, weights), 4)
