"""Estimate what a .tflite file needs of a device: activation memory and multiply-accumulates."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ai_edge_litert import schema_py_generated as schema

from pipeline.inference.litert import Operator

ALIGNMENT = 16  # bytes; every tensor in TFLite Micro's arena starts at a multiple of it
TYPES = schema.TensorType
VALUE_BYTES = {
    **dict.fromkeys((TYPES.BOOL, TYPES.INT8, TYPES.UINT8), 1),
    **dict.fromkeys((TYPES.FLOAT16, TYPES.INT16, TYPES.UINT16), 2),
    **dict.fromkeys((TYPES.FLOAT32, TYPES.INT32, TYPES.UINT32), 4),
    **dict.fromkeys((TYPES.FLOAT64, TYPES.INT64, TYPES.UINT64), 8),
}
# Bytes of an accumulator in TRANSPOSE_CONV, by the type of its input.
ACCUMULATOR_BYTES = {TYPES.INT8: 4, TYPES.INT16: 8}
KINDS = {code: kind for kind, code in vars(schema.BuiltinOperator).items() if kind[0] != "_"}


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
    if content[4:8] != b"TFL3":
        raise ValueError("this is no .tflite file")
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    if len(model.subgraphs) > 1:
        raise ValueError("a network with loops or branches has no fixed plan of its memory")
    graph = model.subgraphs[0]
    kinds = []
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        # The deprecated field cannot hold codes above 127; an absent field reads as 0.
        kinds.append(KINDS[max(code.builtinCode, code.deprecatedBuiltinCode)])
    constant = {
        index
        for index, tensor in enumerate(graph.tensors)
        # litert-quantizer stores weights behind the tables, see `tflite_files.compacted`.
        if model.buffers[tensor.buffer].data is not None or model.buffers[tensor.buffer].offset > 1
    }
    buffers = buffers_of(graph, kinds, constant)
    return Plan(
        activation_bytes=arena_bytes(buffers),
        peak=[(buffer.name, buffer.size) for buffer in fullest(buffers)],
        multiply_accumulates=sum(
            multiply_accumulates(kind, operator, graph.tensors)
            for kind, operator in zip(kinds, graph.operators)
        ),
    )


def elements(shape: list[int] | None) -> int:
    """Number of elements of a tensor; the format omits the shape of a scalar."""
    return math.prod(map(int, [] if shape is None else shape))  # NumPy's integers could overflow


def buffers_of(graph: schema.SubGraphT, kinds: list[str], constant: set[int]) -> list[Buffer]:
    """Lists the buffers of the arena: tensors in the order of the file, then accumulators.

    Args:
        kinds: names of the operators, in the order of execution.
        constant: indices of the tensors whose values are in the file.

    Raises:
        ValueError: a tensor has no fixed size.
    """
    lives = {int(index): [0, 0] for index in graph.inputs}
    names, accumulators = {index: "input" for index in lives}, []
    for step, (kind, operator) in enumerate(zip(kinds, graph.operators), 1):
        inputs = [int(index) for index in operator.inputs if index >= 0]  # -1: no bias
        outputs = [int(index) for index in operator.outputs]
        if kind == "DEQUANTIZE" and constant.issuperset(inputs):
            continue
        for index in outputs:
            lives[index] = [step, step]
            name = graph.tensors[index].name.decode()
            names[index] = Operator(kind, name, 0, None).layer
        for index in lives.keys() & set(inputs):
            lives[index][1] = step
        # The inputs of a TRANSPOSE_CONV are the output's shape, the kernel and the activations.
        if kind == "TRANSPOSE_CONV" and graph.tensors[inputs[2]].type in ACCUMULATOR_BYTES:
            width = ACCUMULATOR_BYTES[graph.tensors[inputs[2]].type]
            size = elements(graph.tensors[outputs[0]].shape) * width
            accumulators.append(Buffer(f"{names[outputs[0]]} (sums)", size, step, step))
    for index in graph.outputs:
        if int(index) in lives:
            lives[int(index)][1] = len(kinds)
    buffers = []
    for index in sorted(lives):
        tensor = graph.tensors[index]
        if tensor.type not in VALUE_BYTES:
            raise ValueError(f"the tensor {names[index]} has no fixed size in memory")
        size = elements(tensor.shape) * VALUE_BYTES[tensor.type]
        buffers.append(Buffer(names[index], size, *lives[index]))
    return buffers + accumulators


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


def multiply_accumulates(
    kind: str, operator: schema.OperatorT, tensors: list[schema.TensorT]
) -> int:
    """Multiply-accumulates of a convolution or dense layer; 0 for any other operator.

    Windows that reach into the padding count in full, as is usual.
    """
    if kind not in ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED"):
        return 0
    kernel = tensors[operator.inputs[1]].shape  # (out, height, width, in) or (out, in)
    if kind == "TRANSPOSE_CONV":  # every input value times the whole kernel of its channel
        return elements(tensors[operator.inputs[2]].shape) * elements(kernel[:3])
    # A depthwise kernel is (1, height, width, channels); an output uses one channel of it.
    products = elements(kernel[1:3] if kind == "DEPTHWISE_CONV_2D" else kernel[1:])
    return elements(tensors[operator.outputs[0]].shape) * products
