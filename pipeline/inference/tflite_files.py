""".tflite files as tables: equal vectors stored once, weights counted."""

from __future__ import annotations

import gzip
from pathlib import Path

import flatbuffers
import h5py
import numpy as np
from ai_edge_litert import schema_py_generated as schema


class SharingBuilder(flatbuffers.Builder):
    """Stores vectors of equal content once: two tables of the format may point at the same."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, values: np.ndarray) -> int:
        """Writes a vector, or finds it, and returns its place; `Pack` calls this."""
        content = values.tobytes()
        key = values.dtype.str, content
        if key not in self.known:
            # Aligned as the schema asks for weights, which small processors read in place; the
            # library's own way aligns to the type.
            self.StartVector(values.itemsize, values.size, 16)
            self.head -= len(content)
            self.Bytes[self.head : self.head + len(content)] = content
            self.vectorNumElems = values.size
            self.known[key] = self.EndVector()
        return self.known[key]


def compacted(content: bytes) -> bytes:
    """The same .tflite file with equal vectors stored once.

    The converter writes a zero point of 8 bytes for every channel of every int8 kernel and bias,
    all of them 0: an eighth of the compact network's int8 file.
    """
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for buffer in model.buffers:
        if buffer.offset > 1:  # litert-quantizer puts weights behind the tables
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    builder = SharingBuilder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def gzip_bytes(path: Path) -> int:
    """Size of the file after gzip at its best: what an app store or an update would carry."""
    return len(gzip.compress(path.read_bytes(), 9, mtime=0))


def tflite_weights(path: Path) -> list[np.ndarray]:
    """The constant tensors of a .tflite file that hold weights: float, int8, and int32 biases."""
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
        bare_integers = tensor.type == schema.TensorType.INT32 and not quantised
        if data is not None and tensor.type in kinds and not bare_integers:
            weights.append(data.view(kinds[tensor.type]))
    return weights


def keras_weights(path: Path) -> list[np.ndarray]:
    """The weights in an .h5 file, read without the model around them, which takes a second."""
    weights = []
    with h5py.File(path) as file:

        def collect(_: str, item: h5py.Dataset | h5py.Group) -> None:
            if isinstance(item, h5py.Dataset):
                weights.append(item[()])

        file["model_weights"].visititems(collect)
    return weights


def weight_counts(path: Path) -> tuple[int, int]:
    """Parameters and non-zero parameters of a model file: every weight and bias that it stores.

    A Keras file also stores the moving averages of batch normalisation, which conversion folds
    into the weights; a .tflite file stores shapes and such as int32 vectors, which do not count.
    """
    arrays = keras_weights(path) if path.suffix == ".h5" else tflite_weights(path)
    return sum(a.size for a in arrays), sum(int(np.count_nonzero(a)) for a in arrays)
