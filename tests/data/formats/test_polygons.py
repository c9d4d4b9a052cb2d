"""Polygons as pixels: the drawn ones, and those that lead far out of the picture."""

import math
from fractions import Fraction

import numpy as np
import pytest

from pipeline.data.formats.polygons import FAR, classes_with, cut_off, outline, paint

HEIGHT, WIDTH = 40, 60


def drawn(*polygons):
    return paint([(1, outline(polygons, HEIGHT, WIDTH))], HEIGHT, WIDTH)


def test_rectangle_covers_its_pixels():
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[5:20, 10:30] = 1
    np.testing.assert_array_equal(drawn([10, 5, 30, 5, 30, 20, 10, 20]), expected)


def inside(points):
    """Pixels whose centre is inside a polygon, by the number of its edges to the right."""
    numbers = list(map(Fraction, points))
    corners = list(zip(numbers[::2], numbers[1::2]))
    odd = np.zeros((HEIGHT, WIDTH), bool)
    for row in range(HEIGHT):
        y = row + Fraction(1, 2)
        for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1]):
            if (y1 > y) != (y2 > y):
                at = x1 + (y - y1) / (y2 - y1) * (x2 - x1)
                odd[row, : max(0, min(WIDTH, math.ceil(at - Fraction(1, 2))))] ^= True
    return odd


@pytest.mark.parametrize("far", [2e4, 1e6, 1e9, 1e30, 1e99])
def test_far_points_cover_the_pixels_of_their_polygon(far):
    """Once they were a crash (1e30), a minute (1e8), or nothing (1e9)."""
    for points in (
        [0, 0, far, 0, far, far],
        [-far, -far, far, -far, far, far],
        [-far, 10, far, 10, far, 20, -far, 20],
        [30, -far, far, 20, 30, far, -far, 20],
    ):
        differing = drawn(points).astype(bool) != inside(points)
        assert differing.mean() < 0.03, "along the edges, pixels may differ"


def test_polygon_that_is_cut_off_covers_what_it_covered():
    points = [float(v) for v in (-30, 4, 70, -20, 90, 60, 20, 30)]
    whole = drawn(points)
    np.testing.assert_array_equal(drawn(cut_off(points, 75)), whole)
    assert whole.any() and not whole.all()


def test_polygon_outside_of_the_picture_covers_nothing():
    assert not drawn([2 * FAR] * 6).any()
    assert not drawn([1e8, 1e8, 2e8, 1e8, 2e8, 2e8]).any()


@pytest.mark.parametrize(
    "polygon",
    [
        [1, 1, 9, 1, 9, float("inf")],
        [1, 1, 9, 1, 9, float("nan")],
        [1, 1, 9, 1, 9, 1e300],
        [1, 1, 9, 9],
    ],
)
def test_numbers_that_cannot_be_drawn_are_refused(polygon):
    with pytest.raises(ValueError, match=r"not a finite number|fewer than three points"):
        outline([polygon], HEIGHT, WIDTH)


def test_smaller_objects_cover_larger_ones_unless_their_order_counts():
    large = outline([[0, 0, 40, 0, 40, 40, 0, 40]], HEIGHT, WIDTH)
    small = outline([[5, 5, 15, 5, 15, 15, 5, 15]], HEIGHT, WIDTH)
    assert paint([(2, small), (1, large)], HEIGHT, WIDTH)[10, 10] == 2
    assert paint([(2, small), (1, large)], HEIGHT, WIDTH, in_order=True)[10, 10] == 1


def test_class_called_background_is_class_zero():
    assert classes_with(["cat", "background", "dog"], "x") == ("background", "cat", "dog")
    with pytest.raises(ValueError, match="x: 1 classes, but 2 to 150 are supported"):
        classes_with([], "x")
