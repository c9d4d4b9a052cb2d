"""Prediction on photos: the classes of a photo's pixels as an overlay and as a class map."""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.base import commands, ownership
from pipeline.base.artifacts import ARTIFACTS, read_record, stale_reason
from pipeline.base.console import UserError, say
from pipeline.base.files import atomic
from pipeline.base.lazy import matplotlib_figure
from pipeline.data import marked_pictures
from pipeline.data.classes import Classes, make_classes
from pipeline.data.dataset import load_classes, load_photo_rules
from pipeline.data.image_reader import fit_image, fitted_box, open_photograph
from pipeline.data.photo_audit import inspect_photo
from pipeline.data.photographs import PHOTO_RULES, rules_from
from pipeline.inference.contract import read
from pipeline.prediction.photo_models import PhotoModel, open_photo_model
from pipeline.report import sidecars
from pipeline.report.chart_style import rendered, styled
from pipeline.report.overlays import overlay, patches

BAND = 256  # rows of a photo that are drawn at a time, so that memory does not grow with its height
KINDS = ("overlay", "classes", "legend")  # of the pictures that are drawn of a photo
SHOWN_SHARE = 0.001  # a class with a smaller share of a photo's pixels is not named in its legend


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --image, and --model, which --image and --npu use."""
    parser.add_argument(
        "--image",
        type=Path,
        nargs="+",
        metavar="PHOTO",
        help="draw the classes over each photo, and do nothing else; writes PHOTO.overlay.png "
        "beside the photo, PHOTO.classes.png with the class indices, PHOTO.legend.png",
    )
    parser.add_argument(
        "--model",
        type=Path,
        metavar="FILE",
        help="the .h5 or .tflite file that --image or --npu uses, also one of others (default: the "
        "int8 file of --models-dir; while models/ has none, the one in models/pretrained/)",
    )


def note_stale(model: Path) -> None:
    """Prints a note if the model of a models folder was made from inputs that changed since."""
    names = [name for name, (file, _) in ARTIFACTS.items() if file == model.name]
    with contextlib.suppress(UserError):  # a record is missing: not known
        if names and (reason := stale_reason(model.parent, names[0])):
            say(f"note: {reason}")


def classes_of(path: Path, model: PhotoModel) -> tuple[Classes, str]:
    """The classes of a model, and how pictures were fitted to its input size ("stretch", ...).

    They are those of the data set in the model's folder if a run made the model there; else those
    that the file itself names; else numbered.

    Args:
        path: the model file.
        model: what was opened.
    """
    if model.recorded:
        with contextlib.suppress(UserError, OSError, KeyError):  # no data set; no "fit" in it
            classes, fit = load_classes(path.parent), read_record(path.parent, "dataset")["fit"]
            if len(classes) == model.number:
                return classes, fit
    numbered = tuple(f"class {k}" for k in range(model.number))
    return make_classes(model.names or numbered), "stretch"


def photo_rules_of(path: Path, model: PhotoModel) -> dict[str, Any]:
    """How the photographs that a model was trained on became 8-bit RGB; {} if they were that.

    From the contract in the .tflite file; for other files of a run from the data set beside them.
    """
    with contextlib.suppress(UserError):  # it has no contract
        return read(path)["input"].get("photos", {})
    if model.recorded:
        with contextlib.suppress(UserError, OSError):  # there is no data set
            return load_photo_rules(path.parent)
    return {}


def note_new_depth(path: Path, rules: dict[str, Any]) -> None:
    """Prints a note if a photo is deeper than 8 bits, and the model was trained on none such."""
    facts = inspect_photo(path, f"the photo {path}")
    key = "float_white" if facts.floating else "white"
    if facts.largest is not None and key not in rules:
        say(
            f"note: {path} holds values up to {facts.largest:g}, and the pictures that the model "
            f"was trained on have 8 bits; {getattr(PHOTO_RULES, key)} is taken for white"
        )


def draw_photo(
    photo: Image.Image, scores: np.ndarray, classes: Classes, box: tuple[float, ...]
) -> tuple[Image.Image, Image.Image]:
    """Overlay and class map at the photo's own resolution.

    Scores are enlarged, not the class indices, so that outlines are smooth.

    Args:
        photo: RGB.
        scores: (height, width, classes), at the model's resolution; or a map of classes, integers
            (height, width), whose pixels are enlarged.
        classes: names and colours of the classes.
        box: left, top, right, bottom of the photo in the scores, in pixels. Beyond the edge of
            the scores, the edge is repeated.

    Returns:
        The overlay (RGB), and the class indices as a picture with a palette.
    """
    width, height = photo.size
    left, top, right, bottom = box
    if is_map := scores.ndim == 2:
        planes, smooth = [Image.fromarray(scores.astype(np.uint8))], Image.Resampling.NEAREST
    else:
        layers = np.moveaxis(scores, -1, 0).astype(np.float32)
        planes, smooth = [*map(Image.fromarray, layers)], Image.Resampling.BILINEAR
    drawn, class_map = Image.new("RGB", photo.size), Image.new("P", photo.size)
    class_map.putpalette(classes.palette.ravel().tolist())
    for start in range(0, height, BAND):
        end = min(start + BAND, height)
        # The band's box in the planes. Pillow also reads around it, so that bands show no seams.
        step = (bottom - top) / height
        band_box = (left, top + start * step, right, top + end * step)
        size = (width, end - start)
        enlarged = [np.asarray(plane.resize(size, smooth, band_box)) for plane in planes]
        indices = enlarged[0] if is_map else np.argmax(enlarged, axis=0).astype(np.uint8)
        pixels = np.asarray(photo.crop((0, start, width, end)))
        drawn.paste(Image.fromarray(overlay(pixels, indices, classes)), (0, start))
        class_map.paste(Image.fromarray(indices), (0, start))
    return drawn, class_map


def shown_classes(shares: np.ndarray) -> list[int]:
    """Indices of the classes with a share (0..1) of at least SHOWN_SHARE, the largest first."""
    return [int(k) for k in np.argsort(-shares, kind="stable") if shares[k] >= SHOWN_SHARE]


@styled
def legend_figure(classes: Classes, shares: np.ndarray) -> Any:
    """Figure with the colour, name, index and share of each class in a photo.

    Args:
        classes: names and colours of the classes.
        shares: (classes,), the share of each class in the photo's pixels, 0..1.
    """
    shown = shown_classes(shares)
    handles = patches(classes, shown)
    for handle, index in zip(handles, shown):
        handle.set_label(f"{handle.get_label()} ({index}): {shares[index]:.1%}")
    figure = matplotlib_figure.Figure((3.2, 0.3 + 0.26 * len(shown)))
    figure.legend(handles=handles, loc="center", frameon=False)
    return figure


def draw_legend(classes: Classes, shares: np.ndarray, path: Path) -> None:
    """Writes `legend_figure` as a picture."""
    with Image.open(io.BytesIO(rendered(legend_figure(classes, shares), "png"))) as picture:
        write_picture(picture, path)


def write_picture(picture: Image.Image, path: Path) -> None:
    """Writes a marked picture, atomically; raises UserError if it cannot be written."""
    try:
        with atomic(path) as temporary:
            marked_pictures.save(picture, temporary)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error})") from None


def target(photo: Path, kind: str) -> Path:
    """Where the picture of a kind of KINDS lies that is drawn of a photo."""
    return photo.with_name(f"{photo.name}.{kind}.png")


def refuse_users_pictures(photos: list[Path]) -> None:
    """Raises UserError if a picture that `write_overlays` did not write lies where it writes one.

    Nothing is written then, for any photo.
    """
    targets = [target(photo, kind) for photo in photos for kind in KINDS]
    users = [path for path in targets if not marked_pictures.is_replaceable(path)]
    if users:
        moves = [commands.move(path, ownership.free_name(path, "before")) for path in users]
        names = ", ".join(map(str, users))
        raise UserError(
            f"{names}: not written by evaluation.py, and not replaced; first: {' && '.join(moves)}"
        )


def write_overlays(photos: list[Path], model: Path) -> None:
    """Writes the overlay, the class map and the legend of each photo beside it.

    A legend that cannot be drawn is a note.

    For cat.jpg: cat.jpg.overlay.png; cat.jpg.classes.png, whose pixels are the class indices;
    and cat.jpg.legend.png.

    Args:
        photos: image files of any size.
        model: an .h5 or .tflite file.

    Raises:
        UserError: a photo or the model cannot be read, a picture cannot be written, or one of the
            user's lies where one belongs.
    """
    refuse_users_pictures(photos)
    network = open_photo_model(model)
    size, number = network.size, network.number
    note_stale(model)
    classes, fit = classes_of(model, network)
    rules = photo_rules_of(model, network)
    network.predict(np.zeros((*size, 3), np.uint8))  # the first run is slower than the others
    for path in photos:
        started = time.perf_counter()
        photo = open_photograph(path, f"the photo {path}", rules_from(rules))
        note_new_depth(path, rules)
        if fit == "crop":  # the model was not trained on the sides that cropping removes
            left, top, right, bottom = map(round, fitted_box(photo.size, size, fit))
            photo = photo.crop((left, top, right, bottom))
        image = fit_image(photo, size, fit, Image.Resampling.BILINEAR, 0)
        box = fitted_box(photo.size, size, fit) if fit == "pad" else (0, 0, size[1], size[0])
        before = time.perf_counter()
        scores = network.predict(np.asarray(image))
        milliseconds = 1e3 * (time.perf_counter() - before)
        drawn, class_map = draw_photo(photo, scores, classes, box)
        pixels = np.bincount(np.asarray(class_map).ravel(), minlength=number)[:number]
        shares = pixels / class_map.size[0] / class_map.size[1]
        for picture, kind in zip((drawn, class_map), KINDS):
            write_picture(picture, target(path, kind))
        legend = functools.partial(draw_legend, classes, shares)
        sidecars.drawn(target(path, "legend"), legend)
        text = ", ".join(f"{classes.names[k]} {shares[k]:.1%}" for k in shown_classes(shares))
        seconds = time.perf_counter() - started
        say(f"wrote {target(path, 'overlay')}: {photo.width} x {photo.height} pixels; {text}")
        say(f"  {milliseconds:.1f} ms for the network, {seconds:.2f} s in total")
