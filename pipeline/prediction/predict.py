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
from pipeline.base.artifacts import ARTIFACTS, stale_reason
from pipeline.base.console import UserError, say
from pipeline.base.files import atomic
from pipeline.base.lazy import matplotlib_figure
from pipeline.data import marked_pictures
from pipeline.data.class_maps import as_picture, class_map
from pipeline.data.classes import Classes
from pipeline.data.fitting import fitted
from pipeline.data.image_reader import open_photograph
from pipeline.data.photographs import rules_from
from pipeline.prediction.photo_models import open_photo_model
from pipeline.prediction.photo_rules import note_new_depth, note_stretch, use_of
from pipeline.report import sidecars
from pipeline.report.chart_style import rendered, styled
from pipeline.report.overlays import OPACITY, patches

BAND = 256  # rows of a photo that are drawn at a time, so that no second photo is in memory
KINDS = ("overlay", "classes", "legend")  # of the pictures that are drawn of a photo
SHOWN_SHARE = 0.001  # a class with a smaller share of a photo's pixels is not named in its legend


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --image and --model."""
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
        nargs="+",
        metavar="FILE",
        help="the .h5 or .tflite file that --image or --npu uses, also one of others (default: the "
        "int8 file of --models-dir; while models/ has none, the one in models/pretrained/). "
        "Without them: files of others (.tflite, .h5, .keras), measured beside ours on the test "
        "split",
    )


def note_stale(model: Path) -> None:
    """Prints a note if the model of a models folder was made from inputs that changed since."""
    names = [name for name, (file, _) in ARTIFACTS.items() if file == model.name]
    with contextlib.suppress(UserError):  # a record is missing: not known
        if names and (reason := stale_reason(model.parent, names[0])):
            say(f"note: {reason}")


def draw_over(photo: Image.Image, found: Image.Image) -> None:
    """Mixes a photo with the colours of its classes, in place; equals `overlays.overlay`.

    Args:
        photo: RGB.
        found: the class indices, a picture of the same size with a palette.
    """
    for top in range(0, photo.height, BAND):
        box = (0, top, photo.width, min(top + BAND, photo.height))
        colours = found.crop(box).convert("RGB")
        photo.paste(Image.blend(photo.crop(box), colours, OPACITY), box)


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
    use = use_of(model, network)
    classes, noted = use.classes, use.stated
    network.predict(np.zeros((*size, 3), np.uint8))  # the first run is slower than the others
    for path in photos:
        started = time.perf_counter()
        photo = open_photograph(path, f"the photo {path}", rules_from(use.photos))
        note_new_depth(path, use.photos)
        noted = noted or note_stretch(model, photo.size, size)
        seen = fitted(photo, size, use.picture)
        if seen.part != (0, 0, *photo.size):  # nothing is known of the sides that cropping removes
            photo = photo.crop(seen.part)
        before = time.perf_counter()
        scores = network.predict(np.asarray(seen.image))
        milliseconds = 1e3 * (time.perf_counter() - before)
        found = as_picture(class_map(scores, photo.size, seen.box), classes.palette)
        draw_over(photo, found)
        shares = np.array(found.histogram()[:number]) / (photo.width * photo.height)
        for picture, kind in zip((photo, found), KINDS):
            write_picture(picture, target(path, kind))
        legend = functools.partial(draw_legend, classes, shares)
        sidecars.drawn(target(path, "legend"), legend)
        text = ", ".join(f"{classes.names[k]} {shares[k]:.1%}" for k in shown_classes(shares))
        seconds = time.perf_counter() - started
        say(f"wrote {target(path, 'overlay')}: {photo.width} x {photo.height} pixels; {text}")
        say(f"  {milliseconds:.1f} ms for the network, {seconds:.2f} s in total")
