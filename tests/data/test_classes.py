"""Names and colours of classes: as many as there are, and told apart by every kind of eyes."""

import itertools

import numpy as np
import pytest

from pipeline.data.classes import IGNORED, MOST, distinct_colours, make_classes, seen_distance


@pytest.mark.parametrize("number", [2, 9, 20, MOST])
def test_no_two_colours_look_the_same(number):
    colours = distinct_colours(number)
    assert len(colours) == number
    assert distinct_colours(number - 1) == colours[:-1], "a class more recolours no other"
    pairs = itertools.combinations(np.array(colours, float), 2)
    least = min(float(seen_distance(one, other)) for one, other in pairs)
    assert least > {2: 100, 9: 40, 20: 25, MOST: 0}[number]


def test_red_and_green_of_one_brightness_are_near_for_eyes_without_red_cones():
    red, grey = np.array([200.0, 40, 40]), np.array([58.0, 58, 40])
    assert seen_distance(red, grey) < 3 < np.linalg.norm(red - grey)


def test_palette_has_a_colour_for_every_value_of_a_mask():
    classes = make_classes(("cat", "dog"), ((1, 2, 3), (4, 5, 6)))
    mask = np.array([[0, 1, IGNORED]], np.uint8)
    assert classes.palette[mask].tolist() == [[[1, 2, 3], [4, 5, 6], [128, 128, 128]]]
