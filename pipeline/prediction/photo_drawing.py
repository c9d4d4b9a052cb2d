"""Draws what a model finds in a photo: an overlay and a map of classes. Many photos at a time."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from pipeline.base.console import UserError
from pipeline.base.files import atomic
from pipeline.base.system import cores
from pipeline.data import marked_pictures
from pipeline.data.class_maps import as_picture, class_map
from pipeline.data.fitting import fitted
from pipeline.data.image_reader import Unreadable, open_photograph, opened
from pipeline.data.photographs import rules_from
from pipeline.prediction.area_table import Areas, areas
from pipeline.prediction.photo_models import PhotoModel
from pipeline.prediction.photo_rules import PhotoUse, note_on_depth
from pipeline.report.overlays import OPACITY

BAND = 256  # rows of a photo that are drawn at a time, so that no second photo is in memory
AT_ONCE = 4  # photos at most, so that few are in memory
LARGE = 25_000_000  # pixels; of larger photos one is drawn at a time

Item = TypeVar("Item")
Result = TypeVar("Result")


class Drawn(NamedTuple):
    """What became of one photo."""

    photo_size: tuple[int, int]  # width and height of the upright photo
    size: tuple[int, int]  # of its pictures, which are smaller if sides were cropped
    counted: Areas
    note: str  # on the depth of its values; "" for none
    milliseconds: float  # of the network
    seconds: float  # of all


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


def write_picture(picture: Image.Image, path: Path) -> None:
    """Writes a marked picture, atomically; raises UserError if it cannot be written."""
    try:
        with atomic(path, sweeping=False) as temporary:
            marked_pictures.save(picture, temporary)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error})") from None


def target(place: Path, kind: str) -> Path:
    """Where a picture lies that is drawn of a photo.

    Args:
        place: of the photo, or where it would lie in --out.
        kind: "overlay", "classes" or "legend".
    """
    return place.with_name(f"{place.name}.{kind}.png")


class PhotoDrawer:
    """Draws photos with one model, several at the same time if it is called in several threads.

    Args:
        network: the model.
        use: its classes, and how photos become its input.
    """

    def __init__(self, network: PhotoModel, use: PhotoUse) -> None:
        self._network, self._use = network, use
        self._rules = rules_from(use.photos)
        self._running = threading.Lock()  # a network computes one image at a time
        self._large = threading.Lock()

    def draw(self, path: Path, place: Path) -> Drawn | Unreadable:
        """Writes the overlay and the map of classes of a photo.

        Args:
            path: of the photo.
            place: beside which the pictures are written.

        Returns:
            What was drawn; or why the photo cannot be read, and then nothing is written.

        Raises:
            UserError: a picture cannot be written, or the model does not work.
        """
        name = f"the photo {path}"
        try:
            with opened(path, name) as picture:
                large = picture.width * picture.height > LARGE
            with self._large if large else contextlib.nullcontext():
                started = time.perf_counter()
                photo = open_photograph(path, name, self._rules)
                note = note_on_depth(path, self._use.photos)
                return self._drawn(photo, place, note, started)
        except Unreadable as error:
            return error

    def _drawn(self, photo: Image.Image, place: Path, note: str, started: float) -> Drawn:
        """Draws a decoded photo."""
        photo_size = photo.size
        seen = fitted(photo, self._network.size, self._use.picture)
        if seen.part != (0, 0, *photo.size):  # nothing is known of the sides that cropping removes
            photo = photo.crop(seen.part)
        image = np.asarray(seen.image)
        with self._running:
            before = time.perf_counter()
            scores = self._network.predict(image)
            milliseconds = 1e3 * (time.perf_counter() - before)
        found = as_picture(class_map(scores, photo.size, seen.box), self._use.classes.palette)
        draw_over(photo, found)
        for picture, kind in ((photo, "overlay"), (found, "classes")):
            write_picture(picture, target(place, kind))
        counted = areas(found, self._network.number)
        seconds = time.perf_counter() - started
        return Drawn(photo_size, photo.size, counted, note, milliseconds, seconds)


def in_threads(
    function: Callable[[Item], Result], items: Sequence[Item]
) -> Generator[Result, None, None]:
    """Calls a function with each item, in a few threads; yields the results in their order.

    If it raises, or the caller is interrupted, the calls that run come to their end, and no further
    one begins.
    """
    pool = ThreadPoolExecutor(min(AT_ONCE, cores(), len(items)))
    try:
        calls = [pool.submit(function, item) for item in items]
        for call in calls:
            yield call.result()
    finally:
        pool.shutdown(cancel_futures=True)
