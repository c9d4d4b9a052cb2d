"""Prediction on photos: the classes of their pixels as overlays, class maps, a legend, a table.

For cat.jpg: cat.jpg.overlay.png; cat.jpg.classes.png, whose pixels are the class indices;
cat.jpg.legend.png; and cat.jpg.classes.csv, see `area_table`. Several photos have one legend and
one table together, photos.legend.png and photos.classes.csv.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.base import commands, ownership
from pipeline.base.artifacts import ARTIFACTS, stale_reason
from pipeline.base.console import UserError, progress, say
from pipeline.base.files import sweep
from pipeline.data import marked_pictures
from pipeline.data.classes import Classes
from pipeline.data.image_reader import Unreadable
from pipeline.prediction import area_table
from pipeline.prediction.legends import draw_legend, shown_classes
from pipeline.prediction.photo_drawing import Drawn, PhotoDrawer, in_threads, target
from pipeline.prediction.photo_files import Found, common_place, find, first_names, places
from pipeline.prediction.photo_models import open_photo_model
from pipeline.prediction.photo_rules import note_stretch, use_of
from pipeline.report import sidecars

MOST_LINES = 10  # photos that have lines of their own; of more, the progress is shown
SECONDS_PER_LINE = 30.0  # of progress where stderr is no terminal
MOST_MOVED = 5  # files of the user for which the commands that keep them are printed


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --image, --out and --model."""
    parser.add_argument(
        "--image",
        type=Path,
        nargs="+",
        metavar="PHOTO",
        help="draw the classes over photos, and do nothing else: files, folders with their "
        "sub-folders, patterns. Writes PHOTO.overlay.png beside each photo, PHOTO.classes.png with "
        "the class indices, a legend and a table of the areas (one for all photos). Exit code 1 "
        "if a photo cannot be read, 2 if none can",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for what --image writes, made if missing"
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


def refuse_users_files(where: Sequence[Path], shared: Path) -> None:
    """Raises UserError if a file that `write_overlays` did not write lies where it writes one.

    Nothing is written then, for any photo.

    Args:
        where: beside which the pictures of each photo are written.
        shared: beside which the legend and the table are written.
    """
    targets = [target(place, kind) for place in where for kind in ("overlay", "classes")]
    targets.append(target(shared, "legend"))
    users = [path for path in targets if not marked_pictures.is_replaceable(path)]
    table = area_table.target(shared)
    users += [] if area_table.is_replaceable(table) else [table]
    if users:
        remedy = "name another folder: --out DIR"
        if len(users) <= MOST_MOVED:
            moves = [commands.move(path, ownership.free_name(path, "before")) for path in users]
            remedy = f"first: {' && '.join(moves)}"
        raise UserError(
            f"{first_names(users)}: not written by evaluation.py, and not replaced; {remedy}"
        )


def write_overlays(named: list[Path], model: Path, out: Path | None = None) -> int:
    """Writes the overlay and the class map of each photo, a legend, and a table of the areas.

    A photo that cannot be read is named at the end and ends no other. A legend that cannot be drawn
    is a note. The legend and the table come last: an interrupt leaves the pictures of the photos
    that are finished.

    Args:
        named: image files of any size, folders and patterns, see `photo_files`.
        model: an .h5 or .tflite file.
        out: the folder to write into, made if missing; None: beside each photo.

    Returns:
        The exit code: 1 if a photo could not be read.

    Raises:
        UserError: no photo can be read, or not the model; a file cannot be written, or one of the
            user's lies where one belongs.
    """
    if out is not None and out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; name a folder")
    found = find(named)
    photos = [photo.path for photo in found.photos]
    where = places(found.photos, out)
    shared = where[0] if len(photos) == 1 else common_place(named, found.photos, out)
    refuse_users_files(where, shared)
    network = open_photo_model(model)
    note_stale(model)
    use = use_of(model, network)
    network.predict(np.zeros((*network.size, 3), np.uint8))  # the first run is slower than others
    for folder in {place.parent for place in (*where, shared)}:
        sweep(folder)  # what runs that were killed left

    noted, started = use.stated, time.perf_counter()
    drawn, failed = {}, []
    for number, result in enumerate(in_turn(PhotoDrawer(network, use), photos, where)):
        if isinstance(result, Unreadable):
            failed.append(result)
            continue
        drawn[photos[number]] = result
        noted = noted or note_stretch(model, result.photo_size, network.size)
        if len(photos) <= MOST_LINES:
            say_drawn(where[number], result, use.classes.names)
    if not drawn:
        listed = "; ".join(map(str, failed[:MOST_MOVED]))
        raise UserError(listed if len(failed) == 1 else f"none of {len(failed)} photos: {listed}")
    write_shared(shared, drawn, use.classes)
    seconds = time.perf_counter() - started
    say_end(found, drawn, shared, f"{seconds:.1f} s ({seconds / len(drawn):.2f} s each)")
    for error in failed:
        say(f"FAILED: {error}")
    return 1 if failed else 0


def in_turn(
    drawer: PhotoDrawer, photos: Sequence[Path], where: Sequence[Path]
) -> Iterator[Drawn | Unreadable]:
    """Draws the photos, several at the same time; yields the results in order, and shows progress.

    Args:
        where: beside which the pictures of each photo are written.
    """
    total, started = len(photos), time.perf_counter()
    said = started
    calls = in_threads(lambda number: drawer.draw(photos[number], where[number]), range(total))
    with contextlib.closing(calls), progress("photos", total, "photos") as bar:
        for number, result in enumerate(calls, 1):
            bar.update()
            yield result
            now = time.perf_counter()
            if bar.disable and now - said > SECONDS_PER_LINE and total > MOST_LINES:
                said, speed = now, number / (now - started)
                left = (total - number) / speed
                time_left = f"{left:.0f} s" if left < 120 else f"{left / 60:.0f} min"
                say(f"{number} of {total} photos, {speed:.1f} a second, {time_left} left")


def write_shared(shared: Path, drawn: Mapping[Path, Drawn], classes: Classes) -> None:
    """Writes the legend and the table of all photos.

    Args:
        shared: beside which they are written.
        drawn: by photo.
    """
    rows = [
        row
        for photo, one in drawn.items()
        for row in area_table.rows(photo, classes.names, one.counted)
    ]
    area_table.write(area_table.target(shared), rows)
    shares = np.array([one.counted.shares for one in drawn.values()])
    legend = functools.partial(draw_legend, classes, shares)
    sidecars.drawn(target(shared, "legend"), legend)


# --- what is printed ------------------------------------------------------------------------


def say_drawn(place: Path, drawn: Drawn, names: Sequence[str]) -> None:
    """Prints what was drawn of one photo, and how long it took."""
    shares, (width, height) = drawn.counted.shares, drawn.size
    text = ", ".join(f"{names[k]} {shares[k]:.1%}" for k in shown_classes(shares))
    say(f"wrote {target(place, 'overlay')}: {width} x {height} pixels; {text}")
    say(f"  {drawn.milliseconds:.1f} ms for the network, {drawn.seconds:.2f} s in total")


def say_end(found: Found, drawn: Mapping[Path, Drawn], shared: Path, speed: str) -> None:
    """Prints what was written of all photos, the notes on their depth, and what was skipped."""
    notes = [one.note for one in drawn.values() if one.note]
    if notes:
        more = f" (and so on for {len(notes) - 1} more photos)" if notes[1:] else ""
        say(f"note: {notes[0]}{more}")
    if len(found.photos) > 1:
        counted = f"{len(drawn)} of {len(found.photos)} photos"
        both = f"{target(shared, 'legend')}, {area_table.target(shared).name}"
        say(f"{counted} in {speed}; of all: {both}")
    if found.skipped:
        say(f"skipped, because they are no pictures: {first_names(found.skipped)}")
