"""Pictures of one's own, drawn over with what a model sees."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.base.artifacts import (
    ARTIFACTS,
    DAMAGED,
    atomic,
    read_record,
    refuse_changed,
    stale_reason,
)
from pipeline.base.console import UserError, say
from pipeline.base.lazy import matplotlib_figure, tf
from pipeline.data.classes import Classes, make_classes
from pipeline.data.dataset import load_classes
from pipeline.data.image_reader import fit_image, fitted_box, open_photograph
from pipeline.inference.contract import read
from pipeline.inference.keras_files import open_model
from pipeline.inference.litert import open_interpreter, set_image
from pipeline.report.overlays import overlay, patches

BAND = 256  # rows of a photo that are drawn at a time: memory does not grow with the photo
SEEN = 0.001  # share of a photo's pixels from which a class is named

Scorer = Callable[[np.ndarray], np.ndarray]  # uint8 (height, width, 3) -> (height, width, classes)


def open_scorer(path: Path) -> tuple[tuple[int, int], int, Scorer]:
    """Opens a model file of any kind.

    Returns:
        Height and width of its images in pixels, how many classes it tells apart, and what gives
        the scores of an image: the highest score is the class. Their scale depends on the model.

    Raises:
        UserError: the file is missing, or no segmentation model of ours.
    """
    refuse_changed(path)
    shapes, scores = (keras_scorer if path.suffix == ".h5" else tflite_scorer)(path)
    image, result = (tuple(map(int, shape)) for shape in shapes)
    if len(image) != 3 or image[2] != 3 or result[:2] != image[:2] or len(result) != 3:
        raise UserError(
            f"{path} maps {image} to {result}; it is no segmentation model of this pipeline"
        )
    return image[:2], result[2], scores


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

    return (slot["shape"][1:], result["shape"][1:]), scores


def note_stale(model: Path) -> None:
    """Says so if a model of this pipeline was made from something else than what lies there now."""
    names = [name for name, (file, _) in ARTIFACTS.items() if file == model.name]
    with contextlib.suppress(UserError):  # without its record, or an input's, nobody can tell
        if names and (reason := stale_reason(model.parent, names[0])):
            say(f"note: {reason}")


def classes_of(model: Path, number: int) -> tuple[Classes, str]:
    """What a model's `number` classes are called, and how its data set fitted pictures.

    As the data set beside it says; else as its contract does, if it has one; else by number.
    """
    try:
        classes, fit = load_classes(model.parent), read_record(model.parent, "dataset")["fit"]
        if len(classes) == number:
            return classes, fit
    except (UserError, *DAMAGED):
        pass
    try:
        return make_classes(tuple(read(model)["output"]["classes"])), "stretch"
    except (UserError, *DAMAGED):
        return make_classes(tuple(f"class {k}" for k in range(number))), "stretch"


def draw_photo(
    photo: Image.Image, scores: np.ndarray, classes: Classes, box: tuple[float, ...]
) -> tuple[Image.Image, Image.Image]:
    """`overlay` and class map at the photo's own resolution, from scores (height, width, classes).

    The scores are enlarged, not the classes, so that outlines are smooth and not in steps.

    Args:
        box: left, top, right, bottom of the photo in the scores, whose edge is repeated beyond.

    Returns:
        The overlay (RGB), and the class indices as a picture with a palette.
    """
    width, height = photo.size
    left, top, right, bottom = box
    planes = [Image.fromarray(scores[..., k].astype(np.float32)) for k in range(scores.shape[-1])]
    drawn, found = Image.new("RGB", photo.size), Image.new("P", photo.size)
    found.putpalette(classes.palette.ravel().tolist())
    for start in range(0, height, BAND):
        end = min(start + BAND, height)
        # Of the planes. What lies beyond them is read too, so that no seam shows.
        step = (bottom - top) / height
        rows = (left, top + start * step, right, top + end * step)
        size = (width, end - start)
        enlarged = [plane.resize(size, Image.Resampling.BILINEAR, rows) for plane in planes]
        indices = np.argmax([np.asarray(plane) for plane in enlarged], axis=0).astype(np.uint8)
        pixels = np.asarray(photo.crop((0, start, width, end)))
        drawn.paste(Image.fromarray(overlay(pixels, indices, classes)), (0, start))
        found.paste(Image.fromarray(indices), (0, start))
    return drawn, found


def draw_legend(classes: Classes, shares: np.ndarray, path: Path) -> str:
    """Writes a picture of the colours of the classes that are in a photo; their names and shares.

    Args:
        shares: of the photo's pixels, of each class.
    """
    seen = [int(k) for k in np.argsort(-shares, kind="stable") if shares[k] >= SEEN]
    handles = patches(classes, seen)
    for handle, k in zip(handles, seen):
        handle.set_label(f"{classes.names[k]} ({k}): {shares[k]:.1%}")
    figure = matplotlib_figure.Figure((3.2, 0.3 + 0.26 * len(seen)))
    figure.legend(handles=handles, loc="center", frameon=False)
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=110)
    return ", ".join(f"{classes.names[k]} {shares[k]:.1%}" for k in seen)


def write_overlays(photos: list[Path], model: Path) -> None:
    """Writes the overlay, the class map and the legend of each photo beside it.

    For cat.jpg: cat.jpg.overlay.png; cat.jpg.classes.png, whose pixels are the class indices;
    and cat.jpg.legend.png.

    Raises:
        UserError: a photo or the model cannot be read, or a picture not be written.
    """
    size, number, scores = open_scorer(model)
    note_stale(model)
    classes, fit = classes_of(model, number)
    scores(np.zeros((*size, 3), np.uint8))  # the first run is slower than all others
    for path in photos:
        started = time.perf_counter()
        photo = open_photograph(path, f"the photo {path}")
        if fit == "crop":  # what was not prepared is not looked at
            photo = photo.crop(tuple(map(round, fitted_box(photo.size, size, fit))))
        small = fit_image(photo, size, fit, Image.Resampling.BILINEAR, 0)
        box = fitted_box(photo.size, size, fit) if fit == "pad" else (0, 0, size[1], size[0])
        began = time.perf_counter()
        result = scores(np.asarray(small))
        milliseconds = 1e3 * (time.perf_counter() - began)
        drawn, found = draw_photo(photo, result, classes, box)
        shares = np.bincount(np.asarray(found).ravel(), minlength=number)[:number] / found.size[0]
        target = path.with_name(f"{path.name}.overlay.png")
        try:
            for picture, kind in ((drawn, "overlay"), (found, "classes")):
                with atomic(path.with_name(f"{path.name}.{kind}.png")) as temporary:
                    picture.save(temporary)
            legend = path.with_name(f"{path.name}.legend.png")
            text = draw_legend(classes, shares / found.size[1], legend)
        except OSError as error:
            raise UserError(f"{target} cannot be written ({error.strerror or error})") from None
        seconds = time.perf_counter() - started
        say(f"wrote {target}: {photo.width} x {photo.height} pixels; {text}")
        say(f"  {milliseconds:.1f} ms in the network, {seconds:.2f} s with all else")
