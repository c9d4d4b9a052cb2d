"""Folders of pictures and masks: images/ and masks/, and the layout of Pascal VOC and CVAT."""

from __future__ import annotations

import functools
import os
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.base.console import UserError
from pipeline.data.image_reader import suffixes
from pipeline.data.label_mapping import Labels, read_labelmap
from pipeline.data.sample_source import (
    LISTED_TWICE,
    SAME_STEM,
    SPLIT_NAMES,
    UNPAIRED,
    Collection,
    Example,
    Fault,
    Split,
    pair,
)

# How the folders of photographs and of their masks are called, here and by other tools.
FOLDERS = (
    *(("images", "masks"), ("imgs", "masks"), ("img_dir", "ann_dir")),
    *(("images", "annotations"), ("images", "labels"), ("JPEGImages", "SegmentationClass")),
)
WHOLE = ("trainval", "default")  # lists of all pictures, where no list is called train
OUR_OUTPUTS = (".overlay.png", ".classes.png", ".legend.png")  # of evaluation.py --image
VOID_COLOUR, VOID = (224, 224, 192), 255  # of Pascal VOC: the edge of an object, no class

Found = dict[str, list[str]]  # by name without suffix, the paths that have it


@dataclass
class Pairs:
    """What a folder offers so far: pairs of files by split, and what could not be paired."""

    folder: Path
    splits: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    passed_over: list[tuple[str, str]] = field(default_factory=list)
    extra: list[Path] = field(default_factory=list)  # files that say what the others are

    def collection(self, labels: Labels) -> Collection:
        """The source that these pairs are."""
        splits = {
            split: Split(len(pairs), functools.partial(self.read, split))
            for split, pairs in self.splits.items()
        }
        if "train" not in splits:
            raise UserError(f"{self.folder} has no training pictures; call their folder train")
        found = self.faults, self.passed_over, self.files, self.folder
        return Collection(str(self.folder), splits, labels, *found)

    def read(self, split: str) -> Iterator[Example]:
        """The examples of a split."""
        return (pair(self.folder, image, mask) for image, mask in self.splits[split])

    def files(self) -> list[str]:
        """All that decides the content, by path in the folder."""
        pairs = [name for split in self.splits.values() for both in split for name in both]
        return pairs + [os.path.relpath(path, self.folder) for path in self.extra]


# --- files --------------------------------------------------------------------------------


def normal(name: str) -> str:
    """A name in the Unicode form that all systems agree on: macOS writes accents apart."""
    return unicodedata.normalize("NFC", name)


def stem(path: str) -> str:
    """A path without the suffix of a picture, in normal form."""
    root, suffix = os.path.splitext(path)
    return normal(root if suffix.lower() in suffixes() else path).replace(os.sep, "/")


def pictures_below(folder: Path, base: Path, passed_over: list[tuple[str, str]]) -> Found:
    """All pictures in a folder and below, by their path in it without suffix.

    A folder that is called like a picture is one that cannot be read. What is passed over, and
    why, is added to `passed_over`.
    """
    found: Found = {}
    ahead = [folder]
    while ahead:
        for entry in sorted(os.scandir(ahead.pop()), key=lambda entry: entry.name):
            name = os.path.relpath(entry.path, base)
            picture = os.path.splitext(entry.name)[1].lower() in suffixes()
            if entry.name.startswith("."):
                passed_over.append((name, "hidden"))
            elif entry.is_dir() and entry.is_symlink() and not picture:
                passed_over.append((name, "a link to a folder"))  # which may lead back here
            elif entry.is_dir() and not picture:
                ahead.append(Path(entry.path))
            elif entry.name.lower().endswith(OUR_OUTPUTS):
                passed_over.append((name, "drawn by evaluation.py"))
            elif not picture:
                passed_over.append((name, "no picture by its suffix"))
            else:
                found.setdefault(stem(os.path.relpath(entry.path, folder)), []).append(name)
    return found


def match(pairs: Pairs, split: str, keys: Iterable[str], images: Found, masks: Found) -> None:
    """Adds the image and the mask of each name to a split, or what is wrong with them."""
    chosen = pairs.splits.setdefault(split, [])
    for key in keys:
        both = [found.get(key, []) for found in (images, masks)]
        for kind, names in zip(("image", "mask"), both):
            if len(names) > 1:
                one, two = (pairs.folder / name for name in names[:2])
                text = f"{one} and {two} have one name, so that nothing tells whose {kind} is whose"
                fault = Fault(SAME_STEM, f"{text}; rename one of them, and its partner")
                pairs.faults += [fault] * len(names)
        if len(both[0]) == len(both[1]) == 1:
            chosen.append((both[0][0], both[1][0]))
        elif not both[1]:
            text = f"{pairs.folder / (both[0] or [key])[0]} has no mask of the same name"
            pairs.faults.append(Fault(UNPAIRED, f"{text}; draw it, or remove the image"))
        elif not both[0]:
            text = f"{pairs.folder / both[1][0]} has no image of the same name"
            pairs.faults.append(Fault(UNPAIRED, f"{text}; add it, or remove the mask"))


# --- layouts ------------------------------------------------------------------------------


def folders_of(folder: Path) -> tuple[str, str] | None:
    """The names of the folders of images and masks, if a folder is of a layout known here."""
    within = [folder, *(folder / name for names in SPLIT_NAMES.values() for name in names)]
    for place in within:
        for images, masks in FOLDERS:
            if (place / images).is_dir() and has_pictures(place / masks):
                return images, masks
    return None


def has_pictures(folder: Path) -> bool:
    """Whether a folder holds any picture, in itself or below."""
    places = [folder, *folder.iterdir()] if folder.is_dir() else []
    names = (name for place in places for *_, names in os.walk(place) for name in names)
    return any(os.path.splitext(name)[1].lower() in suffixes() for name in names)


def read_folder(folder: Path) -> Collection:
    """The pictures of a folder, in a layout that `folders_of` knows.

    Splits are folders below those of images and masks, or folders around them, or lists of
    names, train.txt and so on, in the folder or where Pascal VOC has them. Without any, all
    pictures are the training split, of which the audit cuts the others.

    Raises:
        UserError: one of the folders or lists has no counterpart.
    """
    images, masks = folders_of(folder)
    pairs = Pairs(folder)
    parts = {split: cut_by_folder(folder, images, names) for split, names in SPLIT_NAMES.items()}
    lists = {} if any(parts.values()) else lists_of(folder)
    if not any(parts.values()):
        found = [
            pictures_below(folder / kind, folder, pairs.passed_over) for kind in (images, masks)
        ]
        if lists:
            by_list(pairs, lists, images, *found)
        elif images == "JPEGImages":  # where most pictures have boxes only
            match(pairs, "train", sorted(found[1]), *found)
        else:
            match(pairs, "train", sorted(found[0].keys() | found[1].keys()), *found)
    for split, part in parts.items():
        if not part:
            continue
        other = part.parent / masks if part.name == images else folder / masks / part.name
        if not other.is_dir():
            raise UserError(f"{part} is there, and {other} is not; add it, or remove the former")
        found = [pictures_below(each, folder, pairs.passed_over) for each in (part, other)]
        match(pairs, split, sorted(found[0].keys() | found[1].keys()), *found)
    return pairs.collection(labels_of(folder, images, pairs))


def cut_by_folder(folder: Path, images: str, names: tuple[str, ...]) -> Path | None:
    """The folder of a split's images: images/train or train/images."""
    for name in names:
        for place in (folder / images / name, folder / name / images):
            if place.is_dir():
                return place
    return None


def lists_of(folder: Path) -> dict[str, Path]:
    """The lists of names that say which picture is in which split."""
    known = {}
    for place in (folder, folder / "ImageSets" / "Segmentation", folder / "splits"):
        known |= {path.stem.lower(): path for path in sorted(place.glob("*.txt"))}
    lists = {}
    for split, names in SPLIT_NAMES.items():
        for name in names + (WHOLE if split == "train" else ()):
            if name in known and split not in lists:
                lists[split] = known[name]
    return lists if "train" in lists else {}


def by_list(pairs: Pairs, lists: dict[str, Path], images: str, *found: Found) -> None:
    """Fills the splits by lists of names."""
    listed: dict[str, Path] = {}
    for split, path in lists.items():
        pairs.extra.append(path)
        keys = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if not line.strip():
                continue
            key = next((key for key in keys_of(line, images) if key in found[0]), None)
            if key is None:
                text = f"{path} names {line.strip()}, and there is no such image"
                pairs.faults.append(Fault(UNPAIRED, f"{text}; take it from the list, or add it"))
            elif key in listed:
                text = f"{line.strip()} is in {listed[key]} and in {path}"
                pairs.faults.append(Fault(LISTED_TWICE, f"{text}; keep it in one of them"))
            else:
                listed[key] = path
                keys.append(key)
        match(pairs, split, keys, *found)
    for key in sorted(found[0].keys() - listed.keys()):
        pairs.passed_over += [(name, "in no list") for name in found[0][key]]


def keys_of(line: str, images: str) -> list[str]:
    """What a line of a list may mean: a name with spaces, or the first of two columns; either
    with or without suffix and folder."""
    whole, first = line.strip(), line.split()[0]
    names = [stem(whole), stem(first)]
    return names + [name.rpartition(f"{images}/")[2] for name in names]


def labels_of(folder: Path, images: str, pairs: Pairs) -> Labels:
    """What a folder says of its masks: CVAT's labelmap.txt, else what VOC leaves out."""
    if (path := folder / "labelmap.txt").is_file():
        pairs.extra.append(path)
        return read_labelmap(path, VOID_COLOUR)
    return Labels(if_found=frozenset({VOID} if images == "JPEGImages" else ()))
