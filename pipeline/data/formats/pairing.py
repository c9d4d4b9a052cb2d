"""Pairs of image and mask files, and what is said of files that have no partner."""

from __future__ import annotations

import bisect
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.base.console import UserError
from pipeline.data.foreign_files import LABELME, Kind, by_tail, describe
from pipeline.data.formats.drawn_masks import BACKGROUND, as_mask, shown_size
from pipeline.data.formats.picture_files import PathsByStem
from pipeline.data.label_mapping import Labels
from pipeline.data.masks import unpack
from pipeline.data.sample_source import (
    SAME_STEM,
    UNPAIRED,
    Collection,
    Fault,
    Picture,
    Sample,
    Split,
)

# Draws a mask, as PNG, from an image and the file with its objects; None: there are no objects.
Draw = Callable[[Path, Path | None], bytes]
ForeignByTail = dict[str, list[tuple[str, Kind]]]  # from `foreign_files.by_tail`


@dataclass
class Pairs:
    """Pairs of image and mask files by split, and files that could not be paired."""

    folder: Path
    splits: dict[str, list[tuple[str, str]]] = field(default_factory=dict)  # (image, mask or "")
    faults: list[Fault] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)  # (file, reason)
    extra: list[Path] = field(default_factory=list)  # lists, label map or data.yaml
    notes: list[str] = field(default_factory=list)
    noun: str = "mask"  # what an image is paired with, for messages
    background: bool = False  # whether an image without a mask is all background
    labels: Labels = field(
        default_factory=Labels
    )  # of the masks, to know which value is background
    draw: Draw | None = None  # if files of objects stand in place of masks

    def collection(self, labels: Labels) -> Collection:
        """Makes a `Collection` of the pairs; raises UserError if there is no training split."""
        self.labels = labels
        if "train" not in self.splits:
            raise UserError(f"{self.folder} has no training pictures; call their folder train")
        if not any(self.splits.values()) and not self.faults:
            raise UserError(f"{self.folder} has no pictures with masks; add some")
        read = {os.path.relpath(path, self.folder) for path in self.extra}
        return Collection(
            title=str(self.folder),
            splits={
                split: Split(len(pairs), functools.partial(self.read, split))
                for split, pairs in self.splits.items()
            },
            labels=labels,
            faults=self.faults,
            skipped=[entry for entry in self.skipped if entry[0] not in read],
            notes=self.notes,
            without_mask=sum(not mask for pairs in self.splits.values() for _, mask in pairs),
            files=self.files,
            folder=self.folder,
        )

    def read(self, split: str) -> Iterator[Sample]:
        """Yields the samples of a split."""
        for image, mask in self.splits[split]:
            file = self.folder / image
            yield Sample(image, Picture(file, str(file)), self.mask(file, mask))

    def mask(self, image: Path, name: str) -> Picture:
        """The mask of an image: a file, or drawn from one when it is fetched."""
        file = self.folder / name if name else None
        if file and self.draw is None:
            return Picture(file, str(file))
        draw = self.draw or functools.partial(flat_mask, self.labels)
        drawn = functools.partial(draw, image, file)
        return Picture(drawn, str(file or f"the mask of {image}"))

    def files(self) -> list[str]:
        """All files that decide the content, relative to the folder."""
        pairs = (pair for split in self.splits.values() for pair in split)
        paired = [name for pair in pairs for name in pair if name]
        return paired + [os.path.relpath(path, self.folder) for path in self.extra]


def match(
    pairs: Pairs, split: str, keys: Iterable[str], images: PathsByStem, masks: PathsByStem
) -> None:
    """Pairs the image and the mask of each key.

    Args:
        pairs: the pairs of this split, or faults where there is not one image and one mask, are
            added to it.
        split: "train", "validation" or "test".
        keys: keys of `images` and `masks` to pair.
        images: paths of images, by key.
        masks: paths of masks, by key.
    """
    matched = pairs.splits.setdefault(split, [])
    foreign, ordered = by_tail(name for name, _ in pairs.skipped), sorted(masks)
    for key in keys:
        image_paths, mask_paths = images.get(key, []), masks.get(key, [])
        for kind, paths in (("image", image_paths), ("mask", mask_paths)):
            if len(paths) > 1:
                first, second = (pairs.folder / path for path in paths[:2])
                text = f"{first} and {second} have the same name, so the {kind} is ambiguous"
                fault = Fault(SAME_STEM, f"{text}; rename one of them, and its partner")
                pairs.faults += [fault] * len(paths)
        if len(image_paths) == len(mask_paths) == 1:
            matched.append((image_paths[0], mask_paths[0]))
        elif pairs.background and is_without(key, image_paths, mask_paths, foreign, ordered):
            matched.append((image_paths[0], ""))
        elif not (image_paths and mask_paths):
            text = unpaired(pairs, key, image_paths, mask_paths, images, foreign)
            if image_paths and (near := continued(ordered, key)):
                text = (
                    f"{pairs.folder / image_paths[0]} has no {pairs.noun} of the same name, but "
                    f"{pairs.folder / masks[near][0]} is there; rename that, or draw a mask"
                )
            pairs.faults.append(Fault(UNPAIRED, text))


def is_without(
    key: str,
    image_paths: list[str],
    mask_paths: list[str],
    foreign: ForeignByTail,
    ordered: list[str],
) -> bool:
    """Whether an image has no mask, also none of another name or format; arguments as below."""
    alone = len(image_paths) == 1 and not mask_paths
    return alone and not foreign.get(key) and not continued(ordered, key)


def flat_mask(labels: Labels, image: Path, _: Path | None) -> bytes:
    """A mask as PNG that is background all over: the class of that name, else 0 (or black).

    Raises:
        Unreadable: the image cannot be read.
    """
    height, width, turn = shown_size(image)
    value = 0
    places = [k for k, name in enumerate(labels.names or ()) if name.lower() == BACKGROUND]
    for place in places[:1]:
        values = [known for known, index in labels.mapping.items() if index == place]
        value = values[0] if values else place
    if labels.by_colour:
        return as_mask(np.full((height, width, 3), unpack(value), np.uint8), turn)
    return as_mask(np.full((height, width), value, np.uint8), turn)


def unpaired(
    pairs: Pairs,
    key: str,
    image_paths: list[str],
    mask_paths: list[str],
    images: PathsByStem,
    foreign: ForeignByTail,
) -> str:
    """The message on an image without a mask, or on a mask without an image.

    Args:
        pairs: of the data set.
        key: of both, as of `match`.
        image_paths: of this key.
        mask_paths: of this key; one of both is empty.
        images: all images, by key.
        foreign: from `foreign_files.by_tail`.
    """
    folder = pairs.folder
    if not mask_paths:
        image = (image_paths or [key])[0]
        remedy = partner(folder, key, image, foreign) or (
            "draw it, or remove the image, or if such show background alone: --missing-mask "
            "background"
        )
        return f"{folder / image} has no {pairs.noun} of the same name; {remedy}"
    remedy = partner(folder, key, mask_paths[0], foreign) or "add it, or remove the mask"
    if mask_paths[0].lower().endswith(".json"):
        remedy += "; labelme_export_json (of labelme) writes the picture that a file holds"
    first, _, rest = key.partition("/")
    if rest in images:
        remedy = (
            f"if masks lie in one folder for each class ({first}/ ...): one mask for each picture "
            "is read; draw them into one, with a value for each class"
        )
    return f"{folder / mask_paths[0]} has no image of the same name; {remedy}"


def continued(ordered: list[str], key: str) -> str:
    """The first of some sorted keys that goes on behind a key: "p01_new" for "p01"; "" if none."""
    for sign in " _.-":
        position = bisect.bisect_left(ordered, key + sign)
        if ordered[position : position + 1] and ordered[position].startswith(key + sign):
            return ordered[position]
    return ""


def partner(folder: Path, key: str, name: str, foreign: ForeignByTail) -> str:
    """What a message says of the partner that a file would have in a format that is not read.

    Args:
        folder: of the data set.
        key: of the file, as of `match`.
        name: path of the file.
        foreign: from `foreign_files.by_tail`.

    Returns:
        "" if there is no such partner.
    """
    for other, kind in foreign.get(key, []):
        if os.path.dirname(other) != os.path.dirname(name) or kind is LABELME:
            return f"{folder / other} {describe(kind)}"
    return ""
