"""The prepared data set: three splits that share no picture, and a record that tells the truth."""

import hashlib
import os
import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.base.artifacts import read_record
from pipeline.base.console import UserError
from pipeline.data import dataset, dataset_writer
from pipeline.data.classes import IGNORED, make_classes
from pipeline.data.dataset import SPLITS, load_classes, load_size, load_split
from pipeline.data.dataset_writer import DataSetWriter
from pipeline.data.split_selection import cut_validation
from tests.helpers.runs import CLASSES, COUNTS


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
            assert facts["class_shares"][name] == pytest.approx(
                np.mean(masks[:] == value), abs=1e-4
            )


def test_no_picture_is_in_two_splits(small_data):
    pictures = [
        {hashlib.sha256(image).digest() for image in load_split(small_data, split)[0]}
        for split in SPLITS
    ]
    assert sum(map(len, pictures)) == sum(COUNTS.values())
    assert len(set.union(*pictures)) == sum(COUNTS.values())


def test_validation_is_cut_by_the_seed():
    first, again, other = (cut_validation(50, 0.1, seed) for seed in (7, 7, 8))
    assert first.sum() == 5 and (first == again).all() and (first != other).any()
    assert cut_validation(3, 0.1, 7).sum() == 1, "never empty"


# --- shards -------------------------------------------------------------------------------


@pytest.fixture
def sharded(tmp_path, monkeypatch):
    """23 pictures in shards of 5, and what was put in."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (23, 32, 64, 3), np.uint8)
    masks = random.choice(np.array([0, 1, IGNORED], np.uint8), (23, 32, 64), p=(0.6, 0.3, 0.1))
    monkeypatch.setattr(dataset_writer, "SHARD_BYTES", 5 * images[0].nbytes)
    write(tmp_path, images, masks)
    return tmp_path, images, masks


def write(models_dir, images, masks):
    classes = make_classes(("cat", "dog"), ignored=True)
    writer = DataSetWriter(models_dir / "dataset", classes)
    for split in SPLITS:
        for image, mask in zip(images, masks):
            writer.add(split, image, mask)
    splits, fingerprint = writer.describe()
    record = {"sha256": fingerprint, "inputs": {}, "settings": {}, "code": {}, "versions": {}}
    record |= {"metrics": {}, "wall_seconds": 1}
    writer.finish({"image_size": [64, 32], "splits": splits, **record})


def test_shards_read_like_one_array(sharded):
    models_dir, images, masks = sharded
    found, truth = load_split(models_dir, "train")
    assert len(found.shards) == 5 and found.shape == images.shape and len(truth) == 23
    assert all(isinstance(shard, np.memmap) for shard in found.shards)
    chosen = np.array([22, 0, 4, 5, 5, -1, 13])
    for rows in (0, -1, 22, slice(None), slice(3, 17), slice(20, 99), chosen, [7], chosen[:0]):
        np.testing.assert_array_equal(found[rows], images[rows])
        np.testing.assert_array_equal(truth[rows], masks[rows])
    np.testing.assert_array_equal(np.asarray(truth), masks)
    np.testing.assert_array_equal(np.stack(list(found)), images)
    for beyond in (23, -24, [0, 23]):
        with pytest.raises(IndexError):
            found[beyond]


def test_pages_that_were_read_are_given_back(sharded, monkeypatch):
    """What a process has read of a data set must not add up in its memory."""
    monkeypatch.setattr(dataset, "RESIDENT_BYTES", 0)
    images = load_split(sharded[0], "train")[0]
    np.testing.assert_array_equal(images[:], sharded[1])
    ours = re.escape(str(sharded[0])) + "/dataset/train_images"
    maps = Path("/proc/self/smaps").read_text(encoding="utf-8")
    mapped = re.findall(ours + r"\S+\n.*?Rss: +(\d+) kB", maps, re.DOTALL)
    assert mapped and not any(map(int, mapped))


def test_record_counts_pixels_and_pictures_of_each_class(sharded):
    models_dir, _, masks = sharded
    assert load_size(models_dir) == (32, 64)
    classes = load_classes(models_dir)
    assert classes.names == ("cat", "dog") and classes.ignored
    facts = read_record(models_dir, "dataset")["splits"]["test"]
    dogs, known = np.mean(masks == 1), np.mean(masks != IGNORED)
    assert facts["class_shares"]["dog"] == pytest.approx(dogs / known, abs=1e-6)
    assert facts["ignored_share"] == pytest.approx(1 - known, abs=1e-6)
    assert facts["class_pictures"] == {"cat": 23, "dog": 23}


def test_writing_holds_one_shard_of_each_split(tmp_path, monkeypatch):
    image, mask = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.uint8)
    monkeypatch.setattr(dataset_writer, "SHARD_BYTES", 4 * image.nbytes)
    writer = DataSetWriter(tmp_path, make_classes(("cat", "dog")))
    for _ in range(50):
        writer.add("train", image, mask)
        assert len(writer.waiting["train"]) < 4


def test_old_data_set_stays_until_the_new_one_is_whole(sharded):
    models_dir, images, masks = sharded
    writer = DataSetWriter(models_dir / "dataset", make_classes(("cat", "dog")))
    for image, mask in zip(images[::-1], masks):
        writer.add("train", image, mask)  # and then it is killed
    np.testing.assert_array_equal(load_split(models_dir, "train")[0][:], images)
    write(models_dir, images[:6], masks[:6])
    assert len(load_split(models_dir, "test")[0]) == 6
    left = {path.name for path in (models_dir / "dataset").glob("*.npy")}
    files = read_record(models_dir, "dataset")["files"].values()
    assert left == {name for shards in files for name, _ in shards}, "nothing of the others"


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
