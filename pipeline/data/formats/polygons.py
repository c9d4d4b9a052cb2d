"""Outlines of objects, drawn into one mask of class indices: for all formats that have polygons.

pycocotools decides which pixels a polygon covers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from pipeline.base.lazy import coco_masks
from pipeline.data.formats.drawn_masks import BACKGROUND
from pipeline.data.label_mapping import fault_of_names

FAR = 10_000  # pixels; outlines that lead farther out of the picture are cut off before drawing
LARGEST = 1e100  # of a coordinate; differences of larger ones may be no numbers
# What `outline`, `paint` and the readers of objects raise on what is not valid.
INVALID = (ValueError, TypeError, KeyError, IndexError, OverflowError, AttributeError)

Shape = dict[str, Any]  # run lengths, as pycocotools has them


def classes_with(names: Iterable[str], where: object) -> tuple[str, ...]:
    """BACKGROUND and the names of the classes that have objects; one called so is class 0, too.

    Args:
        names: in the order of their classes.
        where: the file that has them, for messages.

    Raises:
        ValueError: they are too few, too many or not unique.
    """
    classes = (BACKGROUND, *(name for name in names if name != BACKGROUND))
    if fault := fault_of_names(classes):
        raise ValueError(f"{where}: {fault} (with {BACKGROUND!r}, for pixels without an object)")
    return classes


def outline(polygons: Sequence[Sequence[float]], height: int, width: int) -> Shape:
    """The pixels that some polygons cover, each x, y, x, y ... in pixels.

    Checks what pycocotools does not: it would read beyond its memory, take a short polygon for a
    box, or work for minutes on one that leads far out of the picture.

    Raises:
        ValueError: a polygon has fewer than three points, or a coordinate is no usable number.
    """
    numbers = [[float(value) for value in polygon] for polygon in polygons]
    if not numbers or any(len(polygon) < 6 or len(polygon) % 2 for polygon in numbers):
        raise ValueError("it has no polygon, or one with fewer than three points")
    if not (np.abs(np.concatenate(numbers)) < LARGEST).all():
        raise ValueError("a coordinate is not a finite number")
    near = FAR + 4 * max(height, width)
    if np.abs(np.concatenate(numbers)).max() > near:
        numbers = [cut for polygon in numbers if (cut := cut_off(polygon, near))]
        if not numbers:
            return coco_masks.encode(np.zeros((height, width), np.uint8, order="F"))
    return coco_masks.merge(coco_masks.frPyObjects(numbers, height, width))


def cut_off(polygon: list[float], limit: int) -> list[float]:
    """The part of a polygon whose coordinates are between -limit and limit; [] if there is none.

    Sutherland and Hodgman, "Reentrant polygon clipping" (1974): one side after the other. In
    fractions, as the differences of large numbers would lose the small ones.
    """
    points = [(Fraction(x), Fraction(y)) for x, y in zip(polygon[::2], polygon[1::2])]
    for axis, sign in ((0, 1), (0, -1), (1, 1), (1, -1)):
        kept: list[tuple[Fraction, Fraction]] = []
        for start, end in zip([points[-1], *points[:-1]], points):
            if (sign * start[axis] <= limit) != (sign * end[axis] <= limit):
                share = (sign * limit - start[axis]) / (end[axis] - start[axis])
                x, y = (a + share * (b - a) for a, b in zip(start, end))
                kept.append((x, y))
            if sign * end[axis] <= limit:
                kept.append(end)
        if len(kept) < 3:
            return []
        points = kept
    return [float(value) for point in points for value in point]


def paint(
    objects: Sequence[tuple[int, Shape]], height: int, width: int, in_order: bool = False
) -> np.ndarray:
    """A mask of objects, uint8 (height, width): class indices, 0 where there is no object.

    Args:
        objects: class and run lengths of each.
        in_order: whether later objects cover earlier ones, in place of smaller ones larger ones.

    Raises:
        one of INVALID: run lengths are not valid.
    """
    mask = np.zeros((height, width), np.uint8)
    if not in_order:
        objects = sorted(objects, key=lambda entry: -int((coco_masks.decode(entry[1]) > 0).sum()))
    for value, shape in objects:
        mask[coco_masks.decode(shape) > 0] = value
    return mask
