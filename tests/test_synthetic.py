"""Drawn animals: the seed decides every byte, and the task is like the real one, no easier."""

import itertools

import numpy as np
import pytest
from conftest import make_data_set
from scipy import ndimage

from pipeline import synthetic
from pipeline.artifacts import read_record
from pipeline.examples import decode


@pytest.fixture(scope="module")
def drawn():
    """40 drawn examples at the size the pipeline uses."""
    _, sources = synthetic.draw_synthetic("train", 128, 7)
    pairs = [decode(source, 128)[:2] for source in itertools.islice(sources, 40)]
    return np.stack([image for image, _ in pairs]), np.stack([mask for _, mask in pairs])


def test_seed_decides_every_byte(small_data, tmp_path):
    make_data_set(tmp_path / "same")
    make_data_set(tmp_path / "other", seed=8)
    fingerprint = read_record(small_data, "dataset")["fingerprint"]
    assert read_record(tmp_path / "same", "dataset")["fingerprint"] == fingerprint
    assert read_record(tmp_path / "other", "dataset")["fingerprint"] != fingerprint


def test_example_depends_on_no_other():
    """So that workers may draw them in any order, and a larger set begins with the smaller one."""
    number, sources = synthetic.draw_synthetic("test", 32, 7)
    sources = list(itertools.islice(sources, 4))
    assert number == synthetic.COUNTS["test"]
    assert [source() for source in reversed(sources)][::-1] == [
        source() for source in itertools.islice(synthetic.draw_synthetic("test", 32, 7)[1], 4)
    ]


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
