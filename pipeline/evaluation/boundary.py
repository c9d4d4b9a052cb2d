"""Boundary IoU: how well the outlines of the classes fit.

IoU alone hardly sees an outline that is a little off, as most pixels of a large object are inside.
Boundary IoU compares only the pixels near the outlines (Cheng, Girshick, Dollar, Berg, Kirillov,
*Boundary IoU: Improving Object-Centric Image Segmentation Evaluation*, 2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from pipeline.data.classes import IGNORED
from pipeline.inference.iou import class_counts

BEYOND = IGNORED - 1  # class of what is beyond the edge of an image; no data set has so many
WIDTH = 0.02  # of the boundary, over the diagonal of the image, as in the paper


def boundary_width(height: int, width: int) -> int:
    """How far a boundary reaches into its class, in pixels; at least 1."""
    return max(1, round(WIDTH * math.hypot(height, width)))


def boundary_counts(masks: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Counts the pixels of the boundaries of each class, as `class_counts` does those of all.

    The boundary of a class are its pixels that are at most `boundary_width` from another class or
    from the edge of the image, in the larger of the two directions. Pixels whose mask is IGNORED
    count for nothing, and both outlines end at them.

    Args:
        masks: class indices or IGNORED, integers (n, height, width).
        predictions: class indices 0..classes-1, integers (n, height, width).
        classes: number of classes.

    Returns:
        int32 (n, 3, classes): pixels in both boundaries, in that of the mask, of the prediction.
    """
    predictions = np.where(masks == IGNORED, IGNORED, predictions)
    width = boundary_width(*masks.shape[1:])
    # What is in no boundary gets an index of its own, which is left out of the result.
    of_mask, of_prediction = (
        only_boundaries(maps, width, classes) for maps in (masks, predictions)
    )
    return class_counts(of_mask, of_prediction, classes + 1)[..., :classes]


def only_boundaries(maps: np.ndarray, width: int, others: int) -> np.ndarray:
    """Class maps in which the pixels of no boundary, and IGNORED ones, have the index `others`.

    A pixel is inside its class, and in no boundary, if the square around it has one class alone.
    """
    margin = ((0, 0), (width, width), (width, width))
    padded = np.pad(maps.astype(np.uint8), margin, constant_values=BEYOND)
    same = extreme(padded, width, np.minimum) == extreme(padded, width, np.maximum)
    return np.where(same | (maps == IGNORED), others, maps)


def extreme(
    padded: np.ndarray, width: int, choose: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """The least or largest value in the square of `width` pixels around each pixel.

    Args:
        padded: maps (n, height + 2 * width, width + 2 * width).
        choose: np.minimum or np.maximum.
    """
    for axis in (1, 2):
        rows, side, reach = np.moveaxis(padded, axis, 0), 2 * width + 1, 1
        while 2 * reach <= side:  # rows[k] is of the `reach` rows from k on
            rows, reach = choose(rows[:-reach], rows[reach:]), 2 * reach
        rest = side - reach
        rows = choose(rows[: len(rows) - rest], rows[rest:])
        padded = np.moveaxis(rows, 0, axis)
    return padded
