"""Keras models: saved as .h5 files, loaded from them, and run on images.

A file that names anything but the plain layers below is refused before Keras reads it: a Lambda
layer, a custom object or a call of another TensorFlow function could run code or read files.
"""

from __future__ import annotations

import functools
import io
import json
import math
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from pipeline.base.artifacts import artifact_path, remedy
from pipeline.base.console import UserError
from pipeline.base.lazy import keras, layers, tf

# The layers that an .h5 file may name. If your own network has another plain layer, add it here.
LAYERS = {
    *("Functional", "Sequential", "InputLayer", "Rescaling", "Normalization", "Resizing"),
    *("Dropout", "SpatialDropout2D", "GaussianNoise", "GaussianDropout", "AlphaDropout"),
    *("Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Conv2DTranspose"),
    *("Dense", "BatchNormalization", "LayerNormalization", "GroupNormalization", "Activation"),
    *("ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax", "Add", "Subtract", "Multiply", "Average"),
    *("Maximum", "Minimum", "Concatenate", "UpSampling2D", "MaxPooling2D", "AveragePooling2D"),
    *("GlobalAveragePooling2D", "GlobalMaxPooling2D", "ZeroPadding2D", "Cropping2D", "Reshape"),
    *("Permute", "Flatten", "Dot", "Attention", "MultiHeadAttention", "ThresholdedReLU"),
    *("GaussianNoise", "GaussianDropout", "AlphaDropout"),
}
# The TensorFlow functions that a TFOpLambda layer may call: they compute and do nothing else.
FUNCTIONS = {
    *("nn.depth_to_space", "reshape", "compat.v1.transpose", "concat", "image.resize"),
    *("__operators__.add", "math.add", "math.subtract", "math.multiply", "math.truediv"),
    *("math.maximum", "math.minimum", "math.negative", "math.sigmoid", "math.tanh"),
    *("math.reduce_mean", "math.reduce_max", "math.reduce_sum", "linalg.matmul"),
    *("nn.relu", "nn.relu6", "nn.leaky_relu", "nn.elu", "nn.silu", "nn.gelu", "nn.softmax"),
}
PARTS = {  # modules of Keras from which a layer may have parts
    *("keras.initializers", "keras.regularizers", "keras.constraints", "keras.mixed_precision")
}
BATCH = 64  # images that a model takes at a time
BATCH_PIXELS = 160 * 160  # above this size of an image, it takes fewer


def save_model(model: keras.Model, path: Path) -> None:
    """Saves a model as .h5, without its optimizer.

    It is written to memory first: on a full disk HDF5 raises errors of its own or crashes.

    Raises:
        OSError: the file cannot be written.
    """
    content = io.BytesIO()
    with warnings.catch_warnings(), h5py.File(content, "w") as file:
        warnings.filterwarnings("ignore", message="You are saving your model as an HDF5 file")
        model.save(file, include_optimizer=False, save_format="h5")
    path.write_bytes(content.getbuffer())


def load_model(models_dir: Path, name: str) -> keras.Model:
    """Loads a Keras model artifact, "original" or "pruned"; raises as `read_model`."""
    return read_model(artifact_path(models_dir, name))


def read_model(path: Path) -> keras.Model:
    """Loads a Keras model from its .h5 file.

    Raises:
        UserError: the file is missing, cannot be read, or names something else than plain layers.
    """
    if not path.exists():
        raise UserError(f"{path} is missing; {remedy(path)}")
    try:
        with h5py.File(path) as file:
            config = json.loads(file.attrs["model_config"])
        if fault := foreign_part(config):
            raise ValueError(f"it names {fault}, which is no plain layer")
        if fault := unconnected_layer(config):
            raise ValueError(f"its layer {fault} reads a layer that cannot be built")
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # h5py and Keras raise errors of many kinds for a damaged file
        reason = textwrap.shorten(str(error) or type(error).__name__, 120)
        raise UserError(
            f"{path} cannot be read as a Keras model ({reason}); {remedy(path)}"
        ) from None


def foreign_part(config: Any, layer: bool = True) -> str | None:
    """The first part of a model's configuration that is not allowed; None if all are.

    Args:
        config: the JSON value `model_config` of the file, or a value inside it.
        layer: whether it describes a layer, rather than a part of one.
    """
    if isinstance(config, list):
        return next(filter(None, (foreign_part(entry, layer) for entry in config)), None)
    if not isinstance(config, dict):
        return None
    name = config.get("class_name")
    if name == "TFOpLambda":
        function = config["config"].get("function")
        return None if function in FUNCTIONS else f"the function {function}"
    if name is not None:
        part, registered = str(config.get("module") or "keras"), config.get("registered_name")
        if registered not in (None, name):
            return f"the custom object {registered}"
        if not (
            name in LAYERS and part.startswith(("keras", "tf_keras")) if layer else part in PARTS
        ):
            return f"{part}.{name}"
    inner = (
        (value, key == "layers" or (key == "config" and layer)) for key, value in config.items()
    )
    return next(filter(None, (foreign_part(value, is_layer) for value, is_layer in inner)), None)


class Calls(NamedTuple):
    """The calls of one layer, as the configuration of a model lists them."""

    first: int  # number by which other layers name the first one
    reads: list[list[tuple[str, int]]]  # for each call what it reads, see `sources`


def unconnected_layer(config: Any) -> str | None:
    """A layer whose inputs can never be built, for which Keras would wait forever; None if none is.

    Args:
        config: the JSON value `model_config` of the file, or that of a model inside it.
    """
    layer_configs = config["config"].get("layers", [])
    for layer_config in layer_configs:
        if fault := unconnected_layer(layer_config):
            return fault
    graph = {layer["config"]["name"]: calls_of(layer) for layer in layer_configs}
    built = dict.fromkeys(graph, 0)  # calls, by layer

    def can_be_built(name: str) -> bool:
        """Whether all is built that the next call of a layer reads."""
        reads = graph[name].reads
        return built[name] < len(reads) and all(
            source in graph and number < graph[source].first + built[source]
            for source, number in reads[built[name]]
        )

    while ready := [name for name in graph if can_be_built(name)]:
        for name in ready:
            built[name] += 1
    return next((name for name in graph if built[name] < len(graph[name].reads)), None)


def calls_of(layer_config: Any) -> Calls:
    """The calls of a layer, from its configuration.

    A layer without calls is an input: it has an output at once, as if it had been called. Keras
    counts such a call for a model inside the model, too, if that knows its input: it was called
    on that when it was made. The configuration does not list it.
    """
    settings, reads = layer_config["config"], layer_config.get("inbound_nodes", [])
    layers_inside = settings.get("layers") or [{}]
    knows_input = layers_inside[0].get("class_name") == "InputLayer"
    own_calls = not reads or knows_input or settings.get("build_input_shape") is not None
    return Calls(int(own_calls), [list(sources(call)) for call in reads])


def sources(call: Any) -> Iterator[tuple[str, int]]:
    """What a call of a layer reads: names of layers, and the number of the call of each."""
    inner = call.values() if isinstance(call, dict) else call if isinstance(call, list) else ()
    match call:
        case [str(name), int(number), int(), *_] if name != "_CONSTANT_VALUE":
            yield name, number
    for value in inner:
        yield from sources(value)


class KerasModel:
    """A Keras model behind the face of `iou.Model`. Its weights may change between calls.

    Args:
        model: from float32 images (batch, height, width, 3) in 0..1 to logits (batch, height,
            width, classes).
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.image_shape, self.scores_shape = model.input_shape[1:], model.output_shape[1:]
        pixels = math.prod(length or 1 for length in self.image_shape[:2])
        self.batch = max(1, BATCH * BATCH_PIXELS // max(BATCH_PIXELS, pixels))
        # Graphs are compiled at the first call.
        self._logits = tf.function(functools.partial(model, training=False))
        self._class_maps = tf.function(
            lambda batch: tf.argmax(model(tf.cast(batch, tf.float32) / 255, training=False), -1),
            input_signature=[tf.TensorSpec((None, *self.image_shape), tf.uint8)],
        )

    def scores(self, image: np.ndarray) -> np.ndarray:
        """See `iou.Model`."""
        return self.logits(image[None])[0]

    def logits(self, images: np.ndarray) -> np.ndarray:
        """See `iou.Model`."""
        return self._logits(tf.constant(images.astype(np.float32) / 255)).numpy()

    def class_maps(self, images: np.ndarray) -> np.ndarray:
        """See `iou.Model`."""
        starts = range(0, len(images), self.batch)
        maps = [self._class_maps(images[start : start + self.batch]).numpy() for start in starts]
        return np.concatenate(maps)

    def timed(self, image: np.ndarray) -> Callable[[], Any]:
        """See `iou.Model`."""
        pixels = tf.constant(image[None].astype(np.float32) / 255)
        return functools.partial(self._logits, pixels)


def is_convolution(layer: layers.Layer) -> bool:
    """Whether a layer is a plain or a transposed convolution, not a depthwise one."""
    return isinstance(layer, layers.Conv2D) and not isinstance(layer, layers.DepthwiseConv2D)


def kernel_name(layer: layers.Layer) -> str | None:
    """The name of the attribute that holds the kernel of a layer; None if it has no kernel."""
    return next((name for name in ("depthwise_kernel", "kernel") if hasattr(layer, name)), None)
