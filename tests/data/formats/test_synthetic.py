"""Drawn animals: the seed decides every byte, and the task is like the real one, no easier."""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from pipeline.base.artifacts import read_record
from pipeline.data.audit import judge, scan
from pipeline.data.formats import synthetic
from pipeline.data.sample_source import decode
from tests.helpers.runs import make_data_set


def draw(number, classes=3, size=(128, 128), split="train"):
    """The first drawn examples: images and masks, or an iterator of encoded pairs for size 0."""
    source = synthetic.drawn_animals(classes, size, 7)
    meaning = judge(source, scan(source), False)
    some = itertools.islice(source.splits[split].read(), number)
    pairs = [decode(example, meaning, False, size, "stretch") for example in some]
    return np.stack([image for image, _ in pairs]), np.stack([mask for _, mask in pairs])


@pytest.fixture(scope="module")
def drawn():
    """40 drawn examples at the size the pipeline uses."""
    return draw(40)


def test_seed_decides_every_byte(small_data, tmp_path):
    make_data_set(tmp_path / "same")
    make_data_set(tmp_path / "other", seed=8)
    fingerprint = read_record(small_data, "dataset")["fingerprint"]
    assert read_record(tmp_path / "same", "dataset")["fingerprint"] == fingerprint
    assert read_record(tmp_path / "other", "dataset")["fingerprint"] != fingerprint


def test_example_depends_on_no_other():
    """So that workers may draw them in any order, and a larger set begins with the smaller one."""
    part = synthetic.drawn_animals(3, (32, 32), 7).splits["test"]
    assert part.number == synthetic.COUNTS["test"]
    first, again = (list(itertools.islice(part.read(), 4)) for _ in range(2))
    backwards = [(each.mask(), each.image()) for each in reversed(first)][::-1]
    assert backwards == [(each.mask(), each.image()) for each in again]
    assert len({image for _, image in backwards}) == 4


def test_pictures_are_the_same_whatever_is_asked_of_them():
    """2 and 6 classes are another look at the pictures of 3."""
    found = {number: draw(6, number, (64, 64)) for number in synthetic.KINDS}
    for number, (images, masks) in found.items():
        np.testing.assert_array_equal(images, found[3][0])
        assert set(np.unique(masks)) == set(range(number)), "every class is drawn"
    border = ndimage.binary_dilation(found[3][1] == 2, iterations=1, structure=np.ones((1, 3, 3)))
    pets = [(found[number][1] == 0) for number in (2, 3, 6)]
    assert (pets[0] == pets[2]).all(), "the whole animal"
    assert ((pets[0] == pets[1]) | border).all(), "which the border of 3 runs along"


def test_six_classes_are_where_they_are_seen():
    """Ground is below the wall; clutter hides both."""
    _, masks = draw(12, 6, (64, 64))
    names = synthetic.KINDS[6]
    rows = {name: np.nonzero(masks == k)[1].mean() for k, name in enumerate(names)}
    assert rows["wall"] < 32 < rows["ground"]


def test_pictures_that_are_no_squares_are_drawn_large_enough():
    images, masks = draw(2, 2, (32, 96))
    assert images.shape == (2, 32, 96, 3) and masks.shape == (2, 32, 96)


def test_class_shares_are_of_the_order_of_the_real_ones(drawn):
    """Real: 0.300, 0.587, 0.114. The drawn animals are smaller; their border is as wide."""
    shares = np.bincount(drawn[1].ravel(), minlength=3) / drawn[1].size
    assert (np.abs(shares - (0.300, 0.587, 0.114)) < (0.15, 0.15, 0.04)).all(), shares


def test_border_is_a_band_between_pet_and_background(drawn):
    for mask in drawn[1]:
        border = mask == 2
        for value in (0, 1):
            distance = ndimage.distance_transform_edt(mask != value)
            # Thin parts, such as tails, are border throughout: their pixels may be far from pet.
            assert np.percentile(distance[border], 80) < 12, value
        beside = ndimage.binary_dilation(mask == 0) & (mask == 1)
        assert not beside.any(), "pet touches background without border between"


def test_colour_alone_does_not_tell_pet_from_background(drawn):
    """A task that a colour histogram solves would say nothing about a segmentation network."""
    images, masks = drawn
    pixels, pet = images.reshape(-1, 3) // 32, masks.ravel() == 0
    cells = pixels @ np.array([64, 8, 1])
    votes = np.bincount(cells, pet - np.mean(pet), 512)
    accuracy = np.mean((votes[cells] > 0) == pet)
    assert accuracy < 0.8
