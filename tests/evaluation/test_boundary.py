"""Boundary IoU against its definition, with distances computed by SciPy and by hand."""

import numpy as np
import pytest
from scipy import ndimage

from pipeline.data.classes import IGNORED
from pipeline.evaluation.boundary import boundary_counts, boundary_width
from pipeline.inference.iou import iou_per_class


def by_erosion(mask, other, width):
    """Boundary pixels of one class in one picture: in both, in the mask, in the prediction.

    As in the paper: the region less its erosion by a square, with nothing beyond the edge.
    """
    square = np.ones((2 * width + 1, 2 * width + 1), bool)
    rims = [
        region & ~ndimage.binary_erosion(region, square, border_value=0) for region in (mask, other)
    ]
    return [np.sum(rims[0] & rims[1]), rims[0].sum(), rims[1].sum()]


def blocky(random, classes, ignored=False):
    """A class map of random rectangles."""
    size = (40, 64)
    mask = np.zeros(size, np.uint8)
    for _ in range(12):
        top, left = random.integers(0, 36), random.integers(0, 60)
        mask[top : top + random.integers(2, 20), left : left + random.integers(2, 30)] = (
            random.integers(0, classes)
        )
    if ignored:
        mask[random.random(size) < 0.02] = IGNORED
    return mask


@pytest.mark.parametrize("ignored", [False, True])
def test_counts_are_those_of_the_definition(ignored):
    random, classes = np.random.default_rng(0), 4
    masks = np.stack([blocky(random, classes, ignored) for _ in range(5)])
    predictions = np.stack([blocky(random, classes) for _ in range(5)])
    counts = boundary_counts(masks, predictions, classes)
    width = boundary_width(40, 64)
    for picture, (mask, predicted) in enumerate(zip(masks, predictions)):
        seen = np.where(mask == IGNORED, IGNORED, predicted)
        for k in range(classes):
            expected = by_erosion(mask == k, seen == k, width)
            assert counts[picture, :, k].tolist() == expected


def test_width_is_two_percent_of_the_diagonal():
    assert boundary_width(300, 400) == 10 and boundary_width(128, 128) == 4
    assert boundary_width(8, 8) == 1


def test_shifted_square_by_hand():
    """A square of 20 x 20 pixels, one pixel off: the rims of one pixel share two corners' arms."""
    masks, predictions = np.zeros((2, 1, 40, 40), np.uint8)
    masks[0, 10:30, 10:30] = predictions[0, 11:31, 11:31] = 1
    width = boundary_width(40, 40)
    assert width == 1
    shared, in_mask, in_prediction = boundary_counts(masks, predictions, 2)[0, :, 1]
    assert in_mask == in_prediction == 4 * 19
    assert shared == 2  # the two corners where a side of one crosses a side of the other
    assert iou_per_class(boundary_counts(masks, masks, 2).sum(axis=0)).tolist() == [1, 1]
