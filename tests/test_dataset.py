"""The prepared data set: three splits that share no picture, and a record that tells the truth."""

import hashlib
import os

import numpy as np
import pytest
from conftest import COUNTS

from pipeline.artifacts import read_record
from pipeline.console import UserError
from pipeline.dataset import CLASSES, SPLITS, cut_validation, load_split


def test_splits_have_the_documented_sizes_and_types(small_data):
    facts = read_record(small_data, "dataset")
    assert facts["synthetic"] is True and facts["class_names"] == ["pet", "background", "border"]
    for split, number in (("train", 36), ("validation", 4), ("test", COUNTS["test"])):
        images, masks = load_split(small_data, split)
        assert images.shape == (number, 32, 32, 3) and masks.shape == (number, 32, 32)
        assert images.dtype == masks.dtype == np.uint8
        assert set(np.unique(masks)) == {0, 1, 2}
        assert facts["splits"][split]["examples"] == number


def test_recorded_class_shares_are_those_of_the_masks(small_data):
    for split, facts in read_record(small_data, "dataset")["splits"].items():
        _, masks = load_split(small_data, split)
        for value, name in enumerate(CLASSES):
            assert facts["class_shares"][name] == pytest.approx(np.mean(masks == value), abs=1e-4)


def test_no_picture_is_in_two_splits(small_data):
    pictures = [
        {hashlib.sha256(image).digest() for image in load_split(small_data, split)[0]}
        for split in SPLITS
    ]
    assert sum(map(len, pictures)) == sum(COUNTS.values())
    assert len(set.union(*pictures)) == sum(COUNTS.values())


def test_validation_is_cut_by_the_seed_and_pictures_keep_their_masks():
    number = np.arange(50, dtype=np.uint8)
    images, masks = number[:, None, None, None], number[:, None, None]
    first, again, other = (cut_validation((images, masks), 0.1, seed) for seed in (7, 7, 8))
    for split, count in (("train", 45), ("validation", 5)):
        assert len(first[split][0]) == count
        assert (first[split][0].ravel() == first[split][1].ravel()).all()
        assert (first[split][0] == again[split][0]).all()
    assert set(first["validation"][0].ravel()) != set(other["validation"][0].ravel())


def test_splits_are_mapped_and_not_read_into_memory(small_data):
    assert all(isinstance(part, np.memmap) for part in load_split(small_data, "train"))


@pytest.mark.parametrize("damage", ["missing", "cut short", "another byte"])
def test_array_that_is_not_what_was_written_is_reported(data_copy, damage):
    path = next((data_copy / "dataset").glob("train_masks-*.npy"))
    if damage == "missing":
        path.unlink()
    elif damage == "cut short":
        os.truncate(path, 500)
    else:  # of a mask: it would train, only worse
        with path.open("r+b") as file:
            file.seek(5000)
            file.write(b"\3")
    expected = r"is not whole .*make it anew with: python .*data_preparation\.py"
    with pytest.raises(UserError, match=expected):
        load_split(data_copy, "train")
    assert len(load_split(data_copy, "test")[0]) == COUNTS["test"], "the others are whole"
