"""Quantise chosen operators of a float32 .tflite file with litert-quantizer."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pipeline.base.console import silenced
from pipeline.base.lazy import quantizer, quantizer_algorithms, quantizer_types
from pipeline.inference.tflite_files import Operator, operators, packed, schema, tables
from pipeline.quantization.calibration import Range

DYNAMIC_DEPTH = 64  # products per sum from which a convolution is faster with dynamic range
FLOAT_ONLY = ("DEPTH_TO_SPACE",)  # operators that litert-quantizer names and cannot quantise
ENDS = ("min", "max")  # litert-quantizer's names for the ends of a range
INT8 = {"activation_num_bits": 8, "weight_num_bits": 8}


def has_int8_form(operator: Operator) -> bool:
    """Whether litert-quantizer can quantise an operator; all others stay float in its files."""
    kinds = {name.value for name in quantizer_types.TFLOperationName}
    return recipe_name(operator) in kinds - set(FLOAT_ONLY)


def recipe_name(operator: Operator) -> str:
    """What litert-quantizer calls the kind of an operator."""
    return {"TRANSPOSE_CONV": "CONV_2D_TRANSPOSE"}.get(operator.kind, operator.kind)


def recipe_scope(operator: Operator) -> dict[str, Any]:
    """The arguments that select one operator in a recipe of litert-quantizer."""
    name = quantizer_types.TFLOperationName(recipe_name(operator))
    return {"regex": f"^{re.escape(operator.tensor)};?$", "operation_name": name}


def every_operator() -> dict[str, Any]:
    """The arguments that select all operators that the library can quantise."""
    return {"regex": ".*", "operation_name": quantizer_types.TFLOperationName.ALL_SUPPORTED}


def dynamic_range_operators(content: bytes) -> list[Operator]:
    """Selects the operators of a float32 file that are faster with dynamic-range quantisation.

    These are the convolutions with at least DYNAMIC_DEPTH products per sum. Dynamic range
    quantises activations at run time, which reads every input value twice more; that pays only if
    the convolution itself is large. XNNPACK does not run depthwise convolutions with int8 weights
    at all. TensorFlow's converter quantises every operator, and on a network of depthwise blocks
    the file is then slower than float32 (measurements: docs/choices.md).
    """
    return [operator for operator in operators(content) if operator.depth >= DYNAMIC_DEPTH]


def quantise_dynamic(content: bytes, chosen: Iterable[Operator]) -> bytes:
    """Applies dynamic range to the chosen operators of a float32 file.

    Their weights become int8; their activations stay float32 and are quantised at run time. The
    file is returned as it is if no operator is chosen.
    """
    chosen = list(chosen)
    if not chosen:  # litert-quantizer refuses an empty recipe
        return content
    job = quantizer.Quantizer(bytearray(content))
    for operator in chosen:
        job.add_dynamic_config(**recipe_scope(operator), num_bits=8)
    return quantised_file(job)


def quantise_static(
    content: bytes,
    ranges: dict[str, Range],
    *,
    only: Operator | None = None,
    but: Sequence[Operator] = (),
) -> bytes:
    """Quantises operators of a float32 file, weights and activations, to int8.

    Args:
        ranges: of the activations, as from `activation_ranges`.
        only: the one operator to quantise; None for all.
        but: operators that stay float32 if all are quantised. The file's input and output are
            int8 then.
    """
    job = quantizer.Quantizer(bytearray(content))
    job.add_static_config(**(recipe_scope(only) if only else every_operator()), **INT8)
    for operator in but:
        no_quantization = quantizer_algorithms.AlgorithmName.NO_QUANTIZE
        job.update_quantization_recipe(**recipe_scope(operator), algorithm_key=no_quantization)
    limits = {
        name: {end: np.full((1, 1, 1, 1), value, np.float32) for end, value in zip(ENDS, values)}
        for name, values in ranges.items()
    }
    return quantised_file(job, limits)


def with_types(content: bytes, input_type: str, output_type: str) -> bytes:
    """Gives a file with int8 input and output other types: adds a QUANTIZE operator at that end.

    The real values stay the same: as uint8, a value and its zero point are 128 larger.

    Args:
        content: a file with one input and one output, both int8.
        input_type, output_type: "int8" or "uint8". `content` is returned if both are int8.
    """
    if (input_type, output_type) == ("int8", "int8"):
        return content
    model = tables(content)
    graph = model.subgraphs[0]
    if input_type == "uint8":
        inner, outer = int(graph.inputs[0]), add_uint8_form(graph, int(graph.inputs[0]))
        graph.operators.insert(0, quantize_operator(model, outer, inner))
        graph.inputs = [outer]
        rename_in_signatures(model, "inputs", inner, outer)
    if output_type == "uint8":
        inner, outer = int(graph.outputs[0]), add_uint8_form(graph, int(graph.outputs[0]))
        graph.operators.append(quantize_operator(model, inner, outer))
        graph.outputs = [outer]
        rename_in_signatures(model, "outputs", inner, outer)
    return packed(model)


def add_uint8_form(graph: schema.SubGraphT, index: int) -> int:
    """Adds a tensor like the int8 tensor `index` but in uint8, which takes its name; its index."""
    tensor = graph.tensors[index]
    other, scaling = copy.copy(tensor), copy.copy(tensor.quantization)
    other.type, other.quantization, other.buffer = schema.TensorType.UINT8, scaling, 0
    scaling.zeroPoint = [int(scaling.zeroPoint[0]) + 128]
    tensor.name += b"_int8"
    graph.tensors.append(other)
    return len(graph.tensors) - 1


def quantize_operator(model: schema.ModelT, source: int, target: int) -> schema.OperatorT:
    """An operator that converts a tensor to the type, scale and zero point of another one."""
    code, operator = schema.OperatorCodeT(), schema.OperatorT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.QUANTIZE
    code.version = 1
    operator.opcodeIndex = len(model.operatorCodes)
    operator.inputs, operator.outputs = [source], [target]
    model.operatorCodes.append(code)
    return operator


def rename_in_signatures(model: schema.ModelT, end: str, before: int, after: int) -> None:
    """Lets signatures name another tensor as their input or output (`end`: "inputs", "outputs")."""
    for signature in model.signatureDefs or []:
        for entry in getattr(signature, end):
            if entry.tensorIndex == before:
                entry.tensorIndex = after


def quantised_file(job: Any, ranges: dict[str, Any] | None = None) -> bytes:
    """Runs a `quantizer.Quantizer` without its output on the terminal; returns the file."""
    quiet = {"enable_progress_bar": False, "enable_progress_report": False}
    with silenced():
        return bytes(job.quantize(*([ranges] if ranges else []), **quiet).quantized_model)
