"""What the folders of a data set hold, by their names: images or masks, of which split.

Names count in any case: images/train, Train/Masks, train_labels, trainannot, annotations/trimaps.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pipeline.data.formats.picture_files import PathsByStem, is_picture, normal, stem
from pipeline.data.sample_source import SPLIT_NAMES

IMAGES, MASKS = "images", "masks"  # roles
# Names of folders, the most common first: if a data set has two of them, the first counts.
WORDS = {
    IMAGES: (
        *("images", "imgs", "img_dir", "jpegimages", "image", "img", "inputs", "input"),
        *("photos", "photo", "pictures", "frames", "rgb"),
    ),
    MASKS: (
        *("masks", "ann_dir", "annotations", "labels", "segmentationclass", "mask", "label"),
        *("annotation", "annot", "annots", "targets", "target", "trimaps", "gt", "groundtruth"),
        *("ground_truth", "segmentation", "segmentations", "seg"),
    ),
}
ROLES = {word: role for role, words in WORDS.items() for word in words}
SPLITS = {name: split for split, names in SPLIT_NAMES.items() for name in names}
BETWEEN = r"[ _.-]?"
JOINED = re.compile(
    rf"({'|'.join(SPLITS)}){BETWEEN}({'|'.join(ROLES)})|"
    rf"({'|'.join(ROLES)}){BETWEEN}({'|'.join(SPLITS)})|({'|'.join(SPLITS)})\d{{4}}"
)


class Meaning(NamedTuple):
    """What the name of one folder says."""

    split: str  # "" if it names none
    word: str  # one of WORDS; "" if it says neither images nor masks


class Reading(NamedTuple):
    """How names of folders are read."""

    extra: str = ""  # name of one more folder of images
    loose: bool = False  # whether a word counts among others, as in images_png and my_masks


EXACT, LOOSE = Reading(), Reading(loose=True)


@functools.cache
def meaning(name: str, loose: bool = False) -> Meaning:
    """What the name of one folder says; `loose`: see `Reading`."""
    name = name.lower()
    if name in SPLITS or name in ROLES:
        return Meaning(SPLITS.get(name, ""), name if name in ROLES else "")
    if parts := JOINED.fullmatch(name):
        split, word = parts[1] or parts[4] or parts[5], parts[2] or parts[3] or ""
        return Meaning(SPLITS[split], word)
    if loose:
        parts_of_name = re.split(r"[ _.-]+", name)
        words = [word for role in (MASKS, IMAGES) for word in WORDS[role] if word in parts_of_name]
        splits = [SPLITS[part] for part in parts_of_name if part in SPLITS]
        return Meaning((splits or [""])[0], (words or [""])[0])
    return Meaning("", "")


class Place(NamedTuple):
    """What the path of a folder says, part by part."""

    base: tuple[str, ...]  # above the name that says images or masks
    split: str
    word: str  # one of WORDS, or ""
    rest: tuple[str, ...]  # below it

    @property
    def role(self) -> str:
        """IMAGES, MASKS or ""."""
        return ROLES.get(self.word, "")


def place_of(parts: Iterable[str], deep: bool = True, reading: Reading = EXACT) -> Place:
    """What the path of a folder says.

    Args:
        parts: of the path below the folder of the data set.
        deep: whether the name of a split counts below names that say nothing, too.
        reading: of the names.
    """
    base: list[str] = []
    rest: list[str] = []
    split = word = ""
    for part in parts:
        said = meaning(part, reading.loose)
        if part == reading.extra:
            said = Meaning("", WORDS[IMAGES][0])
        if said.split and not split and (deep or not (base or rest)):
            split = said.split
            word = word or said.word
        elif said.word and not word and not said.split:
            word = said.word
        elif word and ROLES.get(said.word) == ROLES[word] and not rest and not said.split:
            continue  # annotations/trimaps
        else:
            (rest if word else base).append(part)
    return Place(tuple(base), split, word, tuple(rest))


def keyed(
    names: Iterable[str],
    more: tuple[str, ...] = (),
    reading: Reading = EXACT,
    paths: dict[str, str] | None = None,
) -> dict[str, PathsByStem]:
    """Files by split ("" for none) and key.

    The key of a file is its path without the names that say what it is and the suffix.

    Args:
        names: paths below the folder of the data set.
        more: suffixes that count as those of pictures, too.
        reading: of the names of folders.
        paths: what is read in place of a name.
    """
    names, found = list(names), dict[str, PathsByStem]()
    for deep in (True, False):
        found = {}
        for name in names:
            path = Path(paths[name] if paths else name)
            place = place_of(path.parent.parts, deep, reading)
            key = "/".join((*map(normal, (*place.base, *place.rest)), stem(path.name, more)))
            found.setdefault(place.split, {}).setdefault(key, []).append(name)
        if "train" in found:
            break
    return found


@dataclass
class Survey:
    """The folders of a data set."""

    roots: dict[str, list[str]] = field(default_factory=lambda: {IMAGES: [], MASKS: []})
    others: list[str] = field(default_factory=list)  # folders that say neither, with pictures

    def best(self, role: str, reading: Reading) -> tuple[str, ...]:
        """The folders of a role whose name is the most common one of those that occur."""
        by_word: dict[str, list[str]] = {}
        for root in sorted(self.roots[role]):
            by_word.setdefault(place_of(Path(root).parts, reading=reading).word, []).append(root)
        return tuple(by_word[min(by_word, key=WORDS[role].index)]) if by_word else ()


def survey(folder: Path, more: tuple[str, ...] = (), reading: Reading = EXACT) -> Survey:
    """Looks for folders of images and of masks; those below them are not looked into.

    A folder of masks counts only if it holds a picture. Links to folders in this one,
    or above it, are not followed.

    Args:
        more: suffixes of files that count as pictures of masks, too.
        reading: of the names of folders.
    """
    found, pending, whole = Survey(), [folder], os.path.realpath(folder)
    while pending:
        current = pending.pop()
        name = os.path.relpath(current, folder)
        entries = sorted(os.scandir(current), key=lambda entry: entry.name, reverse=True)
        if any(is_picture(entry.name) and not entry.name.startswith(".") for entry in entries):
            found.others.append(name)
        for entry in entries:
            if entry.name.startswith(".") or is_picture(entry.name) or not entry.is_dir():
                continue
            path = Path(entry.path)
            role = place_of(path.relative_to(folder).parts, reading=reading).role
            if role == IMAGES or (role == MASKS and has_pictures(path, more)):
                found.roots[role].append(os.path.relpath(path, folder))
            elif not role:
                inside = [whole, os.path.realpath(path)]  # one in the other
                if not (entry.is_symlink() and os.path.commonpath(inside) in inside):
                    pending.append(path)
    return found


def has_pictures(folder: Path, more: tuple[str, ...] = ()) -> bool:
    """Whether a folder or one of its subfolders holds a picture."""
    parents = [folder, *folder.iterdir()] if folder.is_dir() else []
    names = (name for parent in parents for *_, names in os.walk(parent) for name in names)
    return any(is_picture(name, more) for name in names)
