"""Class maps at a photograph's own resolution: enlarged scores, without seams, without the bars."""

import numpy as np
import pytest
from PIL import Image

from pipeline.data.class_maps import BAND, as_picture, class_map, possible_classes

SIDE = 32


@pytest.fixture
def scores():
    return np.random.default_rng(4).normal(0, 1, (SIDE, SIDE, 3)).astype(np.float32)


def enlarged_by_hand(scores, size, box):
    """Scores at the centres of a photograph's pixels, by bilinear interpolation."""
    left, top, right, bottom = box
    result = scores.astype(float)
    for axis, (start, end, length) in enumerate(((top, bottom, size[1]), (left, right, size[0]))):
        places = start + (np.arange(length) + 0.5) * (end - start) / length - 0.5
        places = np.clip(places, 0, result.shape[axis] - 1)
        low = np.minimum(np.floor(places).astype(int), result.shape[axis] - 2)
        share = (places - low).reshape([-1 if axis == k else 1 for k in range(3)])
        result = np.take(result, low, axis) * (1 - share) + np.take(result, low + 1, axis) * share
    return result


@pytest.mark.parametrize("box", [(0, 0, SIDE, SIDE), (0, 8, SIDE, 24), (3.2, 0, 28.9, SIDE)])
def test_scores_are_enlarged_bilinearly(scores, box):
    size = (90, BAND + 45)
    expected = enlarged_by_hand(scores, size, box)
    found = class_map(scores, size, box)
    best = np.sort(expected, axis=-1)
    tied = best[..., -1] - best[..., -2] < 1e-3
    assert tied.mean() < 0.01
    np.testing.assert_array_equal(found[~tied], expected.argmax(axis=-1)[~tied])


def test_bands_show_no_seams(scores):
    tall = (20, 2 * BAND + 45)
    planes = [Image.fromarray(scores[..., k].copy()) for k in range(3)]
    whole = np.stack([plane.resize(tall, Image.Resampling.BILINEAR) for plane in planes])
    different = class_map(scores, tall, (0, 0, SIDE, SIDE)) != whole.argmax(axis=0)
    assert different.mean() < 0.001  # scores that are equal up to rounding


@pytest.mark.parametrize("size", [(300, 300), (20, 500), (SIDE, SIDE), (7, 9)], ids=str)
@pytest.mark.parametrize("classes", [2, 150])
def test_classes_that_cannot_win_are_left_out_without_a_trace(size, classes):
    """Against all planes, for smooth scores, of which few classes win anywhere, and with ties."""
    coarse = np.random.default_rng(classes).normal(0, 5, (classes, 4, 4)).astype(np.float32)
    planes = [Image.fromarray(k).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for k in coarse]
    scores = np.stack(planes, axis=-1).round().astype(np.int8)
    found = class_map(scores, size, (0, 0, SIDE, SIDE))
    for start in range(0, size[1], BAND):
        end = min(start + BAND, size[1])
        box = (0, SIDE / size[1] * start, SIDE, SIDE / size[1] * end)
        floats = [Image.fromarray(k) for k in np.moveaxis(scores, -1, 0).astype(np.float32)]
        inside = (size[0], end - start)
        enlarged = [np.asarray(k.resize(inside, Image.Resampling.BILINEAR, box)) for k in floats]
        np.testing.assert_array_equal(found[start:end], np.argmax(enlarged, axis=0))


def test_few_of_many_classes_are_enlarged():
    scores = np.random.default_rng(1).normal(0, 1, (150, SIDE, SIDE)).astype(np.float32)
    scores[[3, 70]] += 20
    assert possible_classes(scores) == [3, 70]


def test_first_of_equal_scores_is_the_class(scores):
    twice = np.concatenate([scores, scores], axis=-1)
    found = class_map(twice, (70, 50), (0, 0, SIDE, SIDE))
    np.testing.assert_array_equal(found, class_map(scores, (70, 50), (0, 0, SIDE, SIDE)))


def test_padding_of_the_scores_is_not_drawn():
    """The photo was padded above and below, so only the middle of the scores belongs to it."""
    scores = np.zeros((SIDE, SIDE, 2), np.float32)
    scores[:8, :, 1] = scores[24:, :, 1] = 9  # the padding is predicted as the second class
    scores[8:24, :16, 0] = scores[8:24, 16:, 1] = 5
    found = class_map(scores, (64, 32), (0, 8, SIDE, 24))
    assert (found[2:-2, :30] == 0).all() and (found[2:-2, 34:] == 1).all()


def test_map_of_classes_keeps_its_indices():
    indices = np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 150
    found = class_map(indices, (2 * SIDE, 2 * SIDE), (0, 0, SIDE, SIDE))
    np.testing.assert_array_equal(found, indices.repeat(2, 0).repeat(2, 1))


def test_picture_holds_the_indices_and_the_palette():
    palette = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4)
    picture = as_picture(indices, palette)
    assert picture.mode == "P" and picture.getpalette() == palette.ravel().tolist()
    np.testing.assert_array_equal(picture, indices)
