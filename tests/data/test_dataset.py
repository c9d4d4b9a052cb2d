"""The prepared data set: splits, shards, record, and detection of changed files."""

import hashlib
import os
import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.base import fingerprints
from pipeline.base.artifacts import put_record, read_record
from pipeline.base.console import UserError
from pipeline.data import dataset, dataset_writer
from pipeline.data.classes import IGNORED, make_classes
from pipeline.data.dataset import SPLITS, load_classes, load_size, load_split
from pipeline.data.dataset_writer import DataSetWriter
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


def test_recorded_class_shares_equal_those_of_the_masks(small_data):
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


def test_reader_imports_nothing_of_the_writer():
    """So that an edit of the writer changes no fingerprint but that of data preparation."""
    assert (
        "pipeline/data/dataset_writer.py" not in fingerprints.read(Path(dataset.__file__)).modules
    )


# --- shards -------------------------------------------------------------------------------


@pytest.fixture
def sharded(tmp_path, monkeypatch):
    """A data set of 23 pictures in shards of 5, and its images and masks."""
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
    content = {"image_size": [64, 32], "splits": splits, **writer.facts(), **record}
    put_record(models_dir, "dataset", content)
    dataset_writer.remove_leftovers(writer.folder, read_record(models_dir, "dataset"))


def test_shards_read_like_one_array(sharded):
    models_dir, images, masks = sharded
    image_rows, mask_rows = load_split(models_dir, "train")
    assert len(image_rows.shards) == 5 and image_rows.shape == images.shape
    assert len(mask_rows) == 23
    assert all(isinstance(shard, np.memmap) for shard in image_rows.shards)
    np.testing.assert_array_equal(np.asarray(mask_rows), masks)
    np.testing.assert_array_equal(np.stack(list(image_rows)), images)


EVERY_SIXTH = np.arange(23) % 6 == 0
GRID = np.indices((23, 32)).sum(0) % 7 == 0  # of the rows and their lines
INDICES = {
    "integer": (0, 22, -1, -23, np.int64(7), np.uint8(7), np.array(7)),
    "integer beyond the end": (23, -24, [0, 23], [0, -24], np.array([[1], [23]])),
    "slice": (slice(None), slice(3, 17), slice(20, 99), slice(-4, None), slice(5, 5)),
    "slice with a step": (slice(None, None, 3), slice(None, None, -1), slice(19, 2, -5)),
    "list": ([7], [], [22, 0, 4, 5, 5, -1, 13], range(3), [[1, 2], [3, -4]]),
    "array": (np.array([22, 0, 4, 5, 5, -1, 13]), np.empty(0, int), np.array([[9], [-1]])),
    "booleans": (EVERY_SIXTH, EVERY_SIXTH.tolist(), np.zeros(23, bool), np.ones(23, bool)),
    "booleans of another length": (EVERY_SIXTH[:22], np.ones(24, bool), [True, False]),
    "booleans of two axes": (GRID, GRID[:22], GRID[:, :31]),
    "one boolean": (True, False, np.bool_(True)),
    "no number": (1.5, "3", [1.5], np.array([1.0, 2.0]), {}, slice("a", "b")),
    "new axis": (None, (None, 4), (None, EVERY_SIXTH), (4, None), (None, None)),
    "ellipsis": (..., (..., 3), (4, ...), (EVERY_SIXTH, ..., 0)),
    "tuple": ((), (5,), ([5, 1],), (slice(2, 9),), (EVERY_SIXTH,), (23,)),
    "tuple of several axes": (
        *((5, 31), (-1, slice(None), 2), (23, 0), (5, 99), (slice(2, 19, 4), -1)),
        *((slice(2, 5), [0, 1, 2]), ([2, 3, 4], [0, 1, 2]), (5, slice(None), [1, 2])),
        *((EVERY_SIXTH, 3), (EVERY_SIXTH, slice(None), [1, 2]), (GRID, 3), (1, 1, 1, 1, 1)),
    ),
}


def answer(array, index):
    """What an array answers to an index: an array, or the kind and the text of an error."""
    try:
        return np.asarray(array[index])
    except Exception as error:
        return type(error), str(error)


@pytest.mark.parametrize("kind", INDICES)
def test_every_index_has_the_answer_of_numpy(sharded, kind):
    models_dir, images, masks = sharded
    for rows, array in zip(load_split(models_dir, "train"), (images, masks)):
        for index in INDICES[kind]:
            expected, got = answer(array, index), answer(rows, index)
            if isinstance(expected, tuple):
                assert got == expected, index
            else:
                np.testing.assert_array_equal(got, expected, str(index), strict=True)


def test_rows_are_a_copy_that_may_be_changed(sharded):
    rows = load_split(sharded[0], "train")[0]
    for index in (3, slice(2, 9), EVERY_SIXTH, (3, 0), ...):
        rows[index][:] = 0
    np.testing.assert_array_equal(rows[:], sharded[1])


def test_index_of_several_axes_reads_the_rows_that_it_needs(sharded):
    """Not the whole split, which may be larger than the memory."""
    rows = load_split(sharded[0], "train")[0]
    for index in ((5, 0), (slice(5, 6), 0)):
        read = rows.bytes_read
        rows[index]
        assert rows.bytes_read - read == sharded[1][5].nbytes


def test_mapped_pages_are_released_after_reading(sharded, monkeypatch):
    """The memory of a process must not grow with what it has read."""
    monkeypatch.setattr(dataset, "RESIDENT_BYTES", 0)
    images = load_split(sharded[0], "train")[0]
    np.testing.assert_array_equal(images[:], sharded[1])
    pattern = re.escape(str(sharded[0])) + r"/dataset/train_images\S+\n.*?Rss: +(\d+) kB"
    maps = Path("/proc/self/smaps").read_text(encoding="utf-8")
    resident = re.findall(pattern, maps, re.DOTALL)
    assert resident and not any(map(int, resident))


def test_record_counts_pixels_and_pictures_of_each_class(sharded):
    models_dir, _, masks = sharded
    assert load_size(models_dir) == (32, 64)
    classes = load_classes(models_dir)
    assert classes.names == ("cat", "dog") and classes.ignored
    facts = read_record(models_dir, "dataset")["splits"]["test"]
    dogs, classified = np.mean(masks == 1), np.mean(masks != IGNORED)
    assert facts["class_shares"]["dog"] == pytest.approx(dogs / classified, abs=1e-6)
    assert facts["ignored_share"] == pytest.approx(1 - classified, abs=1e-6)
    assert facts["class_pictures"] == {"cat": 23, "dog": 23}


def test_writing_holds_one_shard_of_each_split(tmp_path, monkeypatch):
    image, mask = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.uint8)
    monkeypatch.setattr(dataset_writer, "SHARD_BYTES", 4 * image.nbytes)
    writer = DataSetWriter(tmp_path, make_classes(("cat", "dog")))
    for _ in range(50):
        writer.add("train", image, mask)
        assert len(writer.waiting["train"]) < 4


def test_old_data_set_stays_until_the_new_one_is_complete(sharded):
    models_dir, images, masks = sharded
    writer = DataSetWriter(models_dir / "dataset", make_classes(("cat", "dog")))
    for image, mask in zip(images[::-1], masks):
        writer.add("train", image, mask)  # and is killed before the record is written
    np.testing.assert_array_equal(load_split(models_dir, "train")[0][:], images)
    write(models_dir, images[:6], masks[:6])
    assert len(load_split(models_dir, "test")[0]) == 6
    arrays = {path.name for path in (models_dir / "dataset").glob("*.npy")}
    files = read_record(models_dir, "dataset")["files"].values()
    assert arrays == {name for shards in files for name, _ in shards}, "no other arrays"


@pytest.mark.parametrize("damage", ["missing", "cut short", "another byte"])
def test_missing_or_changed_array_is_refused(data_copy, damage):
    path = next((data_copy / "dataset").glob("train_masks-*.npy"))
    if damage == "missing":
        path.unlink()
    elif damage == "cut short":
        os.truncate(path, 500)
    else:  # training would not notice a changed mask
        with path.open("r+b") as file:
            file.seek(5000)
            file.write(b"\3")
    expected = r"is incomplete or was changed .*make it anew with: .*python .*data_preparation\.py"
    with pytest.raises(UserError, match=expected):
        load_split(data_copy, "train")
    assert len(load_split(data_copy, "test")[0]) == COUNTS["test"], "the other splits can be read"
