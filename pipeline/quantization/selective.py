"""litert-quantizer on float32 files: single operators in int8, dynamic range where it pays."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pipeline.base.console import silenced
from pipeline.base.lazy import quantizer, quantizer_algorithms, quantizer_types
from pipeline.inference.litert import Operator, operators
from pipeline.quantization.calibration import Range

DYNAMIC_DEPTH = 64  # products per sum of a convolution, from which dynamic range pays
ENDS = ("min", "max")
INT8 = {"activation_num_bits": 8, "weight_num_bits": 8}


def recipe_scope(operator: Operator) -> dict[str, Any]:
    """How litert-quantizer's recipes name one operator."""
    kind = {"TRANSPOSE_CONV": "CONV_2D_TRANSPOSE"}.get(operator.kind, operator.kind)
    name = quantizer_types.TFLOperationName(kind)
    return {"regex": f"^{re.escape(operator.tensor)};?$", "operation_name": name}


def every_operator() -> dict[str, Any]:
    """The scope of all operators that the library can quantise."""
    return {"regex": ".*", "operation_name": quantizer_types.TFLOperationName.ALL_SUPPORTED}


def dynamic_range_operators(content: bytes) -> list[Operator]:
    """The operators of a float32 file to which dynamic range is applied.

    Activations are quantised while it runs: every input value is read twice more, and each is
    used once per output channel. Depthwise convolutions with int8 weights leave XNNPACK
    altogether. So the converter's own dynamic range, which quantises everything, is slower than
    float32 on a network of depthwise blocks. Here only convolutions with long sums are quantised
    (docs/choices.md has the measurements).
    """
    return [operator for operator in operators(content) if operator.depth >= DYNAMIC_DEPTH]


def quantise_dynamic(content: bytes, chosen: Iterable[Operator]) -> bytes:
    """A float32 file with int8 weights in the chosen operators, activations int8 as it runs."""
    chosen = list(chosen)
    if not chosen:  # a network without long sums: float32 throughout is what pays
        return content
    job = quantizer.Quantizer(bytearray(content))
    for operator in chosen:
        job.add_dynamic_config(**recipe_scope(operator), num_bits=8)
    return _file(job)


def quantise_static(
    content: bytes,
    ranges: dict[str, Range],
    *,
    only: Operator | None = None,
    but: Sequence[Operator] = (),
) -> bytes:
    """A float32 file with `only` one operator in int8, or all `but` some.

    Input and output are int8 in the second case. `ranges`: see `activation_ranges`.
    """
    job = quantizer.Quantizer(bytearray(content))
    job.add_static_config(**(recipe_scope(only) if only else every_operator()), **INT8)
    for operator in but:
        kept_float = quantizer_algorithms.AlgorithmName.NO_QUANTIZE
        job.update_quantization_recipe(**recipe_scope(operator), algorithm_key=kept_float)
    limits = {
        name: {end: np.full((1, 1, 1, 1), value, np.float32) for end, value in zip(ENDS, values)}
        for name, values in ranges.items()
    }
    return _file(job, limits)


def _file(job: Any, ranges: dict[str, Any] | None = None) -> bytes:
    """The file that a job makes, without what the library prints."""
    quiet = {"enable_progress_bar": False, "enable_progress_report": False}
    with silenced():
        return bytes(job.quantize(*([ranges] if ranges else []), **quiet).quantized_model)
