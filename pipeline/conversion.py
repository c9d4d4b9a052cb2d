"""Keras models to .tflite files, in every variant: the one conversion."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.console import silenced
from pipeline.dataset import load_split
from pipeline.packages import keras, layers, tf
from pipeline.recipes import quantise_dynamic, worth_it
from pipeline.rounding import round_kernels
from pipeline.tflite_files import compacted
from pipeline.variants import VARIANTS

LEVELS = 255  # steps between a black and a white 8-bit pixel


def calibration_sample(models_dir: Path, number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A seeded sample of training images.

    Returns:
        Their indices, and the images as float32 (n, size, size, 3) in 0..1.
    """
    images, _ = load_split(models_dir, "train")
    random, number = np.random.default_rng(seed), min(number, len(images))
    rows = np.sort(random.choice(len(images), number, replace=False))
    return rows, images[rows].astype(np.float32) / 255


def with_extremes(images: np.ndarray) -> np.ndarray:
    """Images in 0..1 and a black and a white one, which widen the int8 input to that very range.

    So one step of the input is one step of an 8-bit pixel: raw camera bytes go in unchanged.
    """
    return np.concatenate([images, np.zeros_like(images[:1]), np.ones_like(images[:1])])


# --- rescaling that the int8 input takes over -----------------------------------------------


def rescaling(model: keras.Model) -> layers.Rescaling | None:
    """The layer that rescales pixels, if the scale and zero point of an int8 input can do it.

    Nothing before it may do more than resize the image, which it may as well do after, and the
    value 0 must be that of a whole step: MobileNet's -1..1 lies between two steps, so that such a
    network keeps its layer.
    """
    for layer in model.layers:
        if isinstance(layer, layers.Rescaling):
            zero_point = -layer.offset / layer.scale * LEVELS
            fits = 0 <= zero_point <= LEVELS and abs(zero_point - round(zero_point)) < 1e-3
            return layer if fits else None
        if not isinstance(layer, (layers.InputLayer, layers.Resizing)):
            return None
    return None


def pixel_range(model: keras.Model) -> tuple[float, float]:
    """What pixels 0 and 255 are to a network behind that layer: 0 and 1 if it has none."""
    found = rescaling(model)
    return (found.offset, found.offset + found.scale) if found else (0.0, 1.0)


def without_rescaling(model: keras.Model) -> keras.Model:
    """The model for images that are rescaled already."""
    found = rescaling(model)

    def take_out(layer: layers.Layer) -> layers.Layer:
        if layer is found:
            return layers.Activation("linear", name=layer.name)
        return type(layer).from_config(layer.get_config())

    copy = keras.models.clone_model(model, clone_function=take_out)
    copy.set_weights(model.get_weights())
    return copy


# --- the conversion -------------------------------------------------------------------------


def convert(
    model: keras.Model,
    variant: str,
    calibration: np.ndarray | None = None,
    int8_input: str = "uint8",
) -> bytes:
    """A Keras model as the bytes of a .tflite file, every vector in it stored once.

    Args:
        variant: a key of VARIANTS.
        calibration: float32 images (n, size, size, 3) in 0..1, for variants of fixed ranges.
        int8_input: "uint8" or "int8", the type of the int8 file's input. Its output is int8
            either way: an operator that turns logits into uint8 would cost time and change no
            class.

    Raises:
        ValueError: the variant needs calibration images.
    """
    chosen = VARIANTS[variant]
    if chosen.calibrated:
        if calibration is None:
            raise ValueError(f"{variant} needs calibration images")
        model, samples = round_kernels(model, calibration), with_extremes(calibration)
    if chosen.activations == "int8":
        low, high = pixel_range(model)
        model, samples = without_rescaling(model), low + (high - low) * samples
    converter = fixed_batch_converter(model)
    if chosen.weights == "float16":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    if chosen.calibrated:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[None]] for image in samples)
        converter.target_spec.supported_ops = [operator_set(chosen.activations)]
    if chosen.activations == "int8":
        converter.inference_input_type = tf.dtypes.as_dtype(int8_input)
        converter.inference_output_type = tf.int8
    with silenced():
        content = converter.convert()
    if chosen.weights == "int8" and not chosen.calibrated:
        content = quantise_dynamic(content, worth_it(content))
    return compacted(content)


def operator_set(activations: str) -> tf.lite.OpsSet:
    """The converter's name for operators that compute on activations of a type."""
    if activations == "int16":
        return tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    return tf.lite.OpsSet.TFLITE_BUILTINS_INT8


def fixed_batch_converter(model: keras.Model) -> tf.lite.TFLiteConverter:
    """A converter that will fix the batch at one image.

    With an open batch, transposed convolutions stay outside XNNPACK, and a dynamic-range classic
    U-Net runs several times slower than float32.
    """
    function = tf.function(lambda image: model(image, training=False))
    shape = tf.TensorSpec((1, *model.input_shape[1:]), tf.float32, name="image")
    fixed = function.get_concrete_function(shape)
    # Given the Keras model itself, the converter would trace every layer anew.
    holder = tf.Module()
    holder.weights = model.variables
    return tf.lite.TFLiteConverter.from_concrete_functions([fixed], holder)
