"""What a data format hands over (`Collection`), and how one sample is decoded (`decode`).

Each module of data/formats returns a `Collection`: its splits as streams of `Sample`, a photograph
and its mask, still encoded.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from pipeline.base.system import cores
from pipeline.data.classes import IGNORED
from pipeline.data.decoding import Source
from pipeline.data.fitting import fit_image, padded_box
from pipeline.data.image_reader import Unreadable, open_upright
from pipeline.data.label_mapping import Labels, Meaning
from pipeline.data.masks import INDEX, classify, open_mask
from pipeline.data.orientation import SHOWN, SIDEWAYS, place, turned
from pipeline.data.photographs import PHOTO_RULES, PhotoRules

SPLIT_NAMES = {  # names of each split in folders, files and TFDS
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
CHUNK = 64  # samples in memory at a time

# Kinds of faults, in the order in which messages list them.
UNPAIRED, SAME_STEM, LISTED_TWICE = "unpaired", "same name twice", "in two splits"
UNREADABLE, LOSSY = "unreadable", "mask in a lossy format"
SIZES = "image and mask of different shape"
PALETTE, VALUES = "contradicting palettes", "unknown values"
FAULTS = (UNPAIRED, SAME_STEM, LISTED_TWICE, UNREADABLE, LOSSY, SIZES, PALETTE, VALUES)

Lazy = Callable[[], bytes]  # draws or reads a picture when it is called
Result = TypeVar("Result")


class Picture(NamedTuple):
    """An encoded picture that is not read yet."""

    content: Source | Lazy
    name: str  # for messages

    def fetch(self) -> Source:
        """The path or the content of the picture; calls a `Lazy` one."""
        return self.content() if callable(self.content) else self.content


class Sample(NamedTuple):
    """A photograph and its mask."""

    id: str  # unlike any other of the data set, and the same wherever its folder lies
    image: Picture
    mask: Picture


class Fault(NamedTuple):
    """What is wrong with one sample."""

    kind: str  # one of FAULTS
    text: str  # file, fault and remedy in one line


class Reading(NamedTuple):
    """How the files of a data set are read, decided by the audit for all of them together."""

    masks: str = INDEX  # what carries the meaning of indexed masks; see `masks.open_mask`
    orientation: str = SHOWN  # what masks were drawn on of which nothing tells
    photos: PhotoRules = PHOTO_RULES


READING = Reading()  # until the audit has decided


class Split(NamedTuple):
    """The samples of a split."""

    number: int  # of samples
    read: Callable[[], Iterator[Sample]]  # yields them, in the same order at every call


@dataclass(frozen=True, kw_only=True)
class Collection:
    """A data set as its format module finds it, before any mask is read."""

    title: str  # name of the data set
    splits: dict[str, Split]  # "train" and, if the data set has them, "validation" and "test"
    labels: Labels
    faults: Sequence[Fault] = ()  # of files that are in no split
    skipped: Sequence[tuple[str, str]] = ()  # (file, reason) of what is left out without a fault
    without_mask: int = 0  # pictures that have none and are taken as background
    notes: Sequence[str] = ()  # what was found out of the files, one line each
    files: Callable[[], list[str]] = list  # all files that decide the content, if it is on disk
    folder: Path = Path()  # that `files` are relative to
    remedy: str = "repair or remove it"  # for a picture that cannot be read
    named: bool = True  # whether the ids of samples are names of files
    any_shape: bool = False  # whether image and mask may differ in aspect ratio
    synthetic: bool = False  # whether masks are generated, so that they need no audit


def decode(
    sample: Sample, meaning: Meaning, reading: Reading, size: tuple[int, int], fit: str
) -> tuple[np.ndarray, np.ndarray]:
    """Reads, decodes and resizes one sample.

    The image is resized bilinearly with antialiasing, the mask by nearest neighbour.

    Args:
        sample: photograph and mask.
        meaning: class of each mask value.
        reading: how the files of the data set are read.
        size: height and width of the result.
        fit: one of `fitting.FITS`.

    Returns:
        uint8 RGB image (height, width, 3), and uint8 mask (height, width) of class indices or
        IGNORED.

    Raises:
        Unreadable: the photograph or the mask cannot be read.
    """
    image, mask, levels = open_sample(sample, reading)
    try:
        resized = fit_mask(mask, levels, image.size, meaning, size, fit)
    except ValueError:
        raise Unreadable(f"{sample.mask.name} has changed since the audit") from None
    return np.asarray(fit_image(image, size, fit)), resized


def open_sample(
    sample: Sample, reading: Reading
) -> tuple[Image.Image, Image.Image, tuple[int, ...]]:
    """The upright photograph of a sample, the mask turned like it, and `Mask.levels`.

    Raises:
        Unreadable: the photograph or the mask cannot be read.
    """
    image, stored = open_upright(sample.image.fetch(), sample.image.name, reading.photos)
    as_drawn = open_mask(sample.mask.fetch(), sample.mask.name, reading.masks)
    photo_size = image.size[::-1] if stored in SIDEWAYS else image.size
    placement = place(as_drawn.picture.size, as_drawn.own, photo_size, stored)
    mask = turned(as_drawn.picture, placement.drawn_on, stored, reading.orientation)
    return image, mask, as_drawn.levels


def fit_mask(
    mask: Image.Image,
    levels: tuple[int, ...],
    photo_size: tuple[int, int],
    meaning: Meaning,
    size: tuple[int, int],
    fit: str,
) -> np.ndarray:
    """Resizes a mask like its photograph, and replaces values by classes.

    Args:
        mask, levels: from `open_sample`.
        photo_size: width and height of the upright photograph.
        meaning: class of each mask value.
        size: height and width of the result.
        fit: one of `fitting.FITS`.

    Returns:
        uint8 (height, width) of class indices or IGNORED.

    Raises:
        ValueError: a value has no class.
    """
    if fit != "stretch":  # first to the box of the image, so that rounding does not shift the mask
        box_size = photo_size
        if fit == "pad":
            left, top, right, bottom = padded_box(photo_size, size)
            box_size = right - left, bottom - top
        mask = mask.resize(box_size, Image.Resampling.NEAREST)
    if fit != "pad":
        mask = fit_image(mask, size, fit, Image.Resampling.NEAREST)
    mask = classify(mask, meaning.table, levels)  # after shrinking, which is faster
    if fit == "pad":
        mask = fit_image(mask, size, fit, Image.Resampling.NEAREST, IGNORED)
    return np.asarray(mask)


def in_threads(
    work: Callable[[Sample], Result], samples: Iterator[Sample], bar: Any
) -> Iterator[tuple[Sample, Result]]:
    """Yields (sample, work(sample)) in order, computed in threads, CHUNK samples at a time."""
    with ThreadPoolExecutor(cores()) as pool:
        while chunk := list(itertools.islice(samples, CHUNK)):
            for sample, result in zip(chunk, pool.map(work, chunk)):
                bar.update()
                yield sample, result
