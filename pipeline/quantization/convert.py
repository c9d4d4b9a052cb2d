"""Convert Keras models to .tflite files, in every variant of pipeline/variants.py.

All variants have the same input: one RGB image (1, height, width, 3) with real values 0..1.
"""

from __future__ import annotations

import functools
import gc
import textwrap
from pathlib import Path

import numpy as np

from pipeline.base.console import UserError, silenced
from pipeline.base.lazy import keras, tf
from pipeline.data.dataset import load_split
from pipeline.inference.tflite_files import compacted
from pipeline.quantization.calibration import Range, activation_ranges, with_ranges
from pipeline.quantization.gptq import round_kernels
from pipeline.quantization.selective import dynamic_range_operators, quantise_dynamic
from pipeline.quantization.tensorflow_private import quantise_calibrated, stop_after_calibration
from pipeline.variants import VARIANTS

LONGEST_REASON = 200  # characters of an exception's text


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


class Source:
    """A Keras model and what its .tflite files have in common.

    Each part is made when it is first read, once: GPTQ and the ranges take most of the time.

    Args:
        model: float32 images (batch, height, width, 3) in 0..1 to logits.
        calibration: images, float32 (n, height, width, 3) in 0..1, for variants with activation
            ranges that are fixed at conversion; None: it has no such files.
    """

    def __init__(self, model: keras.Model, calibration: np.ndarray | None = None) -> None:
        self.model = model
        self.calibration: np.ndarray = np.empty(0) if calibration is None else calibration

    @functools.cached_property
    def float_file(self) -> bytes:
        """The float32 file, as the converter makes it."""
        return run_converter(fixed_batch_converter(self.model))

    @functools.cached_property
    def rounded(self) -> keras.Model:
        """The model with the kernels that int8 weights have, see `gptq.round_kernels`."""
        return round_kernels(self.model, self.calibration)

    @functools.cached_property
    def rounded_file(self) -> bytes:
        """The float32 file of `rounded`, compacted."""
        return compacted(run_converter(fixed_batch_converter(self.rounded)))

    @functools.cached_property
    def ranges(self) -> dict[str, Range]:
        """The int8 ranges of the activations of `rounded_file`, by tensor.

        The tensors of the file that the converter quantises have the same names and values.
        """
        return activation_ranges(self.rounded_file, self.calibration)

    def convert(self, variant: str, int8_input: str = "uint8", int8_output: str = "int8") -> bytes:
        """Converts the model.

        Args:
            variant: a key of VARIANTS.
            int8_input, int8_output: "uint8" or "int8", types of input and output of an int8 file.
                A uint8 output costs one more operator and changes no class.

        Returns:
            The bytes of the .tflite file, compacted.

        Raises:
            ValueError: the variant needs calibration images.
        """
        settings = VARIANTS[variant]
        if settings.calibrated and not len(self.calibration):
            raise ValueError(f"{variant} needs calibration images")
        if settings.activations == "int8":
            content = self.quantised_throughout(int8_input, int8_output)
        elif settings.calibrated:
            content = run_converter(calibrating(self.rounded, self.calibration, "int16"))
        elif settings.weights == "int8":
            chosen = dynamic_range_operators(self.float_file)
            content = quantise_dynamic(self.float_file, chosen)
        elif settings.weights == "float16":
            converter = fixed_batch_converter(self.model)
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tf.float16]
            content = run_converter(converter)
        else:
            content = self.float_file
        return compacted(content)

    def file(self, variant: str, *types: str) -> bytes:
        """As `convert`; raises UserError if the converter refuses the model."""
        try:
            return self.convert(variant, *types)
        except (UserError, OSError, MemoryError):
            raise
        except Exception as error:  # the converter's own kinds
            text = f"{type(error).__name__}: {error}"
            reason = textwrap.shorten(text, LONGEST_REASON, placeholder=" ...")
            raise UserError(f"no {variant} file can be made ({reason}); use other layers") from None

    def quantised_throughout(self, input_type: str, output_type: str) -> bytes:
        """The file in int8, with the ranges of `activation_ranges`.

        Replaces the ranges between the two halves of TensorFlow's converter
        (tensorflow_private.py). The converter's own ranges are the extremes, with which the noise
        of the logits is 2 to 3 dB higher (docs/choices.md).
        """
        # One image is enough to mark the tensors that need a range.
        content = calibrated_file(self.rounded, self.calibration[:1])
        return quantise(content, self.ranges, input_type, output_type)


def convert(
    model: keras.Model,
    variant: str,
    calibration: np.ndarray | None = None,
    int8_input: str = "uint8",
    int8_output: str = "int8",
) -> bytes:
    """Converts a Keras model once; arguments, result and errors as `Source` and its `convert`."""
    return Source(model, calibration).convert(variant, int8_input, int8_output)


def calibrated_file(model: keras.Model, images: np.ndarray) -> bytes:
    """The float32 file that the converter would quantise to int8, with a range at each activation.

    Args:
        images: float32 (n, height, width, 3) in 0..1, whose extremes are the ranges.
    """
    converter = calibrating(model, images, "int8")
    stop_after_calibration(converter)
    return run_converter(converter)


def quantise(
    content: bytes, ranges: dict[str, Range], input_type: str = "uint8", output_type: str = "int8"
) -> bytes:
    """Quantises a calibrated file to int8 throughout.

    Args:
        content: from `calibrated_file`.
        ranges: of its activations, by tensor.
    """
    with silenced():
        types = (tf.dtypes.as_dtype(kind) for kind in (input_type, output_type))
        return quantise_calibrated(with_ranges(content, ranges), *types)


def run_converter(converter: tf.lite.TFLiteConverter) -> bytes:
    """Runs a converter without its output on the terminal; returns the file."""
    with silenced():
        return converter.convert()


def calibrating(
    model: keras.Model, images: np.ndarray, activations: str
) -> tf.lite.TFLiteConverter:
    """A converter that runs images, float32 (n, height, width, 3), to find activation ranges."""
    converter = fixed_batch_converter(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None]] for image in images)
    converter.target_spec.supported_ops = operator_sets(activations)
    return converter


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
    gc.collect()  # the graphs of conversions before are reference cycles and would pile up
    function = tf.function(lambda image: model(image, training=False))
    shape = tf.TensorSpec((1, *model.input_shape[1:]), tf.float32, name="image")
    concrete = function.get_concrete_function(shape)
    # A module that owns the variables; with the Keras model in its place, the converter would
    # trace every layer again.
    owner = tf.Module()
    owner.weights = model.variables
    return tf.lite.TFLiteConverter.from_concrete_functions([concrete], owner)
