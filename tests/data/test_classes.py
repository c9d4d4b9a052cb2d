"""Classes: distinct colours for every number of classes and every colour vision; the palette."""

import itertools

import numpy as np
import pytest

from pipeline.data.classes import IGNORED, MOST, distinct_colours, make_classes, seen_distance


@pytest.mark.parametrize("number", [2, 9, 20, MOST])
def test_all_colours_are_distinct_in_every_colour_vision(number):
    colours = distinct_colours(number)
    assert len(colours) == number
    assert distinct_colours(number - 1) == colours[:-1], "one more class changes no colour"
    pairs = itertools.combinations(np.array(colours, float), 2)
    closest = min(float(seen_distance(first, second)) for first, second in pairs)
    assert closest > {2: 100, 9: 40, 20: 25, MOST: 0}[number]


def test_red_and_grey_are_close_in_protanopia():
    red, grey = np.array([200.0, 40, 40]), np.array([58.0, 58, 40])
    assert seen_distance(red, grey) < 3 < np.linalg.norm(red - grey)


def test_palette_has_a_colour_for_every_value_of_a_mask():
    classes = make_classes(("cat", "dog"), ((1, 2, 3), (4, 5, 6)))
    mask = np.array([[0, 1, IGNORED]], np.uint8)
    assert classes.palette[mask].tolist() == [[[1, 2, 3], [4, 5, 6], [128, 128, 128]]]
