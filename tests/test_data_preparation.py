"""The data set: drawn, from a folder of photographs, from TensorFlow Datasets, and what is wrong in each."""

import hashlib
import io
import itertools
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import COUNTS, ROOT, make_data_set
from PIL import Image
from scipy import ndimage

import data_preparation
import pipeline
from data_preparation import NO_PET, ODD_SIZES, ODD_VALUES, UNREADABLE, load_split

SPLITS = ("train", "validation", "test")
SIZE = 64


def about(models_dir):
    return pipeline.read_record(models_dir, "dataset")


def prepare_folder(data_dir, models_dir, *arguments):
    data_preparation.main(["--models-dir", str(models_dir), "--dataset", "folder", "--data-dir", str(data_dir),
                           "--image-size", str(SIZE), *arguments])  # fmt: skip


def all_examples(models_dir):
    """Images and masks of all three splits, one after the other."""
    parts = [load_split(models_dir, split) for split in SPLITS]
    return np.concatenate([images for images, _ in parts]), np.concatenate([masks for _, masks in parts])


def encoded(image, kind="jpeg", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def halves(width, height):
    """A trimap whose left half is pet and whose right half is background."""
    trimap = np.full((height, width), 2, np.uint8)
    trimap[:, : width // 2] = 1
    return Image.fromarray(trimap)


def photograph(width, height, left=(220, 40, 60), right=(30, 90, 200)):
    """Left half one colour, right half another: the picture that `halves` is the truth of."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:, : width // 2], pixels[:, width // 2 :] = left, right
    return Image.fromarray(pixels)


@pytest.fixture
def folder(tmp_path):
    """A folder of photographs, and what adds one to it. Ten plain ones are there from the start."""
    for kind in ("images", "masks"):
        (tmp_path / "photos" / kind).mkdir(parents=True)

    def add(name, image, mask):
        (tmp_path / "photos" / "images" / name).write_bytes(image)
        (tmp_path / "photos" / "masks" / name).with_suffix(".png").write_bytes(mask)

    for number in range(10):
        add(f"plain{number}.jpg", encoded(photograph(80, 60 + number)), encoded(halves(80, 60 + number), "png"))
    add.path, add.models_dir = tmp_path / "photos", tmp_path / "models"
    return add


# --- the synthetic data set ---------------------------------------------------------------


def test_seed_decides_every_byte(small_data, tmp_path):
    make_data_set(tmp_path / "same")
    make_data_set(tmp_path / "other", seed=8)
    assert about(tmp_path / "same")["fingerprint"] == about(small_data)["fingerprint"]
    assert about(tmp_path / "other")["fingerprint"] != about(small_data)["fingerprint"]


def test_synthetic_splits_have_the_documented_sizes_and_types(small_data):
    facts = about(small_data)
    assert facts["synthetic"] is True and facts["class_names"] == ["pet", "background", "border"]
    for split, number in (("train", 36), ("validation", 4), ("test", COUNTS["test"])):
        images, masks = load_split(small_data, split)
        assert images.shape == (number, 32, 32, 3) and masks.shape == (number, 32, 32)
        assert images.dtype == masks.dtype == np.uint8
        assert set(np.unique(masks)) == {0, 1, 2}
        assert facts["splits"][split]["examples"] == number


def test_recorded_class_shares_are_those_of_the_masks(small_data):
    for split, facts in about(small_data)["splits"].items():
        _, masks = load_split(small_data, split)
        for value, name in enumerate(pipeline.CLASSES):
            assert facts["class_shares"][name] == pytest.approx(np.mean(masks == value), abs=1e-4)


def test_no_picture_is_in_two_splits(small_data):
    pictures = {split: {hashlib.sha256(image).digest() for image in load_split(small_data, split)[0]} for split in SPLITS}
    assert sum(map(len, pictures.values())) == sum(COUNTS.values())
    assert len(set.union(*pictures.values())) == sum(COUNTS.values())


@pytest.fixture(scope="module")
def drawn():
    """40 drawn examples at the size the pipeline uses."""
    _, sources = data_preparation.draw_synthetic("train", 128, 7)
    pairs = [data_preparation.decode(source, 128)[:2] for source in itertools.islice(sources, 40)]
    return np.stack([image for image, _ in pairs]), np.stack([mask for _, mask in pairs])


def test_synthetic_class_shares_are_of_the_order_of_the_real_ones(drawn):
    """Real: 0.300, 0.587, 0.114. The drawn animals are smaller; their border is as wide."""
    shares = np.bincount(drawn[1].ravel(), minlength=3) / drawn[1].size
    assert (np.abs(shares - (0.300, 0.587, 0.114)) < (0.15, 0.15, 0.04)).all(), shares


def test_synthetic_border_is_a_band_between_pet_and_background(drawn):
    for mask in drawn[1]:
        border = mask == 2
        for value in (0, 1):
            distance = ndimage.distance_transform_edt(mask != value)
            # Thin parts, such as tails, are border throughout: their pixels may be far from the pet.
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


# --- photographs --------------------------------------------------------------------------


def test_folder_is_cut_into_three_splits_by_the_seed(folder):
    for number in range(10, 40):
        folder(f"more{number}.jpg", encoded(photograph(80 + number, 60)), encoded(halves(80 + number, 60), "png"))
    prepare_folder(folder.path, folder.models_dir)
    facts = about(folder.models_dir)
    assert {split: facts["splits"][split]["examples"] for split in SPLITS} == {"train": 29, "validation": 3, "test": 8}
    assert facts["metrics"]["audit"] == {UNREADABLE: 0, ODD_VALUES: 0, NO_PET: 0, ODD_SIZES: 0}
    prepare_folder(folder.path, folder.models_dir.with_name("again"))
    assert about(folder.models_dir.with_name("again"))["fingerprint"] == facts["fingerprint"]
    prepare_folder(folder.path, folder.models_dir.with_name("other"), "--seed", "8")
    assert about(folder.models_dir.with_name("other"))["fingerprint"] != facts["fingerprint"]


MODES = {
    "landscape": (500, 375, lambda image: encoded(image, quality=95)),
    "portrait": (333, 500, lambda image: encoded(image, quality=95)),
    "smaller than the square": (50, 40, lambda image: encoded(image, "png")),
    "RGBA": (500, 375, lambda image: encoded(image.convert("RGBA"), "png")),
    "palette": (333, 500, lambda image: encoded(image.quantize(), "png")),
    "palette with transparency": (333, 500, lambda image: encoded(image.quantize(), "png", transparency=0)),
    "CMYK": (500, 375, lambda image: encoded(image.convert("CMYK"), quality=95)),
}


@pytest.mark.parametrize("mode", MODES)
def test_photograph_of_any_size_and_mode_keeps_its_colours_and_halves(mode):
    width, height, encode = MODES[mode]
    source = encode(photograph(width, height)), encoded(halves(width, height), "png")
    image, mask, blemishes = data_preparation.decode(lambda: source, SIZE)
    assert blemishes == []
    edge = SIZE * (width // 2) / width
    left, right = int(edge - 2), int(edge + 3)
    assert (mask[:, :left] == 0).all() and (mask[:, right:] == 1).all() and set(np.unique(mask)) == {0, 1}
    assert np.abs(image[:, :left].astype(int) - (220, 40, 60)).max() <= 6
    assert np.abs(image[:, right:].astype(int) - (30, 90, 200)).max() <= 6


def test_grey_photograph_becomes_three_equal_channels():
    grey = photograph(500, 375).convert("L")
    source = encoded(grey, quality=95), encoded(halves(500, 375), "png")
    image, mask, _ = data_preparation.decode(lambda: source, SIZE)
    assert (image[..., 0] == image[..., 1]).all() and (image[..., 1] == image[..., 2]).all()
    assert abs(int(image[5, 5, 0]) - grey.getpixel((5, 5))) <= 3
    assert np.mean(mask == 0) == 0.5


def test_shrinking_averages_pixels_but_never_classes():
    """Fine stripes: the picture must turn grey instead of flickering, the mask may hold no class in between."""
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    trimap = np.where(np.indices((512, 512)).sum(axis=0) % 2, 1, 3).astype(np.uint8)
    image, mask, _ = data_preparation.decode(lambda: (encoded(Image.fromarray(stripes), "png"),
                                                      encoded(Image.fromarray(trimap), "png")), SIZE)  # fmt: skip
    assert np.abs(image.astype(int) - 127).max() <= 6
    assert set(np.unique(mask)) <= {0, 2}


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_mask_saved_in_another_mode_means_the_same(mode):
    trimap = halves(80, 60)
    if mode == "P":
        trimap.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])  # colours to look at; the values are the indices
    else:
        trimap = trimap.convert(mode)
    source = encoded(photograph(80, 60), "png"), encoded(trimap, "png")
    _, mask, blemishes = data_preparation.decode(lambda: source, SIZE)
    assert blemishes == []
    assert (mask == np.repeat([[0, 1]], SIZE // 2, axis=1)).all()


def test_audit_counts_every_blemish_and_keeps_what_can_be_used(folder):
    picture, good = encoded(photograph(80, 60)), encoded(halves(80, 60), "png")
    for number in range(20):
        folder(f"more{number}.png", encoded(photograph(90 + number, 60), "png"), encoded(halves(90 + number, 60), "png"))
    folder("unreadable image.jpg", b"no picture", good)
    folder("cut short.jpg", encoded(photograph(400, 300), quality=95)[:900], good)
    folder("unreadable mask.jpg", picture, good[:40])
    folder("zero.jpg", picture, encoded(Image.fromarray(np.zeros((60, 80), np.uint8)), "png"))
    folder("four.jpg", picture, encoded(Image.fromarray(np.full((60, 80), 4, np.uint8)), "png"))
    folder("grey levels.jpg", picture, encoded(Image.fromarray(np.asarray(halves(80, 60)) * 100), "png"))
    folder("no pet.jpg", picture, encoded(Image.fromarray(np.full((60, 80), 2, np.uint8)), "png"))
    folder("odd size.jpg", picture, encoded(halves(120, 60), "png"))
    prepare_folder(folder.path, folder.models_dir)
    facts = about(folder.models_dir)
    assert facts["metrics"]["audit"] == {UNREADABLE: 3, ODD_VALUES: 3, NO_PET: 1, ODD_SIZES: 1}
    assert sum(split["examples"] for split in facts["splits"].values()) == 32
    assert sum((masks != 0).all() for masks in all_examples(folder.models_dir)[1]) == 1


def test_set_that_is_mostly_unusable_is_refused(folder):
    for path in sorted((folder.path / "images").iterdir())[:9]:
        path.write_bytes(b"no picture")
    with pytest.raises(pipeline.UserError, match=r"only \d of \d+ \w+ examples can be used: \d unreadable"):
        prepare_folder(folder.path, folder.models_dir)
    assert not (folder.models_dir / "dataset" / "dataset.json").exists()


def test_photograph_without_mask_is_named(folder):
    (folder.path / "masks" / "plain3.png").unlink()
    with pytest.raises(pipeline.UserError, match=r"masks/plain3\.png is missing; draw it or remove .*plain3\.jpg"):
        prepare_folder(folder.path, folder.models_dir)


# --- TensorFlow Datasets ------------------------------------------------------------------


@pytest.fixture
def tfds_folder(tmp_path):
    """A tiny oxford_iiit_pet/4.0.0 as TFDS lays it out, with photographs of full size."""
    with pipeline.silenced():
        import tensorflow as tf
        import tensorflow_datasets as tfds

    sizes = [(500, 375), (333, 500), (300, 225), (500, 333), (267, 400)]
    folder = tmp_path / "tensorflow_datasets" / "oxford_iiit_pet" / "4.0.0"
    folder.mkdir(parents=True)
    features = tfds.builder("oxford_iiit_pet:4.0.0", data_dir=tmp_path / "empty").info.features
    splits = []
    for split, number in (("train", 10), ("test", 5)):
        records = []
        for k in range(number):
            width, height = sizes[k % len(sizes)]
            image, mask = encoded(photograph(width, height), quality=95), encoded(halves(width, height), "png")
            records.append(features.serialize_example(features.encode_example({
                "image": io.BytesIO(image), "segmentation_mask": io.BytesIO(mask), "label": k, "species": 0,
                "file_name": f"{k}.jpg", "head_bbox": tfds.features.BBox(0.0, 0.0, 1.0, 1.0)})))  # fmt: skip
        with tf.io.TFRecordWriter(str(folder / f"oxford_iiit_pet-{split}.tfrecord-00000-of-00001")) as writer:
            for record in records:
                writer.write(record)
        splits.append({"name": split, "shardLengths": [str(number)], "numBytes": str(sum(map(len, records))),
                       "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"})  # fmt: skip
    features.save_config(folder)
    info = {"name": "oxford_iiit_pet", "version": "4.0.0", "fileFormat": "tfrecord", "splits": splits,
            "moduleName": "tensorflow_datasets.datasets.oxford_iiit_pet.oxford_iiit_pet_dataset_builder"}  # fmt: skip
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return tmp_path / "tensorflow_datasets"


@pytest.mark.parametrize("named_by", ["flag", "environment"])
def test_full_size_photographs_are_read_from_a_tfds_folder(tfds_folder, tmp_path, monkeypatch, named_by):
    arguments = ["--models-dir", str(tmp_path / "models"), "--image-size", str(SIZE)]
    if named_by == "flag":
        arguments += ["--data-dir", str(tfds_folder)]
    else:
        monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_folder))
    data_preparation.main(arguments)
    facts = about(tmp_path / "models")
    assert {split: facts["splits"][split]["examples"] for split in SPLITS} == {"train": 9, "validation": 1, "test": 5}
    assert facts["metrics"]["audit"] == {UNREADABLE: 0, ODD_VALUES: 0, NO_PET: 0, ODD_SIZES: 0}
    images, masks = all_examples(tmp_path / "models")
    assert (masks[:, :, :30] == 0).all() and (masks[:, :, 34:] == 1).all()
    assert np.abs(images[:, :, :30].astype(int) - (220, 40, 60)).max() <= 6


def test_machine_without_data_and_network_is_told_both_ways_out(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def offline(*_, **__):
        raise ConnectionError("no route to host\nand a second line")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", offline)
    with pytest.raises(pipeline.UserError) as caught:
        data_preparation.main(["--models-dir", str(tmp_path / "models"), "--data-dir", str(tmp_path / "empty")])
    message = str(caught.value)
    assert str(tmp_path / "empty") in message and "ConnectionError" in message
    assert "--data-dir DIR" in message and "python data_preparation.py --dataset synthetic" in message
    assert "\n" not in message


def test_real_data_set_has_its_documented_counts_and_shares(shared_data, tmp_path):
    data_preparation.main(["--models-dir", str(tmp_path), "--data-dir", str(shared_data), "--image-size", "32"])
    facts = about(tmp_path)
    assert {split: facts["splits"][split]["examples"] for split in SPLITS} == {"train": 3312, "validation": 368, "test": 3669}
    assert facts["metrics"]["audit"] == {UNREADABLE: 0, ODD_VALUES: 0, NO_PET: 14, ODD_SIZES: 0}
    masks = {split: load_split(tmp_path, split)[1] for split in SPLITS}
    official = {"train": np.concatenate([masks["train"], masks["validation"]]), "test": masks["test"]}
    for split, expected in (("train", (0.300, 0.587, 0.114)), ("test", (0.300, 0.577, 0.123))):
        shares = np.bincount(official[split].ravel(), minlength=3) / official[split].size
        assert np.abs(shares - expected).max() < 0.002, (split, shares)


# --- replacing a data set -----------------------------------------------------------------


@pytest.mark.parametrize("moment", ["in the middle of an array", "before dataset.json"])
def test_killed_preparation_leaves_the_old_data_set_whole(data_copy, moment):
    before = {split: [np.array(a) for a in load_split(data_copy, split)] for split in SPLITS}
    program = f"""
import os, signal, sys
import numpy, data_preparation, pipeline
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
    pipeline.write_json = killed
else:
    numpy.save = save_two
data_preparation.SYNTHETIC_COUNTS = {COUNTS}
data_preparation.main(["--models-dir", sys.argv[1], "--dataset", "synthetic", "--image-size", "32", "--seed", "8"])
"""
    done = subprocess.run([sys.executable, "-c", program, data_copy], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    for split in SPLITS:
        for old, now in zip(before[split], load_split(data_copy, split)):
            assert (old == now).all()
    make_data_set(data_copy, seed=8)
    assert len(list((data_copy / "dataset").iterdir())) == 7, "what the killed run left is still there"


def test_replaced_data_set_leaves_no_old_arrays(data_copy):
    old = about(data_copy)["fingerprint"]
    make_data_set(data_copy, seed=9)
    files = os.listdir(data_copy / "dataset")
    assert len(files) == 7 and not [name for name in files if old[:8] in name]


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:500])])
def test_array_that_is_missing_or_cut_short_is_reported(data_copy, damage):
    damage(next((data_copy / "dataset").glob("train_masks-*.npy")))
    with pytest.raises(pipeline.UserError, match=r"is not whole .*make it anew with: python data_preparation\.py"):
        load_split(data_copy, "train")


def test_picture_beside_the_models_is_drawn(small_data):
    with Image.open(small_data / "dataset.jpg") as picture:
        assert picture.width > 500 and np.asarray(picture).std() > 20
