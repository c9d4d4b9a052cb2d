"""Which photos --image names, and where the pictures that are drawn of them lie.

An argument is a file, a folder or a pattern. A folder stands for all pictures in it and in its
sub-folders, as in data preparation; hidden files and folders are left out. A pattern that the shell
did not expand is expanded as the shell does it; `**` stands for all sub-folders.

Pictures that were drawn by an earlier run are told by their mark, whatever their names are, and are
never read. A file that is no picture is skipped: in a folder by the suffix of its name, else by
what is in it, if its suffix is not that of a picture.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pipeline.base.console import UserError
from pipeline.data import marked_pictures
from pipeline.data.formats.picture_files import is_picture, pictures_below
from pipeline.data.image_reader import Unreadable, opened
from pipeline.prediction import area_table

WILDCARDS = "*?["  # of a pattern
NAMED = 20  # names that a message lists; of the others it gives the number


class Photo(NamedTuple):
    """A photo, and the folder whose layout --out repeats."""

    path: Path  # as the user would type it
    base: Path  # the folder that was named, or else the one that the photo lies in


@dataclass
class Found:
    """What the arguments of --image stand for."""

    photos: list[Photo] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)  # files that are no pictures
    reasons: list[str] = field(default_factory=list)  # why such files could not be opened
    own: int = 0  # files of earlier runs


def find(named: Sequence[Path]) -> Found:
    """The photos that the arguments of --image stand for, each once, in the order of these.

    Args:
        named: files, folders and patterns.

    Raises:
        UserError: a file is missing, nothing fits a pattern, or no photo is left.
    """
    found, seen = Found(), set()
    for path in [path for argument in named for path in expanded(argument)]:
        in_folder = path.is_dir()
        base = path if in_folder else path.parent
        for photo in photos_below(path, found) if in_folder else [path]:
            if (place := os.path.abspath(photo)) in seen:
                continue
            seen.add(place)
            if is_own(photo):
                found.own += 1
            elif in_folder or is_picture(photo.name) or can_be_opened(photo, found):
                found.photos.append(Photo(photo, base))
    if not found.photos:
        raise UserError(why_none(named, found))
    return found


def expanded(argument: Path) -> list[Path]:
    """The files and folders that a pattern stands for; a name that exists stands for itself."""
    if os.path.lexists(argument):
        return [argument]
    if not any(letter in str(argument) for letter in WILDCARDS):
        raise UserError(f"the photo {argument} is missing; nothing was drawn")
    paths = sorted(map(Path, glob.glob(str(argument), recursive=True)))
    paths = [path for path in paths if os.path.lexists(path)]  # "x/**" gives x, there or not
    if not paths:
        raise UserError(f"no file fits the pattern {argument}; nothing was drawn")
    return paths


def photos_below(folder: Path, found: Found) -> list[Path]:
    """The pictures in a folder and its sub-folders; other files are added to what was skipped."""
    left_out: list[tuple[str, str]] = []
    names = [name for same in pictures_below(folder, folder, left_out).values() for name in same]
    for name, _ in left_out:
        path = folder / name
        if path.name.startswith(".") or path.is_dir():
            continue
        if is_picture(name):  # named as pictures of ours are
            names.append(name)
        elif is_own(path):
            found.own += 1
        else:
            found.skipped.append(path)
    return [folder / name for name in sorted(names)]


def is_own(path: Path) -> bool:
    """Whether an earlier run wrote a file."""
    name = path.name.lower()
    if name.endswith(area_table.SUFFIX):
        return area_table.is_replaceable(path)
    return name.endswith(".png") and path.is_file() and marked_pictures.is_replaceable(path)


def can_be_opened(path: Path, found: Found) -> bool:
    """Whether a file is a picture by what is in it; if not, it is added to what was skipped."""
    try:
        with opened(path, f"the photo {path}"):
            return True
    except Unreadable as error:
        found.skipped.append(path)
        found.reasons.append(str(error))
        return False


def why_none(named: Sequence[Path], found: Found) -> str:
    """The message if there is no photo to draw."""
    if len(found.reasons) == len(found.skipped) == 1 and not found.own:
        return found.reasons[0]
    what = [f"no pictures: {first_names(found.skipped)}"] if found.skipped else []
    if found.own:
        what.append(f"files that evaluation.py wrote and does not read: {found.own}")
    there = f" ({'; '.join(what)})" if what else ""
    return f"there is no photo in {first_names(named)}{there}"


def first_names(paths: Sequence[Path]) -> str:
    """Names of files in one line: the first ones, and how many more there are."""
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return ", ".join(map(str, paths[:NAMED])) + more


# --- where pictures go ----------------------------------------------------------------------


def places(photos: Sequence[Photo], out: Path | None) -> list[Path]:
    """Beside which path the pictures of each photo lie: the photo itself without --out.

    In --out, the sub-folders of a folder that was named are repeated. If photos of several folders
    would meet there under one name, all keep their folders below the one that holds them all.

    Raises:
        UserError: photos of several drives have the same name.
    """
    if out is None:
        return [photo.path for photo in photos]
    inside = [os.path.relpath(photo.path, photo.base) for photo in photos]
    # Many file systems do not tell a.jpg from A.jpg.
    if max(Counter(name.casefold() for name in inside).values()) > 1:
        full = [os.path.abspath(photo.path) for photo in photos]
        try:
            top = os.path.commonpath([os.path.dirname(path) for path in full])
        except ValueError:  # Windows
            raise UserError(
                "photos of several drives have the same names; run evaluation.py once for each"
            ) from None
        inside = [os.path.relpath(path, top) for path in full]
    return [out / name for name in inside]


def common_place(named: Sequence[Path], photos: Sequence[Photo], out: Path | None) -> Path:
    """Beside which path the legend and the table of several photos lie; no file is there.

    In --out; without it in the folder that was named first, or else in that of the first photo.
    """
    folder = out or (named[0] if named[0].is_dir() else photos[0].path.parent)
    return folder / "photos"
