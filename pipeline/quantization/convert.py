"""Convert Keras models to .tflite files, in every variant of pipeline/variants.py.

All variants have the same input: one RGB image (1, height, width, 3) with real values 0..1.
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
    """Draws training images for calibration, without replacement.

    Args:
        number: of images; all of them if there are fewer.

    Returns:
        Their rows in the split, ascending, int64 (n,), and the images, float32 (n, height, width,
        3) in 0..1.
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
    """Converts a Keras model.

    Args:
        variant: a key of VARIANTS.
        calibration: images, float32 (n, height, width, 3) in 0..1, for variants with activation
            ranges that are fixed at conversion.
        int8_input, int8_output: "uint8" or "int8", types of input and output of the int8 file.
            A uint8 output costs one more operator and changes no class.

    Returns:
        The bytes of the .tflite file, compacted.

    Raises:
        ValueError: the variant needs calibration images.
    """
    settings = VARIANTS[variant]
    images: np.ndarray = np.empty(0) if calibration is None else calibration
    if settings.calibrated:
        if not len(images):
            raise ValueError(f"{variant} needs calibration images")
        model = round_kernels(model, images)
    converter = fixed_batch_converter(model)
    if settings.weights == "float16":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    if settings.calibrated:
        samples = images
        if settings.activations == "int8":
            # One image is enough to mark the tensors that need a range; `activation_ranges` finds
            # the ranges.
            samples = images[:1]
            stop_after_calibration(converter)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[None]] for image in samples)
        converter.target_spec.supported_ops = operator_sets(settings.activations)
    with silenced():
        content = converter.convert()
    del converter
    gc.collect()  # TensorFlow's graphs are reference cycles; they would pile up over conversions
    if settings.activations == "int8":
        types = (tf.dtypes.as_dtype(kind) for kind in (int8_input, int8_output))
        content = quantise_throughout(content, images, *types)
    if settings.weights == "int8" and not settings.calibrated:
        content = quantise_dynamic(content, dynamic_range_operators(content))
    return compacted(content)


def quantise_throughout(
    content: bytes, calibration: np.ndarray, input_type: tf.DType, output_type: tf.DType
) -> bytes:
    """Quantises a calibrated .tflite file to int8 with the ranges of `activation_ranges`.

    Replaces the ranges between the two halves of TensorFlow's converter (tensorflow_private.py).
    The converter's own ranges are the extremes, with which the noise of the logits is 2 to 3 dB
    higher (docs/choices.md).
    """
    content = with_ranges(content, activation_ranges(content, calibration))
    with silenced():
        return quantise_calibrated(content, input_type, output_type)


def operator_sets(activations: str) -> list[tf.lite.OpsSet]:
    """The converter's sets of operators for activations of type "int8" or "int16".

    Some operators have no int16 form (DEPTH_TO_SPACE); those stay float32.
    """
    sets = tf.lite.OpsSet
    if activations == "int16":
        int16 = sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        return [int16, sets.TFLITE_BUILTINS]
    return [sets.TFLITE_BUILTINS_INT8]


def fixed_batch_converter(model: keras.Model) -> tf.lite.TFLiteConverter:
    """Returns a converter for a model with its batch size fixed at 1.

    With a batch size left open, XNNPACK does not run transposed convolutions, and the classic
    U-Net with dynamic range is several times slower than in float32.
    """
    function = tf.function(lambda image: model(image, training=False))
    shape = tf.TensorSpec((1, *model.input_shape[1:]), tf.float32, name="image")
    concrete = function.get_concrete_function(shape)
    # A module that owns the variables; with the Keras model in its place, the converter would
    # trace every layer again.
    owner = tf.Module()
    owner.weights = model.variables
    return tf.lite.TFLiteConverter.from_concrete_functions([concrete], owner)
