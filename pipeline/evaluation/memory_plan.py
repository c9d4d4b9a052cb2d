"""Whether a .tflite file fits into a device: memory for activations, and how much it computes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ai_edge_litert import schema_py_generated as schema

from pipeline.inference.litert import Operator

ALIGNMENT = 16  # bytes: every tensor in TFLite Micro's arena begins at a multiple of it
TYPES = schema.TensorType
VALUE_BYTES = {
    **dict.fromkeys((TYPES.BOOL, TYPES.INT8, TYPES.UINT8), 1),
    **dict.fromkeys((TYPES.FLOAT16, TYPES.INT16, TYPES.UINT16), 2),
    **dict.fromkeys((TYPES.FLOAT32, TYPES.INT32, TYPES.UINT32), 4),
    **dict.fromkeys((TYPES.FLOAT64, TYPES.INT64, TYPES.UINT64), 8),
}
SUM_BYTES = {TYPES.INT8: 4, TYPES.INT16: 8}  # of a sum in a TRANSPOSE_CONV of such an input
KINDS = {code: kind for kind, code in vars(schema.BuiltinOperator).items() if kind[0] != "_"}


@dataclass(frozen=True)
class Plan:
    """What a .tflite file asks of a device, as `plan` finds it."""

    activation_bytes: int  # the arena of all activations; weights and bookkeeping come on top
    # What is alive at the operator where the arena is fullest: layer and bytes, largest first.
    peak: list[tuple[str, int]]
    multiply_accumulates: int  # per image


@dataclass(frozen=True)
class Buffer:
    """A part of the arena."""

    name: str
    size: int  # bytes
    # Operators while which it is needed, both included, from 1; 0 is before the first.
    first: int
    last: int

    @property
    def room(self) -> int:
        """Bytes that it takes in the arena."""
        return -(-self.size // ALIGNMENT) * ALIGNMENT


def plan(content: bytes) -> Plan:
    """Reads what a .tflite file needs from its tables; nothing is run.

    The arena is laid out as TFLite Micro's greedy planner does it, by size (Pisarchyk and Lee,
    *Efficient Memory Management for Deep Neural Net Inference*, 2020), for its reference kernels;
    for the files that it runs, int8 and float32, tests/test_tflite_micro.py compares.

    What counts are the tensors that change with the image: input, output and everything between,
    resized and requantised copies too, and the sums of a TRANSPOSE_CONV on integers, which that
    operator alone gathers in memory. What does not count: weights, which a device reads where the
    file lies; float16 weights unpacked by DEQUANTIZE, which LiteRT does once when it loads a file
    (TFLite Micro would do it anew for every image, but it refuses float16 as it does dynamic
    range); the int8 copies that dynamic range makes of single inputs; and working memory of
    optimised kernels (XNNPACK, CMSIS-NN).

    Args:
        content: a file with one image as its batch, as `conversion.convert` makes it.

    Raises:
        ValueError: no .tflite file, or one that holds what has no fixed place in memory: several
            subgraphs (loops and branches) or tensors without a fixed size (text).
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
        # The older of the two fields ends at 127.
        kinds.append(KINDS[max(code.builtinCode, code.deprecatedBuiltinCode)])
    constant = {
        index
        for index, tensor in enumerate(graph.tensors)
        # litert-quantizer puts weights behind the tables, see `tflite_files.compacted`.
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
    """Values in a tensor; of a single value, the format leaves the shape out."""
    return math.prod(map(int, [] if shape is None else shape))  # int: NumPy's would overflow


def buffers_of(graph: schema.SubGraphT, kinds: list[str], constant: set[int]) -> list[Buffer]:
    """What must lie in the arena and while which operators, tensors in their order first.

    Args:
        kinds: of the operators.
        constant: indices of the tensors whose values stand in the file.
    """
    lives = {int(index): [0, 0] for index in graph.inputs}
    names, sums = {index: "input" for index in lives}, []
    for step, (kind, operator) in enumerate(zip(kinds, graph.operators), 1):
        inputs = [int(index) for index in operator.inputs if index >= 0]  # -1: there is no bias
        outputs = [int(index) for index in operator.outputs]
        if kind == "DEQUANTIZE" and constant.issuperset(inputs):
            continue
        for index in outputs:
            lives[index] = [step, step]
            name = graph.tensors[index].name.decode()
            names[index] = Operator(kind, name, 0, None).layer
        for index in lives.keys() & set(inputs):
            lives[index][1] = step
        # Its inputs: the shape of its output, its kernel, what it works on.
        if kind == "TRANSPOSE_CONV" and graph.tensors[inputs[2]].type in SUM_BYTES:
            wide = SUM_BYTES[graph.tensors[inputs[2]].type]
            size = elements(graph.tensors[outputs[0]].shape) * wide
            sums.append(Buffer(f"{names[outputs[0]]} (sums)", size, step, step))
    for index in graph.outputs:
        if int(index) in lives:
            lives[int(index)][1] = len(kinds)
    found = []
    for index in sorted(lives):
        tensor = graph.tensors[index]
        if tensor.type not in VALUE_BYTES:
            raise ValueError(f"the tensor {names[index]} has no fixed size in memory")
        size = elements(tensor.shape) * VALUE_BYTES[tensor.type]
        found.append(Buffer(names[index], size, *lives[index]))
    return found + sums


def arena_bytes(buffers: list[Buffer]) -> int:
    """The arena that a greedy planner needs: the largest first, each in the first gap that fits.

    Of equally large ones the last comes first, as in TFLite Micro.
    """
    placed: list[tuple[int, Buffer]] = []  # where each begins
    for buffer in sorted(reversed(buffers), key=lambda buffer: -buffer.room):
        place = 0
        for start, other in sorted(placed, key=lambda one: one[0]):
            if other.first <= buffer.last and buffer.first <= other.last:
                if start - place >= buffer.room:
                    break
                place = max(place, start + other.room)
        placed.append((place, buffer))
    return max((start + buffer.room for start, buffer in placed), default=0)


def fullest(buffers: list[Buffer]) -> list[Buffer]:
    """The buffers that are alive together and take most room, the largest first.

    No plan can do with less than they take; the greedy one may need more.
    """
    moments = [
        [buffer for buffer in buffers if buffer.first <= step <= buffer.last]
        for step in sorted({buffer.first for buffer in buffers})
    ]
    alive = max(moments, key=lambda moment: sum(buffer.room for buffer in moment), default=[])
    return sorted(alive, key=lambda buffer: -buffer.size)


def multiply_accumulates(
    kind: str, operator: schema.OperatorT, tensors: list[schema.TensorT]
) -> int:
    """Multiplications that are added up in a convolution or a dense layer; 0 of any other.

    Windows that reach over the picture's edge count whole, as usual.
    """
    if kind not in ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED"):
        return 0
    kernel = tensors[operator.inputs[1]].shape  # (out, height, width, in) or (out, in)
    if kind == "TRANSPOSE_CONV":  # each input value goes into a window of every output channel
        return elements(tensors[operator.inputs[2]].shape) * elements(kernel[:3])
    # A depthwise kernel is (1, height, width, channels): each output has its own channel's window.
    products = elements(kernel[1:3] if kind == "DEPTHWISE_CONV_2D" else kernel[1:])
    return elements(tensors[operator.outputs[0]].shape) * products
