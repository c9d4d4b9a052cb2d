"""The one module for the tables of .tflite files: reading, changing and writing them.

`read_graph` gives a file's operators and tensors to whoever only looks; `tables` gives the whole
file as objects of the schema to whoever changes it, and `packed` writes these.
"""

from __future__ import annotations

import gzip
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flatbuffers
import h5py
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools.flatbuffer_utils import opcode_to_name, type_to_name

IDENTIFIER = b"TFL3"  # bytes 4 to 8 of a .tflite file
CONVOLUTIONS = ("CONV_2D", "TRANSPOSE_CONV")  # without depthwise ones: they mix no channels
WEIGHTS = ("float32", "float16", "int8")  # types of constants that are weights; see `is_weight`
FLOATS = ("float16", "float32")


class SharingBuilder(flatbuffers.Builder):
    """A flatbuffer builder that stores vectors of equal content once.

    The format allows several tables to refer to the same vector.
    """

    def __init__(self) -> None:
        super().__init__()
        self.offsets: dict[tuple[str, bytes], int] = {}  # of the vectors written, by their content

    def CreateNumpyVector(self, values: np.ndarray) -> int:
        """Writes a vector unless it is there already; returns its offset. `Pack` calls this."""
        content = values.tobytes()
        key = values.dtype.str, content
        if key not in self.offsets:
            # The schema asks for 16 bytes of alignment for weights, which microcontrollers read in
            # place; the library's own method aligns to the item size only.
            self.StartVector(values.itemsize, values.size, 16)
            self.head -= len(content)
            self.Bytes[self.head : self.head + len(content)] = content
            self.vectorNumElems = values.size
            self.offsets[key] = self.EndVector()
        return self.offsets[key]


# --- whole files ----------------------------------------------------------------------------


def tables(content: bytes) -> schema.ModelT:
    """Reads a .tflite file as objects of the schema, which may be changed.

    `flatbuffer_utils.read_model_from_bytearray` of LiteRT would do the same and more: it numbers
    the buffers anew and makes lists of the shapes, which `SharingBuilder` could not store once, so
    that files came out with other bytes (seen in ai-edge-litert 2.3.0).

    Raises:
        ValueError: this is no .tflite file.
    """
    if content[4:8] != IDENTIFIER:
        raise ValueError("this is no .tflite file")
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for buffer in model.buffers:
        if buffer.offset > 1:  # litert-quantizer stores weights behind the tables
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def packed(model: schema.ModelT) -> bytes:
    """Writes a .tflite file, with equal vectors stored once."""
    builder = SharingBuilder()
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def compacted(content: bytes) -> bytes:
    """Returns the same .tflite file with equal vectors stored once, without anything behind it.

    The converter stores a zero point of 8 bytes for every channel of every int8 kernel and bias,
    all of them 0: an eighth of the int8 file of the compact network.
    """
    return packed(tables(content))


# --- operators and tensors ------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of a .tflite file."""

    index: int  # in the file, and in an interpreter of it
    name: str
    shape: tuple[int, ...]
    type: str  # "float32", "int8", ...
    scale: float | None = None  # of the first channel; None if the tensor is not quantised
    zero_point: int | None = None
    data: np.ndarray | None = None  # the values of a constant, uint8 (bytes,)

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def limits(self) -> tuple[float, float] | None:
        """Smallest and largest real value that it can represent; None if it is not int8."""
        if self.type != "int8" or self.scale is None or self.zero_point is None:
            return None
        return self.scale * (-128 - self.zero_point), self.scale * (127 - self.zero_point)

    @property
    def is_weight(self) -> bool:
        """Whether it is a constant that was trained; plain int32 ones are shapes and the like."""
        quantised_bias = self.type == "int32" and self.scale is not None
        return self.data is not None and (self.type in WEIGHTS or quantised_bias)

    def values(self) -> np.ndarray:
        """The values of a constant, flat, in its type."""
        assert self.data is not None, "the tensor is a constant"
        return self.data.view(self.type)


@dataclass(frozen=True, eq=False)
class Operator:
    """An operator of a .tflite file."""

    kind: str  # LiteRT's name of the operation, as "CONV_2D"
    inputs: list[Tensor]  # without optional ones that are absent, as a bias
    outputs: list[Tensor]

    @property
    def tensor(self) -> str:
        """Name of the first output."""
        return self.outputs[0].name

    @property
    def layer(self) -> str:
        """Name of the Keras layer that it was made from; of fused layers, the convolution.

        The kind in lower case if the tensor's name does not tell.
        """
        parts = self.tensor.split(";")[-1].split("/")  # network/layer/operation
        return parts[1] if len(parts) > 2 else self.kind.lower()

    @property
    def kernel(self) -> Tensor | None:
        """The kernel (out, height, width, in) of an operator in CONVOLUTIONS; None for others."""
        return self.inputs[1] if self.kind in CONVOLUTIONS else None

    @property
    def depth(self) -> int:
        """Products per sum of an operator in CONVOLUTIONS; 0 for all others."""
        return math.prod(self.kernel.shape[1:]) if self.kernel else 0

    @property
    def limits(self) -> tuple[float, float] | None:
        """Smallest and largest real value of the output; None if it is not int8."""
        return self.outputs[0].limits

    @property
    def unpacks(self) -> bool:
        """Whether all that it reads is constant, as DEQUANTIZE of float16 weights."""
        return all(tensor.data is not None for tensor in self.inputs)


@dataclass(frozen=True, eq=False)
class Graph:
    """What a .tflite file computes: its first subgraph."""

    inputs: list[Tensor]
    outputs: list[Tensor]
    tensors: list[Tensor]
    operators: list[Operator]  # in the order of execution
    subgraphs: int  # of the file; more than one: it has loops or branches


def read_graph(content: bytes) -> Graph:
    """Reads the operators and tensors of a .tflite file; raises ValueError if it is none."""
    model = tables(content)
    graph = model.subgraphs[0]
    tensors = [read_tensor(model, index) for index in range(len(graph.tensors))]

    def present(indices: Any) -> list[Tensor]:  # -1: an optional input that is absent
        return [tensors[index] for index in vector(indices) if index >= 0]

    operators = [
        Operator(
            str(opcode_to_name(model, operator.opcodeIndex)),
            present(operator.inputs),
            present(operator.outputs),
        )
        for operator in graph.operators
    ]
    return Graph(
        present(graph.inputs), present(graph.outputs), tensors, operators, len(model.subgraphs)
    )


def read_tensor(model: schema.ModelT, index: int) -> Tensor:
    """A tensor of the first subgraph of a file."""
    table = model.subgraphs[0].tensors[index]
    name, kind = (table.name or b"").decode(), type_to_name(table.type).lower()
    scaling, scale, zero_point = table.quantization, None, None
    if scaling is not None and len(vector(scaling.scale)):
        scale, zero_point = float(scaling.scale[0]), int((*vector(scaling.zeroPoint), 0)[0])
    shape, data = tuple(map(int, vector(table.shape))), model.buffers[table.buffer].data
    return Tensor(index, name, shape, kind, scale, zero_point, data)


def vector(values: Any) -> Any:
    """A vector of the schema; empty if the file leaves it out, as the shape of a scalar."""
    return () if values is None else values


def operators(content: bytes) -> list[Operator]:
    """The operators of a .tflite file in the order of execution."""
    return read_graph(content).operators


# --- sizes ----------------------------------------------------------------------------------


def gzip_bytes(path: Path) -> int:
    """Size of a file after gzip -9, in bytes: about the size of a download."""
    return len(gzip.compress(path.read_bytes(), 9, mtime=0))


def tflite_weights(path: Path) -> list[np.ndarray]:
    """Reads the weights of a .tflite file: float32, float16, int8, and quantised int32 (biases).

    Returns:
        One flat array per tensor.
    """
    tensors = read_graph(path.read_bytes()).tensors
    return [tensor.values() for tensor in tensors if tensor.is_weight]


def keras_weights(path: Path) -> list[np.ndarray]:
    """Reads all weights of an .h5 file without building the model, which would take a second."""
    weights = []
    with h5py.File(path) as file:

        def collect(_: str, item: h5py.Dataset | h5py.Group) -> None:
            if isinstance(item, h5py.Dataset):
                weights.append(item[()])

        file["model_weights"].visititems(collect)
    return weights


def weight_counts(path: Path) -> tuple[int, int]:
    """Counts the parameters of an .h5 or .tflite file: all, and those that are not zero.

    The moving averages of batch normalisation in an .h5 file count; conversion folds them into
    the weights.
    """
    arrays = keras_weights(path) if path.suffix == ".h5" else tflite_weights(path)
    parameters = sum(array.size for array in arrays)
    return parameters, sum(int(np.count_nonzero(array)) for array in arrays)
