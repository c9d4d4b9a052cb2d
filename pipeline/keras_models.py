"""Keras models as .h5 files: saved, loaded, run on pictures."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.artifacts import artifact_path, remedy
from pipeline.console import UserError
from pipeline.metrics import confusion_matrix, iou_per_class
from pipeline.packages import keras, layers, tf


def save_model(model: keras.Model, path: Path) -> None:
    """Saves a model as .h5, the format that the layout asks for, without its optimizer."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You are saving your model as an HDF5 file")
        model.save(path, include_optimizer=False)


def load_model(models_dir: Path, name: str) -> keras.Model:
    """A Keras model artifact ("original" or "pruned"); raises as `open_model`."""
    return open_model(artifact_path(models_dir, name))


def open_model(path: Path) -> keras.Model:
    """A Keras model from its .h5 file.

    Raises:
        UserError: the file is missing or cannot be read.
    """
    if not path.exists():
        raise UserError(f"{path} is missing; {remedy(path)}")
    try:
        return keras.models.load_model(path, compile=False)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} cannot be read as a Keras model ({reason}); {remedy(path)}"
        ) from None


def predict(model: keras.Model, images: np.ndarray, batch_size: int = 64) -> Iterator[np.ndarray]:
    """Class indices (batch, height, width) of uint8 images, batch by batch."""
    if not hasattr(model, "classes_of"):  # compiled once per model, not once per call
        model.classes_of = tf.function(
            lambda batch: tf.argmax(model(tf.cast(batch, tf.float32) / 255, training=False), -1),
            input_signature=[tf.TensorSpec((None, *model.input_shape[1:]), tf.uint8)],
        )
    for start in range(0, len(images), batch_size):
        yield model.classes_of(images[start : start + batch_size]).numpy()


def validation_iou(model: keras.Model, images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """IoU per class of a model over a split (uint8 images, uint8 masks)."""
    predictions = np.concatenate(list(predict(model, images)))
    classes = model.output_shape[-1]
    return iou_per_class(confusion_matrix(masks, predictions, classes).sum(axis=0))


def is_convolution(layer: layers.Layer) -> bool:
    """Plain and transposed convolutions; depthwise kernels hold few weights and mix no channels."""
    return isinstance(layer, layers.Conv2D) and not isinstance(layer, layers.DepthwiseConv2D)


def kernel_name(layer: layers.Layer) -> str | None:
    """The attribute that holds a layer's kernel, if it has one."""
    return next((name for name in ("depthwise_kernel", "kernel") if hasattr(layer, name)), None)
