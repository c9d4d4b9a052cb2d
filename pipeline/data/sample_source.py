"""One picture and its mask, and how they become arrays; what a source of many is."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from pipeline.data.classes import IGNORED
from pipeline.data.image_reader import (
    Source,
    Unreadable,
    fit_image,
    fitted_box,
    open_upright,
    turn_mask,
)
from pipeline.data.label_mapping import Labels, Meaning
from pipeline.data.masks import classify, open_mask

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
CHUNK = 64  # examples that are in memory at a time

# What may be wrong with an example, in the order in which it is told.
UNPAIRED, SAME_STEM, LISTED_TWICE = "without a partner", "two of one name", "in two splits"
UNREADABLE, JPEG, SIZES = "unreadable", "mask in JPEG", "image and mask of different shape"
PALETTE, VALUES = "another palette", "values of no class"
FAULTS = (UNPAIRED, SAME_STEM, LISTED_TWICE, UNREADABLE, JPEG, SIZES, PALETTE, VALUES)

Lazy = Callable[[], bytes]  # a picture that is drawn or read when it is asked for
Result = TypeVar("Result")


class Example(NamedTuple):
    """A photograph and its mask, encoded, what messages call them, and what its source does."""

    image: Source | Lazy
    mask: Source | Lazy
    image_name: str
    mask_name: str
    file: str = ""  # of the photograph, from the source's folder; empty where it has none


def pair(folder: Path, image: str, mask: str) -> Example:
    """The example of two files in a folder."""
    both = folder / image, folder / mask
    return Example(*both, *map(str, both), image)


class Fault(NamedTuple):
    """What is wrong with one example."""

    kind: str  # one of FAULTS
    text: str  # the file, what is wrong, the remedy


class Split(NamedTuple):
    """A stream of examples that can be asked for again and is the same each time."""

    number: int
    read: Callable[[], Iterator[Example]]


@dataclass
class Collection:
    """What a source offers, before a mask was looked at."""

    title: str  # what the source is called
    splits: dict[str, Split]  # "train" and maybe "validation" and "test", as the source cut them
    labels: Labels
    faults: list[Fault] = field(default_factory=list)  # of files that found no place in a split
    passed_over: list[tuple[str, str]] = field(default_factory=list)  # files, and why: no faults
    files: Callable[[], list[str]] = list  # all that decide the content; none: its name does
    folder: Path = Path()  # that the names of `files` count from
    skip_bad: float = 0.0  # share of examples that may be left out without asking
    any_shape: bool = False  # whether image and mask may be of different shape
    drawn: bool = False  # whether the masks are ours, so that none need be looked at


def fetch(picture: Source | Lazy) -> Source:
    """A path or the bytes of a picture."""
    return picture() if callable(picture) else picture


def decode(
    example: Example, meaning: Meaning, by_colour: bool, size: tuple[int, int], fit: str
) -> tuple[np.ndarray, np.ndarray]:
    """Reads, decodes and fits one example.

    The image is resized with antialiasing, the mask by its nearest values.

    Args:
        size: height and width of the result. fit: one of `photographs.FITS`.

    Returns:
        uint8 image (height, width, 3), RGB, and uint8 mask (height, width) of indices of classes
        or IGNORED.

    Raises:
        Unreadable: one of the two cannot be read.
    """
    image, stored = open_upright(fetch(example.image), example.image_name)
    drawn = open_mask(fetch(example.mask), example.mask_name, by_colour).picture
    mask = turn_mask(drawn, image, stored)
    if fit != "stretch":  # by the shape of the image: rounding must not move the mask
        left, top, right, bottom = fitted_box(image.size, size, fit)
        shown = (right - left, bottom - top) if fit == "pad" else image.size
        mask = mask.resize(shown, Image.Resampling.NEAREST)
    if fit != "pad":
        mask = fit_image(mask, size, fit, Image.Resampling.NEAREST)
    try:
        mask = classify(mask, meaning.table)  # shrunk already, which is quicker
    except ValueError:
        raise Unreadable(f"{example.mask_name} has changed since it was looked at") from None
    if fit == "pad":
        mask = fit_image(mask, size, fit, Image.Resampling.NEAREST, IGNORED)
    return np.asarray(fit_image(image, size, fit)), np.asarray(mask)


def in_threads(
    work: Callable[[Example], Result], examples: Iterator[Example], bar: Any
) -> Iterator[tuple[Example, Result]]:
    """Each example with what `work` makes of it, in order; CHUNK at a time are in memory."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while chunk := list(itertools.islice(examples, CHUNK)):
            for example, result in zip(chunk, pool.map(work, chunk)):
                bar.update()
                yield example, result
