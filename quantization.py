"""Stage 4 of 5: convert the pruned model to LiteRT, in three precisions.

Reads   models/pruned_model.h5, models/dataset/   (training images, for calibration)
Writes  models/dynamic_quantized_model.tflite     int8 weights, float32 activations
        models/int8_quantized_model.tflite        int8 throughout, takes raw uint8 pixels
        models/float16_quantized_model.tflite     float16 weights

    python quantization.py
    python quantization.py --calibration-images 500 --int8-input int8

Takes half a minute. Every file is opened again, run on a few validation images and compared with
the model it came from; one that disagrees, or an int8 file that holds a float operator, is not
put in place.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pipeline  # first: it sets what TensorFlow reads at import
from data_preparation import load_split
from training import load_model, predict

import numpy as np
import tensorflow as tf
import tf_keras as keras
from ai_edge_litert.interpreter import Interpreter

CALIBRATION_IMAGES = 200  # training images whose activations set the int8 ranges
COMPARED_IMAGES = 16  # validation images on which a written file must agree with its source
LEAST_AGREEMENT = 0.90  # share of pixels of the same class, below which a file is refused

# What sets the variants apart: attributes of tf.lite.TFLiteConverter. float32 is the baseline of
# evaluation.py. `calibrated` asks for a representative data set.
VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {},
    "dynamic": {"optimizations": [tf.lite.Optimize.DEFAULT]},
    "int8": {"optimizations": [tf.lite.Optimize.DEFAULT], "calibrated": True},
    "float16": {"optimizations": [tf.lite.Optimize.DEFAULT], "float16": True},
}


def calibration_sample(models_dir: Path, number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and float32 images (n, size, size, 3) in 0..1 of a seeded sample of training images."""
    images, _ = load_split(models_dir, "train")
    rows = np.sort(np.random.default_rng(seed).choice(len(images), min(number, len(images)), replace=False))
    return rows, images[rows].astype(np.float32) / 255


def convert(model: keras.Model, variant: str, calibration: np.ndarray | None = None, int8_input: str = "uint8") -> bytes:
    """The one conversion: a Keras model to the bytes of a .tflite file.

    The batch is fixed at one image. With an open batch, transposed convolutions stay outside
    XNNPACK, and a dynamic-range classic U-Net runs several times slower than float32.

    Args:
        variant: a key of VARIANTS.
        calibration: float32 images (n, size, size, 3) in 0..1; int8 needs them.
        int8_input: "uint8" or "int8", the type of the int8 file's input and output.
    """
    options = VARIANTS[variant]
    size = model.input_shape[1]
    function = tf.function(lambda image: model(image, training=False))
    fixed = function.get_concrete_function(tf.TensorSpec((1, size, size, 3), tf.float32, name="image"))
    holder = tf.Module()  # holds the weights alone: given the Keras model, the converter would trace every layer anew
    holder.weights = model.variables
    converter = tf.lite.TFLiteConverter.from_concrete_functions([fixed], holder)
    converter.optimizations = options.get("optimizations", [])
    if options.get("float16"):
        converter.target_spec.supported_types = [tf.float16]
    if options.get("calibrated"):
        if calibration is None:
            raise ValueError(f"{variant} needs calibration images")
        # A black and a white image widen the input range to exactly 0..1, so that one step of the
        # quantised input is one step of an 8-bit pixel: raw camera bytes go in unchanged.
        ends = np.stack([np.zeros_like(calibration[0]), np.ones_like(calibration[0])])
        converter.representative_dataset = lambda: ([image[None]] for image in np.concatenate([calibration, ends]))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.dtypes.as_dtype(int8_input)
    with pipeline.silenced():
        return converter.convert()


# --- running a converted file ---------------------------------------------------------------


def open_interpreter(path: Path, threads: int = 1) -> Interpreter:
    """A LiteRT interpreter, ready to run, with XNNPACK as by default.

    Raises:
        pipeline.UserError: the file is no .tflite file.
    """
    try:
        with pipeline.silenced():
            interpreter = Interpreter(model_path=str(path), num_threads=threads)
            interpreter.allocate_tensors()
        return interpreter
    except (ValueError, RuntimeError) as error:
        raise pipeline.UserError(f"{path} cannot be read as a .tflite file ({str(error).splitlines()[0]}); "
                                 "make it anew with: python quantization.py") from None  # fmt: skip


def set_image(interpreter: Interpreter, image: np.ndarray) -> None:
    """Gives one uint8 image (size, size, 3) to an interpreter, in the type its input has."""
    slot = interpreter.get_input_details()[0]
    if slot["dtype"] == np.float32:
        image = image.astype(np.float32) / 255
    elif slot["dtype"] == np.int8:
        image = (image.astype(np.int16) - 128).astype(np.int8)
    interpreter.set_tensor(slot["index"], image[None])


def predict_tflite(interpreter: Interpreter, images: np.ndarray) -> Iterator[np.ndarray]:
    """Class indices (size, size) of uint8 images, one by one.

    Quantised outputs share one scale over all classes, so their largest is the largest logit.
    """
    output = interpreter.get_output_details()[0]["index"]
    for image in images:
        set_image(interpreter, image)
        interpreter.invoke()
        yield interpreter.get_tensor(output)[0].argmax(-1)


# --- checks of what was written -------------------------------------------------------------


def check(path: Path, variant: str, images: np.ndarray, expected: np.ndarray) -> float:
    """Opens a written file and compares it with the model it came from.

    Args:
        images: uint8 (n, size, size, 3). expected: the source's class indices (n, size, size).

    Returns:
        The share of pixels on which both agree.

    Raises:
        pipeline.UserError: too little agreement, or an int8 file that computes in float or whose
            input is not a plain pixel.
    """
    interpreter = open_interpreter(path)
    if variant == "int8":
        floats = [t["name"] for t in interpreter.get_tensor_details() if t["dtype"] in (np.float16, np.float32)]
        if floats:
            raise pipeline.UserError(f"the int8 file computes in float at {floats[0]}; replace that layer in training.py")
        scale, zero_point = interpreter.get_input_details()[0]["quantization"]
        lowest = np.iinfo(interpreter.get_input_details()[0]["dtype"]).min
        if abs(scale * 255 - 1) > 1e-3 or zero_point != lowest:
            raise pipeline.UserError(f"the int8 input has scale {scale}, zero point {zero_point}, not that of a pixel")
    agreement = float(np.mean(np.stack(list(predict_tflite(interpreter, images))) == expected))
    if agreement < LEAST_AGREEMENT:
        raise pipeline.UserError(f"the {variant} file agrees with the pruned model on only {agreement:.1%} of the "
                                 f"pixels of {len(images)} validation images; try --calibration-images 500, "
                                 "or train for longer")  # fmt: skip
    return round(agreement, 5)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The settings from the command line (`sys.argv` if `argv` is None)."""
    parser = pipeline.argument_parser(__doc__)
    parser.add_argument("--calibration-images", type=pipeline.bounded(int, 1), default=CALIBRATION_IMAGES, metavar="N",
                        help="training images that set the int8 ranges (default: %(default)s)")  # fmt: skip
    parser.add_argument("--int8-input", choices=("uint8", "int8"), default="uint8",
                        help="type of the int8 file's input and output (default: %(default)s)")  # fmt: skip
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Runs the stage; raises pipeline.UserError for what the user can mend."""
    arguments = parse(argv)
    models_dir = arguments.models_dir
    stage = pipeline.Stage(__file__, arguments)
    stage.require("dataset", "pruned")
    variants = [variant for variant in VARIANTS if variant != "float32"]
    if arguments.if_needed and stage.up_to_date(*variants):
        return

    model = load_model(models_dir, "pruned")
    rows, calibration = calibration_sample(models_dir, arguments.calibration_images, arguments.seed)
    images = load_split(models_dir, "validation")[0][:COMPARED_IMAGES]
    expected = np.concatenate(list(predict(model, images)))
    for variant in variants:
        content = convert(model, variant, calibration, arguments.int8_input)
        metrics: dict[str, Any] = {"bytes": len(content)}
        if VARIANTS[variant].get("calibrated"):
            metrics["calibration_rows"] = rows.tolist()
        with stage.new_artifact(variant, metrics) as path:
            path.write_bytes(content)
            metrics["agreement"] = check(path, variant, images, expected)
        pipeline.say(f"wrote {pipeline.artifact_path(models_dir, variant)}: {len(content) / 1e6:.2f} MB, "
                     f"same class as the pruned model on {metrics['agreement']:.2%} of pixels")  # fmt: skip
    pipeline.say(f"done in {stage.seconds()} s")


if __name__ == "__main__":
    pipeline.run(main)
