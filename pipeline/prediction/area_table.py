"""How much of a photo each class covers, in how many pieces; the CSV file of many photos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pipeline.base.files import write_csv
from pipeline.base.lazy import ndimage

SUFFIX = ".classes.csv"  # after the name of the photo
COLUMNS = ("photo", "class", "name", "pixels", "share", "regions", "larger_regions")
LARGER = 0.0001  # share of a photo's pixels that a region has at least to count as a larger one
NEIGHBOURS = ((1, 1, 1), (1, 1, 1), (1, 1, 1))  # pixels that touch at a corner are connected, too
BAND = 256  # rows whose pixels are counted at a time


class Areas(NamedTuple):
    """The areas of the classes in one photo; each array is int64 (classes,)."""

    pixels: np.ndarray
    regions: np.ndarray  # connected ones of any size
    larger: np.ndarray  # those of them with at least LARGER of the photo's pixels

    @property
    def shares(self) -> np.ndarray:
        """Share of each class in the photo's pixels, 0..1."""
        shares: np.ndarray = self.pixels / self.pixels.sum()
        return shares


def areas(found: Image.Image, number: int) -> Areas:
    """Counts the pixels and the connected regions of each class.

    A region is connected by 8 neighbours: over the sides and the corners of its pixels.

    Args:
        found: a picture whose pixels are class indices.
        number: of classes.
    """
    indices = np.asarray(found)
    pixels = np.array(found.histogram()[:number], np.int64)
    regions, larger = np.zeros_like(pixels), np.zeros_like(pixels)
    boxes = ndimage.find_objects(indices + 1)  # of each class; 0 would be no object
    for k in np.flatnonzero(pixels):
        labels, regions[k] = ndimage.label(indices[boxes[k]] == k, NEIGHBOURS)
        sizes = np.zeros(regions[k] + 1, np.int64)
        for top in range(0, len(labels), BAND):  # np.bincount makes 8 bytes of each pixel
            sizes += np.bincount(labels[top : top + BAND].ravel(), minlength=len(sizes))
        larger[k] = (sizes[1:] >= LARGER * indices.size).sum()
    return Areas(pixels, regions, larger)


def rows(photo: Path, names: Sequence[str], counted: Areas) -> Iterator[dict[str, Any]]:
    """The rows of a photo in the table, one for each class."""
    for k, (name, share) in enumerate(zip(names, counted.shares)):
        numbers = (int(counted.pixels[k]), round(float(share), 6))
        values = (str(photo), k, name, *numbers, int(counted.regions[k]), int(counted.larger[k]))
        yield dict(zip(COLUMNS, values))


def write(path: Path, table: list[dict[str, Any]]) -> None:
    """Writes the table of all photos, atomically."""
    write_csv(path, table)


def target(place: Path) -> Path:
    """Where the table lies that belongs to a photo, or to several."""
    return place.with_name(place.name + SUFFIX)


def is_replaceable(path: Path) -> bool:
    """Whether a table that begins as ours do lies at a path, or nothing does."""
    beginning = ",".join(COLUMNS).encode()
    try:
        with path.open("rb") as file:
            return file.read(len(beginning)) == beginning
    except FileNotFoundError:
        return not path.is_symlink()
    except OSError:  # a folder; not readable
        return False
