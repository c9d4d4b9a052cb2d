"""Networks of a few operators, and files that crash LiteRT."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.base.lazy import keras, layers, tf
from pipeline.inference.keras_files import save_model
from tests.helpers.runs import CLASSES, SIZE


def with_statistics(model: keras.Model, images: np.ndarray) -> keras.Model:
    """Running statistics that fit the random weights, as after training."""
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0  # those of these images, at once
    model(images, training=True)
    return model


def with_random_normalisation(model: keras.Model) -> keras.Model:
    """Random running statistics, scales and offsets, of which none is 0 or 1."""
    random = np.random.default_rng(3)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            shapes = [value.shape for value in layer.get_weights()]
            layer.set_weights([random.uniform(0.5, 1.5, shape) for shape in shapes])
    return model


def toy_network() -> tuple[keras.Model, np.ndarray]:
    """A network of few operators, of every kind that ours have and more, and calibration images.

    Biases are random: equal ones, as zeros are, would be stored once in a file.
    """
    keras.utils.set_random_seed(0)
    image = layers.Input((SIZE, SIZE, 3))
    biased = {"padding": "same", "bias_initializer": "random_normal"}
    x = layers.Conv2D(32, 3, 2, activation="relu", **biased)(image)
    x = layers.DepthwiseConv2D(3, **biased)(x)
    x = layers.Conv2D(64, 3, activation="relu", **biased)(x)
    x = layers.Conv2DTranspose(32, 2, 2, **biased)(x)
    model = keras.Model(image, layers.Conv2D(len(CLASSES), 1, **biased)(x))
    return model, np.random.default_rng(0).random((4, SIZE, SIZE, 3), np.float32)


def saved_as(model: keras.Model, path: Path) -> Path:
    """Writes a model as somebody else's file, without a contract or a record.

    Args:
        path: .h5 or .tflite.
    """
    if path.suffix == ".h5":
        save_model(model, path)
    else:
        path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    return path


def that_crashes(content: bytes) -> bytes:
    """An int8 .tflite file with all scales 0, on which LiteRT 2.3 ends in a segmentation fault."""
    from pipeline.inference.tflite_files import packed, tables

    model = tables(content)
    for tensor in model.subgraphs[0].tensors:
        if tensor.quantization is not None and tensor.quantization.scale is not None:
            tensor.quantization.scale = np.zeros_like(tensor.quantization.scale)
    return packed(model)
