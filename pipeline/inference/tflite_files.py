"""The content of .tflite files as tables: compact storage, and the number of weights."""

from __future__ import annotations

import gzip
from pathlib import Path

import flatbuffers
import h5py
import numpy as np
from ai_edge_litert import schema_py_generated as schema


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


def compacted(content: bytes) -> bytes:
    """Returns the same .tflite file with equal vectors stored once, without anything behind it.

    The converter stores a zero point of 8 bytes for every channel of every int8 kernel and bias,
    all of them 0: an eighth of the int8 file of the compact network.
    """
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for buffer in model.buffers:
        if buffer.offset > 1:  # litert-quantizer stores weights behind the tables
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    builder = SharingBuilder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def gzip_bytes(path: Path) -> int:
    """Size of a file after gzip -9, in bytes: about the size of a download."""
    return len(gzip.compress(path.read_bytes(), 9, mtime=0))


def tflite_weights(path: Path) -> list[np.ndarray]:
    """Reads the weights of a .tflite file: float32, float16, int8, and quantised int32 (biases).

    Plain int32 constants are left out: they are shapes and the like.

    Returns:
        One flat array per tensor.
    """
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    kinds = {
        schema.TensorType.FLOAT32: np.float32,
        schema.TensorType.FLOAT16: np.float16,
        schema.TensorType.INT8: np.int8,
        schema.TensorType.INT32: np.int32,
    }
    weights = []
    for tensor in model.subgraphs[0].tensors:
        data = model.buffers[tensor.buffer].data
        quantised = tensor.quantization is not None and tensor.quantization.scale is not None
        plain_integers = tensor.type == schema.TensorType.INT32 and not quantised
        if data is not None and tensor.type in kinds and not plain_integers:
            weights.append(data.view(kinds[tensor.type]))
    return weights


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
