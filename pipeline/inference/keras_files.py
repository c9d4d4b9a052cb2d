"""Keras models as .h5 files: saved, loaded, run on pictures.

A file that names anything but the plain layers below is refused before Keras sees it: a Lambda
layer, a custom object or a call of some other TensorFlow function could run code or read files.
"""

from __future__ import annotations

import io
import json
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.base.artifacts import artifact_path, remedy
from pipeline.base.console import UserError
from pipeline.base.lazy import keras, layers, tf
from pipeline.inference.iou import class_counts, iou_per_class

# What an .h5 file may name. A network of one's own with another plain layer adds it here.
LAYERS = {
    *("Functional", "Sequential", "InputLayer", "Rescaling", "Resizing", "Dropout"),
    *("SpatialDropout2D", "Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Conv2DTranspose"),
    *("Dense", "BatchNormalization", "LayerNormalization", "GroupNormalization", "Activation"),
    *("ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax", "Add", "Subtract", "Multiply", "Average"),
    *("Maximum", "Minimum", "Concatenate", "UpSampling2D", "MaxPooling2D", "AveragePooling2D"),
    *("GlobalAveragePooling2D", "GlobalMaxPooling2D", "ZeroPadding2D", "Cropping2D", "Reshape"),
    *("Permute", "Flatten"),
}
FUNCTIONS = {"nn.depth_to_space", "reshape", "compat.v1.transpose"}  # of TFOpLambda layers
SMALL = 160 * 160  # pixels of a picture of which a whole batch fits into memory at once
PARTS = {  # of a layer
    *("keras.initializers", "keras.regularizers", "keras.constraints", "keras.mixed_precision")
}


def save_model(model: keras.Model, path: Path) -> None:
    """Saves a model as .h5, the format that the layout asks for, without its optimizer.

    HDF5 on a full disk fails with errors of its own, or crashes; so it writes to memory.

    Raises:
        OSError: the file cannot be written.
    """
    content = io.BytesIO()
    with warnings.catch_warnings(), h5py.File(content, "w") as file:
        warnings.filterwarnings("ignore", message="You are saving your model as an HDF5 file")
        model.save(file, include_optimizer=False, save_format="h5")
    path.write_bytes(content.getbuffer())


def load_model(models_dir: Path, name: str) -> keras.Model:
    """A Keras model artifact ("original" or "pruned"); raises as `open_model`."""
    return open_model(artifact_path(models_dir, name))


def open_model(path: Path) -> keras.Model:
    """A Keras model from its .h5 file.

    Raises:
        UserError: the file is missing, cannot be read, or names something that is no plain layer.
    """
    if not path.exists():
        raise UserError(f"{path} is missing; {remedy(path)}")
    try:
        with h5py.File(path) as file:
            config = json.loads(file.attrs["model_config"])
        if fault := foreign_part(config):
            raise ValueError(f"it names {fault}, which is no plain layer")
        if fault := unconnected_layer(config):
            raise ValueError(f"its layer {fault} waits for one that never comes")
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # h5py and Keras raise whatever a damaged file leads them into
        reason = textwrap.shorten(str(error) or type(error).__name__, 120)
        raise UserError(
            f"{path} cannot be read as a Keras model ({reason}); {remedy(path)}"
        ) from None


def foreign_part(config: Any, layer: bool = True) -> str | None:
    """The first thing in the configuration of a model that is not allowed; None if all is.

    Args:
        config: JSON of the file. layer: whether it describes a layer, and not a part of one.
    """
    if isinstance(config, list):
        return next(filter(None, (foreign_part(each, layer) for each in config)), None)
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
    inner = ((each, key == "layers" or (key == "config" and layer)) for key, each in config.items())
    return next(filter(None, (foreign_part(each, is_layer) for each, is_layer in inner)), None)


def unconnected_layer(config: Any) -> str | None:
    """A layer that can never get its inputs, for which Keras would wait for ever; None if all can.

    Args:
        config: JSON of the file, or of a model within a model.
    """
    parts = config["config"].get("layers", [])
    for part in parts:
        if fault := unconnected_layer(part):
            return fault
    calls = {
        part["config"]["name"]: [list(sources(call)) for call in part.get("inbound_nodes", [])]
        for part in parts
    }
    made = {name: int(not waiting) for name, waiting in calls.items()}  # calls that could be made
    ready = list(calls)
    while ready:
        ready = [
            name
            for name, waiting in calls.items()
            if made[name] < len(waiting)
            and all(number < made.get(source, 0) for source, number in waiting[made[name]])
        ]
        for name in ready:
            made[name] += 1
    return next((name for name, waiting in calls.items() if made[name] < len(waiting)), None)


def sources(call: Any) -> Iterator[tuple[str, int]]:
    """The layers, and which call of each, whose outputs go into a call of a layer."""
    inner = call.values() if isinstance(call, dict) else call if isinstance(call, list) else ()
    match call:
        case [str(name), int(number), int(), *_] if name != "_CONSTANT_VALUE":
            yield name, number
    for each in inner:
        yield from sources(each)


def predict(model: keras.Model, images: np.ndarray, batch_size: int = 64) -> Iterator[np.ndarray]:
    """Class indices (batch, height, width) of uint8 images, batch by batch.

    Args:
        batch_size: of pictures of SMALL pixels; larger ones come in smaller batches.
    """
    height, width = model.input_shape[1:3]
    batch_size = max(1, batch_size * SMALL // max(SMALL, height * width))
    if not hasattr(model, "classes_of"):  # compiled once per model, not once per call
        model.classes_of = tf.function(
            lambda batch: tf.argmax(model(tf.cast(batch, tf.float32) / 255, training=False), -1),
            input_signature=[tf.TensorSpec((None, *model.input_shape[1:]), tf.uint8)],
        )
    for start in range(0, len(images), batch_size):
        yield model.classes_of(images[start : start + batch_size]).numpy()


def validation_iou(model: keras.Model, images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """IoU per class of a model over a split (uint8 images, uint8 masks), see `iou_per_class`."""
    classes, start = model.output_shape[-1], 0
    counts = np.zeros((3, classes), np.int64)
    for predictions in predict(model, images):
        truth = masks[start : start + len(predictions)]
        counts += class_counts(truth, predictions, classes).sum(axis=0)
        start += len(predictions)
    return iou_per_class(counts)


def is_convolution(layer: layers.Layer) -> bool:
    """Plain and transposed convolutions; depthwise kernels hold few weights and mix no channels."""
    return isinstance(layer, layers.Conv2D) and not isinstance(layer, layers.DepthwiseConv2D)


def kernel_name(layer: layers.Layer) -> str | None:
    """The attribute that holds a layer's kernel, if it has one."""
    return next((name for name in ("depthwise_kernel", "kernel") if hasattr(layer, name)), None)
