"""Keras models to .tflite files, in every variant: the one conversion.

All of them take the same picture: real values 0..1, RGB, (1, height, width, 3).
"""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np

from pipeline.base.console import silenced
from pipeline.base.lazy import keras, tf
from pipeline.data.dataset import load_split
from pipeline.inference.tflite_files import compacted
from pipeline.quantization.calibration import activation_ranges, with_ranges
from pipeline.quantization.gptq import round_kernels
from pipeline.quantization.selective import dynamic_range_operators, quantise_dynamic
from pipeline.quantization.tensorflow_private import quantise_calibrated, stop_after_calibration
from pipeline.variants import VARIANTS


def calibration_sample(models_dir: Path, number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A seeded sample of training images.

    Returns:
        Their indices, and the images as float32 (n, height, width, 3) in 0..1.
    """
    images, _ = load_split(models_dir, "train")
    random, number = np.random.default_rng(seed), min(number, len(images))
    rows = np.sort(random.choice(len(images), number, replace=False))
    return rows, images[rows].astype(np.float32) / 255


def convert(
    model: keras.Model,
    variant: str,
    calibration: np.ndarray | None = None,
    int8_input: str = "uint8",
    int8_output: str = "int8",
) -> bytes:
    """A Keras model as the bytes of a .tflite file, every vector in it stored once.

    Args:
        variant: a key of VARIANTS.
        calibration: float32 images (n, height, width, 3) in 0..1, for variants of fixed ranges.
        int8_input, int8_output: "uint8" or "int8", the types of the int8 file's input and output.
            An operator that turns logits into uint8 costs time and changes no class.

    Raises:
        ValueError: the variant needs calibration images.
    """
    chosen = VARIANTS[variant]
    if chosen.calibrated:
        if calibration is None:
            raise ValueError(f"{variant} needs calibration images")
        model = round_kernels(model, calibration)
    converter = fixed_batch_converter(model)
    if chosen.weights == "float16":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    if chosen.calibrated:
        # For int8 it only has to find out where ranges are wanted: it will be told which.
        samples = calibration[:1] if chosen.activations == "int8" else calibration
        if chosen.activations == "int8":
            stop_after_calibration(converter)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[None]] for image in samples)
        converter.target_spec.supported_ops = operator_sets(chosen.activations)
    with silenced():
        content = converter.convert()
    del converter
    gc.collect()  # TensorFlow's graphs hold themselves: each would stay for many conversions more
    if chosen.activations == "int8":
        types = (tf.dtypes.as_dtype(kind) for kind in (int8_input, int8_output))
        content = quantise_throughout(content, calibration, *types)
    if chosen.weights == "int8" and not chosen.calibrated:
        content = quantise_dynamic(content, dynamic_range_operators(content))
    return compacted(content)


def quantise_throughout(
    content: bytes, calibration: np.ndarray, input_type: tf.DType, output_type: tf.DType
) -> bytes:
    """A calibrated .tflite file in int8, by the ranges of `activation_ranges`.

    The converter's own second half, between which and the first it has no public way to set
    ranges: it takes the extremes, with which its logits are 2 to 3 dB noisier (docs/choices.md).
    """
    content = with_ranges(content, activation_ranges(content, calibration))
    with silenced():
        return quantise_calibrated(content, input_type, output_type)


def operator_sets(activations: str) -> list[tf.lite.OpsSet]:
    """The converter's names for operators that compute on activations of a type.

    Some have no int16 form (DEPTH_TO_SPACE): they stay float there.
    """
    sets = tf.lite.OpsSet
    if activations == "int16":
        int16 = sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        return [int16, sets.TFLITE_BUILTINS]
    return [sets.TFLITE_BUILTINS_INT8]


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
