"""Estimate what a .tflite file needs of a device: activation memory and multiply-accumulates."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.inference.tflite_files import Graph, Operator, Tensor, read_graph

ALIGNMENT = 16  # bytes; every tensor in TFLite Micro's arena starts at a multiple of it
# Bytes of an accumulator in TRANSPOSE_CONV, by the type of its input; it has none for floats.
ACCUMULATOR_BYTES = {"int8": 4, "int16": 8}


@dataclass(frozen=True)
class Plan:
    """What a .tflite file needs of a device, as `plan` determines it."""

    activation_bytes: int  # size of the arena for activations; weights and bookkeeping not included
    # Buffers in use at the operator where they take most memory: layer and bytes, largest first.
    peak: list[tuple[str, int]]
    multiply_accumulates: int  # per image


@dataclass(frozen=True)
class Buffer:
    """A tensor, or the accumulators of an operator, in the arena."""

    name: str
    size: int  # bytes
    # First and last operator that needs it, counted from 1; 0 means before the first operator.
    first: int
    last: int

    @property
    def aligned_size(self) -> int:
        """Bytes that it occupies in the arena."""
        return -(-self.size // ALIGNMENT) * ALIGNMENT


def plan(content: bytes) -> Plan:
    """Computes what a .tflite file needs, from its tables; nothing is run.

    The arena is laid out by the greedy algorithm of TFLite Micro (by size; Pisarchyk and Lee 2020,
    *Efficient Memory Management for Deep Neural Net Inference*), for its reference kernels.
    tests/interop/test_tflite_micro.py compares the result with TFLite Micro for the files that it
    runs, int8 and float32.

    Counted are the tensors that depend on the image (input, output and all between, resized and
    requantised copies included) and the accumulators of a TRANSPOSE_CONV on integers, the only
    operator that keeps them in memory. Not counted are weights, which a device reads in place;
    float16 weights unpacked by DEQUANTIZE, which LiteRT does once on loading (TFLite Micro would
    do it for every image, but refuses float16, as it refuses dynamic range); the int8 copies of
    inputs that dynamic range makes; and buffers of optimised kernels (XNNPACK, CMSIS-NN).

    Args:
        content: a file with batch size 1, as from `convert.convert`.

    Raises:
        ValueError: this is no .tflite file, or its memory has no fixed plan: it has several
            subgraphs (loops or branches) or tensors without a fixed size (strings).
    """
    graph = read_graph(content)
    if graph.subgraphs > 1:
        raise ValueError("a network with loops or branches has no fixed plan of its memory")
    buffers = buffers_of(graph)
    return Plan(
        activation_bytes=arena_bytes(buffers),
        peak=[(buffer.name, buffer.size) for buffer in fullest(buffers)],
        multiply_accumulates=sum(map(multiply_accumulates, graph.operators)),
    )


def buffers_of(graph: Graph) -> list[Buffer]:
    """Lists the buffers of the arena: tensors in the order of the file, then accumulators.

    Raises:
        ValueError: a tensor has no fixed size.
    """
    names = {tensor.index: "input" for tensor in graph.inputs}
    names |= {out.index: operator.layer for operator in graph.operators for out in operator.outputs}
    buffers = [
        Buffer(names[index], size_of(graph.tensors[index], names[index]), *life)
        for index, life in sorted(lifetimes(graph).items())
    ]
    for step, operator in enumerate(graph.operators, 1):
        if size := accumulator_bytes(operator):
            buffers.append(Buffer(f"{operator.layer} (sums)", size, step, step))
    return buffers


def lifetimes(graph: Graph) -> dict[int, tuple[int, int]]:
    """First and last operator, as in `Buffer`, that needs each tensor in the arena, by index.

    Constants, and weights that DEQUANTIZE unpacks, are not in it. The graph's outputs are needed
    to the end.
    """
    lives = {tensor.index: (0, 0) for tensor in graph.inputs}
    for step, operator in enumerate(graph.operators, 1):
        if operator.kind == "DEQUANTIZE" and operator.unpacks:
            continue
        lives |= {tensor.index: (step, step) for tensor in operator.outputs}
        read = {tensor.index for tensor in operator.inputs} & lives.keys()
        lives |= {index: (lives[index][0], step) for index in read}
    kept = {tensor.index for tensor in graph.outputs} & lives.keys()
    return lives | {index: (lives[index][0], len(graph.operators)) for index in kept}


def accumulator_bytes(operator: Operator) -> int:
    """Bytes of the sums that an operator keeps in the arena; 0 for all but TRANSPOSE_CONV."""
    if operator.kind != "TRANSPOSE_CONV":
        return 0
    *_, image = operator.inputs[:3]  # after the output's shape and the kernel
    return operator.outputs[0].elements * ACCUMULATOR_BYTES.get(image.type, 0)


def size_of(tensor: Tensor, name: str) -> int:
    """Bytes of a tensor; raises ValueError if it has no fixed size, as strings."""
    try:
        return tensor.elements * np.dtype(tensor.type).itemsize
    except TypeError:
        raise ValueError(f"the tensor {name} has no fixed size in memory") from None


def arena_bytes(buffers: list[Buffer]) -> int:
    """Size of the arena after greedy planning: largest buffer first, each into the first gap.

    Among buffers of equal size the last one is placed first, as in TFLite Micro.
    """
    placed: list[tuple[int, Buffer]] = []  # with their offsets
    for buffer in sorted(reversed(buffers), key=lambda buffer: -buffer.aligned_size):
        offset = 0
        for start, other in sorted(placed, key=lambda entry: entry[0]):
            if other.first <= buffer.last and buffer.first <= other.last:  # in use together
                if start - offset >= buffer.aligned_size:
                    break
                offset = max(offset, start + other.aligned_size)
        placed.append((offset, buffer))
    return max((start + buffer.aligned_size for start, buffer in placed), default=0)


def fullest(buffers: list[Buffer]) -> list[Buffer]:
    """The buffers in use at the operator where they take most memory, largest first.

    Their sum is a lower bound for every plan; the greedy one may need more.
    """
    in_use = [
        [buffer for buffer in buffers if buffer.first <= step <= buffer.last]
        for step in sorted({buffer.first for buffer in buffers})
    ]
    peak = max(in_use, key=lambda group: sum(buffer.aligned_size for buffer in group), default=[])
    return sorted(peak, key=lambda buffer: -buffer.size)


def multiply_accumulates(operator: Operator) -> int:
    """Multiply-accumulates of a convolution or dense layer; 0 for any other operator.

    Windows that reach into the padding count in full, as is usual.
    """
    if operator.kind not in ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED"):
        return 0
    kernel = operator.inputs[1].shape  # (out, height, width, in) or (out, in)
    if operator.kind == "TRANSPOSE_CONV":  # every input value times the whole kernel of its channel
        return operator.inputs[2].elements * math.prod(kernel[:3])
    # A depthwise kernel is (1, height, width, channels); an output uses one channel of it.
    products = math.prod(kernel[1:3] if operator.kind == "DEPTHWISE_CONV_2D" else kernel[1:])
    return operator.outputs[0].elements * products
