"""The first stage: a data set is replaced at once or not at all, and the real one is whole."""

import io
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import COUNTS, ROOT, encoded, halves, make_data_set, photograph
from PIL import Image

import data_preparation
from pipeline.artifacts import read_record
from pipeline.console import UserError
from pipeline.dataset import SPLITS, load_split
from pipeline.examples import NO_PET, ODD_SIZES, ODD_VALUES, UNREADABLE
from pipeline.packages import tf, tfds

SIZE = 64


# --- replacing a data set -----------------------------------------------------------------


@pytest.mark.parametrize("moment", ["in the middle of an array", "before dataset.json"])
def test_killed_preparation_leaves_the_old_data_set_whole(data_copy, moment):
    before = {split: [np.array(a) for a in load_split(data_copy, split)] for split in SPLITS}
    program = f"""
import os, signal, sys
import numpy, data_preparation
from pipeline import dataset, synthetic
save, calls = numpy.save, []
def killed(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)
def save_two(file, array):
    calls.append(file)
    if len(calls) == 3:
        file.write_bytes(array.tobytes()[:1000])
        killed()
    save(file, array)
if {moment!r} == "before dataset.json":
    dataset.write_json = killed
else:
    numpy.save = save_two
synthetic.COUNTS = {COUNTS}
where = ["--models-dir", sys.argv[1], "--dataset", "synthetic"]
data_preparation.main([*where, "--image-size", "32", "--seed", "8"])
"""
    command = [sys.executable, "-c", program, data_copy]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    for split in SPLITS:
        for old, now in zip(before[split], load_split(data_copy, split)):
            assert (old == now).all()
    make_data_set(data_copy, seed=8)
    left = os.listdir(data_copy / "dataset")
    assert len(left) == 7, "what the killed run left is still there"


def test_replaced_data_set_leaves_no_old_arrays(data_copy):
    old = read_record(data_copy, "dataset")["fingerprint"]
    make_data_set(data_copy, seed=9)
    files = os.listdir(data_copy / "dataset")
    assert len(files) == 7 and not [name for name in files if old[:8] in name]


def test_picture_beside_the_models_is_drawn(small_data):
    with Image.open(small_data / "dataset.jpg") as picture:
        assert picture.width > 500 and np.asarray(picture).std() > 20


# --- TensorFlow Datasets ------------------------------------------------------------------


@pytest.fixture
def tfds_folder(tmp_path):
    """A tiny oxford_iiit_pet/4.0.0 as TFDS lays it out, with photographs of full size."""
    sizes = [(500, 375), (333, 500), (300, 225), (500, 333), (267, 400)]
    folder = tmp_path / "tensorflow_datasets" / "oxford_iiit_pet" / "4.0.0"
    folder.mkdir(parents=True)
    features = tfds.builder("oxford_iiit_pet:4.0.0", data_dir=tmp_path / "empty").info.features
    splits = []
    for split, number in (("train", 10), ("test", 5)):
        records = []
        for k in range(number):
            width, height = sizes[k % len(sizes)]
            example = {
                "image": io.BytesIO(encoded(photograph(width, height), quality=95)),
                "segmentation_mask": io.BytesIO(encoded(halves(width, height), "png")),
                "label": k,
                "species": 0,
                "file_name": f"{k}.jpg",
                "head_bbox": tfds.features.BBox(0.0, 0.0, 1.0, 1.0),
            }
            records.append(features.serialize_example(features.encode_example(example)))
        path = folder / f"oxford_iiit_pet-{split}.tfrecord-00000-of-00001"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in records:
                writer.write(record)
        about = {
            "name": split,
            "shardLengths": [str(number)],
            "numBytes": str(sum(map(len, records))),
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        }
        splits.append(about)
    features.save_config(folder)
    info = {
        "name": "oxford_iiit_pet",
        "version": "4.0.0",
        "fileFormat": "tfrecord",
        "splits": splits,
        "moduleName": "tensorflow_datasets.datasets.oxford_iiit_pet."
        "oxford_iiit_pet_dataset_builder",
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return tmp_path / "tensorflow_datasets"


@pytest.mark.parametrize("named_by", ["flag", "environment"])
def test_full_size_photographs_are_read_from_a_tfds_folder(
    tfds_folder, tmp_path, monkeypatch, named_by
):
    models_dir = tmp_path / "models"
    arguments = ["--models-dir", str(models_dir), "--image-size", str(SIZE)]
    if named_by == "flag":
        arguments += ["--data-dir", str(tfds_folder)]
    else:
        monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_folder))
    data_preparation.main(arguments)
    facts = read_record(models_dir, "dataset")
    counts = {split: facts["splits"][split]["examples"] for split in SPLITS}
    assert counts == {"train": 9, "validation": 1, "test": 5}
    assert facts["metrics"]["audit"] == {UNREADABLE: 0, ODD_VALUES: 0, NO_PET: 0, ODD_SIZES: 0}
    parts = [load_split(models_dir, split) for split in SPLITS]
    images = np.concatenate([images for images, _ in parts])
    masks = np.concatenate([masks for _, masks in parts])
    assert (masks[:, :, :30] == 0).all() and (masks[:, :, 34:] == 1).all()
    assert np.abs(images[:, :, :30].astype(int) - (220, 40, 60)).max() <= 6


def test_tfds_folder_that_was_cut_short_leaves_the_old_data_set(tfds_folder, data_copy):
    """As after a copy that was broken off."""
    path = next(tfds_folder.rglob("*train.tfrecord*"))
    os.truncate(path, path.stat().st_size // 2)
    before = read_record(data_copy, "dataset")
    where = ["--models-dir", str(data_copy), "--data-dir", str(tfds_folder)]
    with pytest.raises(UserError, match=r"the train split in .* is damaged .*copy it again"):
        data_preparation.main([*where, "--image-size", str(SIZE)])
    assert read_record(data_copy, "dataset") == before
    assert len(load_split(data_copy, "train")[0]) == 36


def test_real_data_set_has_its_documented_counts_and_shares(shared_data, tmp_path):
    where = ["--models-dir", str(tmp_path), "--data-dir", str(shared_data)]
    data_preparation.main([*where, "--image-size", "32"])
    facts = read_record(tmp_path, "dataset")
    counts = {split: facts["splits"][split]["examples"] for split in SPLITS}
    assert counts == {"train": 3312, "validation": 368, "test": 3669}
    assert facts["metrics"]["audit"] == {UNREADABLE: 0, ODD_VALUES: 0, NO_PET: 14, ODD_SIZES: 0}
    masks = {split: load_split(tmp_path, split)[1] for split in SPLITS}
    official = {
        "train": np.concatenate([masks["train"], masks["validation"]]),
        "test": masks["test"],
    }
    for split, expected in (("train", (0.300, 0.587, 0.114)), ("test", (0.300, 0.577, 0.123))):
        shares = np.bincount(official[split].ravel(), minlength=3) / official[split].size
        assert np.abs(shares - expected).max() < 0.002, (split, shares)
