"""Synthetic data set: reproducible by its seed, and about as difficult as Oxford-IIIT Pet."""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from pipeline.base.artifacts import read_record
from pipeline.data.audit import judge, scan
from pipeline.data.formats import synthetic
from pipeline.data.sample_source import READING, decode
from tests.helpers.runs import make_data_set


def draw(number, classes=3, size=(128, 128), split="train"):
    """The first examples of a split as arrays: images and masks."""
    source = synthetic.drawn_animals(classes, size, 7)
    meaning = judge(source, scan(source), False)
    examples = itertools.islice(source.splits[split].read(), number)
    pairs = [decode(example, meaning, READING, size, "stretch") for example in examples]
    return np.stack([image for image, _ in pairs]), np.stack([mask for _, mask in pairs])


@pytest.fixture(scope="module")
def drawn():
    """40 examples at the default size."""
    return draw(40)


def test_seed_decides_every_byte(small_data, tmp_path):
    make_data_set(tmp_path / "same")
    make_data_set(tmp_path / "other", seed=8)
    fingerprint = read_record(small_data, "dataset")["fingerprint"]
    assert read_record(tmp_path / "same", "dataset")["fingerprint"] == fingerprint
    assert read_record(tmp_path / "other", "dataset")["fingerprint"] != fingerprint


def test_examples_are_independent_of_each_other():
    """They can be drawn in any order, and a larger data set starts with the smaller one."""
    part = synthetic.drawn_animals(3, (32, 32), 7).splits["test"]
    assert part.number == synthetic.COUNTS["test"]
    first, second = (list(itertools.islice(part.read(), 4)) for _ in range(2))
    backwards = [(sample.mask.fetch(), sample.image.fetch()) for sample in reversed(first)][::-1]
    assert backwards == [(sample.mask.fetch(), sample.image.fetch()) for sample in second]
    assert len({image for _, image in backwards}) == 4


def test_pictures_are_the_same_for_every_number_of_classes():
    """With 2 or 6 classes, only the masks differ from those with 3."""
    arrays = {number: draw(6, number, (64, 64)) for number in synthetic.KINDS}
    for number, (images, masks) in arrays.items():
        np.testing.assert_array_equal(images, arrays[3][0])
        assert set(np.unique(masks)) == set(range(number)), "every class occurs"
    border = ndimage.binary_dilation(arrays[3][1] == 2, iterations=1, structure=np.ones((1, 3, 3)))
    pets = [(arrays[number][1] == 0) for number in (2, 3, 6)]
    assert (pets[0] == pets[2]).all(), "the whole animal is pet"
    assert ((pets[0] == pets[1]) | border).all(), "the same but for the border of 3"


def test_ground_is_below_the_wall():
    """On average over the rows of 12 masks with 6 classes."""
    _, masks = draw(12, 6, (64, 64))
    names = synthetic.KINDS[6]
    rows = {name: np.nonzero(masks == k)[1].mean() for k, name in enumerate(names)}
    assert rows["wall"] < 32 < rows["ground"]


def test_size_need_not_be_square():
    images, masks = draw(2, 2, (32, 96))
    assert images.shape == (2, 32, 96, 3) and masks.shape == (2, 32, 96)


def test_class_shares_are_close_to_those_of_the_pets(drawn):
    """Pets: 0.300, 0.587, 0.114. Drawn animals are smaller, with a border as wide."""
    shares = np.bincount(drawn[1].ravel(), minlength=3) / drawn[1].size
    assert (np.abs(shares - (0.300, 0.587, 0.114)) < (0.15, 0.15, 0.04)).all(), shares


def test_border_is_a_band_between_pet_and_background(drawn):
    for mask in drawn[1]:
        border = mask == 2
        for value in (0, 1):
            distance = ndimage.distance_transform_edt(mask != value)
            # Thin parts, such as tails, are all border, so their pixels may be far from pet.
            assert np.percentile(distance[border], 80) < 12, value
        touching = ndimage.binary_dilation(mask == 0) & (mask == 1)
        assert not touching.any(), "there is a border between pet and background everywhere"


def test_colour_alone_does_not_separate_pet_and_background(drawn):
    """Otherwise a colour histogram would do, and the data set would not test a network."""
    images, masks = drawn
    pixels, pet = images.reshape(-1, 3) // 32, masks.ravel() == 0
    cells = pixels @ np.array([64, 8, 1])
    votes = np.bincount(cells, pet - np.mean(pet), 512)
    accuracy = np.mean((votes[cells] > 0) == pet)
    assert accuracy < 0.8
