"""Pictures of one's own, drawn over with what a model sees."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pipeline.artifacts import atomic
from pipeline.console import UserError, say
from pipeline.dataset import CLASSES
from pipeline.keras_models import open_model
from pipeline.litert import open_interpreter, set_image
from pipeline.packages import tf
from pipeline.pictures import overlay

BAND = 256  # rows of a photo that are drawn at a time: memory does not grow with the photo

Scorer = Callable[[np.ndarray], np.ndarray]  # uint8 (size, size, 3) -> (size, size, classes)


def open_scorer(path: Path) -> tuple[int, Scorer]:
    """Opens a model file of any kind.

    Returns:
        Its image side in pixels, and what gives the scores of an image: the highest score is the
        class. Their scale depends on the model.

    Raises:
        UserError: the file is missing, or no segmentation model of ours.
    """
    shapes, scores = (keras_scorer if path.suffix == ".h5" else tflite_scorer)(path)
    size = int(shapes[0][0])
    if shapes != ((size, size, 3), (size, size, len(CLASSES))):
        raise UserError(
            f"{path} maps {shapes[0]} to {shapes[1]}; it is no segmentation model of this pipeline"
        )
    return size, scores


def keras_scorer(path: Path) -> tuple[tuple[tuple, tuple], Scorer]:
    """Shapes of image and scores of a Keras model, and its scorer."""
    model = open_model(path)
    compiled = tf.function(functools.partial(model, training=False))

    def scores(image: np.ndarray) -> np.ndarray:
        return compiled(tf.constant(image[None].astype(np.float32) / 255))[0].numpy()

    return (model.input_shape[1:], model.output_shape[1:]), scores


def tflite_scorer(path: Path) -> tuple[tuple[tuple, tuple], Scorer]:
    """Shapes of image and scores of a .tflite file, and its scorer."""
    interpreter = open_interpreter(path)
    slot, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

    def scores(image: np.ndarray) -> np.ndarray:
        set_image(interpreter, image)
        interpreter.invoke()
        return interpreter.get_tensor(result["index"])[0]

    return (tuple(slot["shape"][1:]), tuple(result["shape"][1:])), scores


def read_photo(path: Path) -> Image.Image:
    """A photo as it is meant to be seen: upright, RGB.

    Raises:
        UserError: missing, or no picture.
    """
    try:
        with Image.open(path) as photo:
            return ImageOps.exif_transpose(photo).convert("RGB")
    except FileNotFoundError:
        raise UserError(f"the photo {path} is missing") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = f"no picture that can be read ({error})"
        raise UserError(f"the photo {path} is {reason}") from None


def draw_photo_overlay(photo: Image.Image, scores: np.ndarray) -> Image.Image:
    """`overlay` at the photo's own resolution, from scores (size, size, classes).

    The scores are enlarged, not the classes, so that outlines are smooth and not in steps.
    """
    width, height = photo.size
    side = len(scores)
    planes = [Image.fromarray(scores[..., k].astype(np.float32)) for k in range(scores.shape[-1])]
    drawn = Image.new("RGB", photo.size)
    for top in range(0, height, BAND):
        bottom = min(top + BAND, height)
        # Of the planes. What lies beyond them is read too, so that no seam shows.
        rows = (0, top * side / height, side, bottom * side / height)
        band = (width, bottom - top)
        enlarged = [plane.resize(band, Image.Resampling.BILINEAR, rows) for plane in planes]
        classes = np.argmax([np.asarray(plane) for plane in enlarged], axis=0)
        pixels = np.asarray(photo.crop((0, top, width, bottom)))
        drawn.paste(Image.fromarray(overlay(pixels, classes)), (0, top))
    return drawn


def write_overlays(photos: list[Path], model: Path) -> None:
    """Writes NAME.overlay.png beside each photo and says how long it took.

    Raises:
        UserError: a photo or the model cannot be read, or an overlay not be written.
    """
    size, scores = open_scorer(model)
    scores(np.zeros((size, size, 3), np.uint8))  # the first run is slower than all others
    for path in photos:
        started = time.perf_counter()
        photo = read_photo(path)
        small = np.asarray(photo.resize((size, size), Image.Resampling.BILINEAR))
        began = time.perf_counter()
        result = scores(small)
        milliseconds = 1e3 * (time.perf_counter() - began)
        target = path.with_name(f"{path.stem}.overlay.png")
        try:
            with atomic(target) as temporary:
                draw_photo_overlay(photo, result).save(temporary)
        except OSError as error:
            raise UserError(f"{target} cannot be written ({error.strerror or error})") from None
        seconds = time.perf_counter() - started
        say(f"wrote {target}: {photo.width} x {photo.height} pixels")
        say(f"  {milliseconds:.1f} ms in the network, {seconds:.2f} s with all else")
