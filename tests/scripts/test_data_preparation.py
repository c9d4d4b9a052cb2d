"""data_preparation.py: replacing a data set, command line, folders, TensorFlow Datasets."""

import io
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import data_preparation
from pipeline.base.artifacts import read_record
from pipeline.base.console import UserError
from pipeline.base.lazy import tf, tfds
from pipeline.data.audit import FAULTS
from pipeline.data.classes import IGNORED
from pipeline.data.dataset import SPLITS, load_split
from pipeline.data.decoding import TURNS
from pipeline.report import overlays
from tests.helpers.drawn_sets import prepare, save, stripes, write_set
from tests.helpers.pictures import encoded, halves, photograph
from tests.helpers.runs import COUNTS, ROOT, make_data_set, run_script

SIZE = 64


# --- replacing a data set -----------------------------------------------------------------


@pytest.mark.parametrize("moment", ["in the middle of an array", "before dataset.json"])
def test_killed_run_keeps_the_old_data_set(data_copy, moment):
    before = {split: [part[:] for part in load_split(data_copy, split)] for split in SPLITS}
    program = f"""
import os, signal, sys
import numpy, data_preparation
from pipeline.base import artifacts
from pipeline.data.formats import synthetic
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
    artifacts.write_record = killed
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
            assert (old == now[:]).all()
    make_data_set(data_copy, seed=8)
    left = os.listdir(data_copy / "dataset")
    assert len(left) == 7, "files of the killed run are still there"


@pytest.mark.parametrize("damage", ["missing", "changed", "list"])
def test_data_set_that_is_not_whole_is_made_anew(tmp_path, capsys, damage):
    """It was up to date for `make`, and the next stage refused it."""
    folder, models_dir = write_set(tmp_path / "set", 12), tmp_path / "models"
    before = prepare(models_dir, folder).record
    pattern = "examples-*.csv" if damage == "list" else "validation_masks-*.npy"
    (path,) = (models_dir / "dataset").glob(pattern)
    if damage == "missing":
        path.unlink()
    else:
        with path.open("r+b") as file:
            file.seek(-3, os.SEEK_END)
            file.write(b"\3")
    capsys.readouterr()
    after = prepare(models_dir, folder, "--if-needed").record
    fault = "is missing" if damage == "missing" else "was changed after it was made"
    assert f"runs, because {path.name} {fault}\n" in capsys.readouterr().out
    assert after["files"] == before["files"] and after["listing"] == before["listing"]


def test_old_arrays_are_removed_after_replacement(data_copy):
    """Those of the user stay: they have other names."""
    old, theirs = set(os.listdir(data_copy / "dataset")), {"features.npy", "examples-mine.csv"}
    for name in theirs:
        (data_copy / "dataset" / name).touch()
    make_data_set(data_copy, seed=9)
    files = set(os.listdir(data_copy / "dataset"))
    assert len(files) == 9 and theirs < files and files & old == {"dataset.json"}


def test_dataset_jpg_is_drawn_in_the_models_folder(small_data):
    with Image.open(small_data / "dataset.jpg") as picture:
        assert picture.width > 500 and np.asarray(picture).std() > 20


def test_dataset_jpg_shows_examples_spread_over_the_training_split(data_copy, monkeypatch):
    """Neighbouring files are often of the same scene or class."""
    drawn, examples = [], overlays.examples

    def spied(images, masks, *about):
        drawn.extend((images, masks))
        return examples(images, masks, *about)

    monkeypatch.setattr(overlays, "examples", spied)
    make_data_set(data_copy, seed=8)
    for shown, all_of_them in zip(drawn, load_split(data_copy, "train")):
        assert len(shown) == 6
        assert (shown[[0, -1]] == all_of_them[[0, len(all_of_them) - 1]]).all()


# --- the command line ---------------------------------------------------------------------


def test_old_spelling_gives_the_same_settings(tmp_path):
    """So a data set made with one spelling is up to date for the other."""
    for old, new in (
        (["--dataset", "folder", "--data-dir", "x"], ["--data", "x"]),
        (["--dataset", "synthetic"], ["--data", "synthetic"]),
        (["--dataset", "oxford_iiit_pet"], []),
        (["--data", "oxford_iiit_pet"], ["--data", "pets"]),
    ):
        assert data_preparation.parse(old) == data_preparation.parse(new)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset", "folder"], "--dataset folder needs --data-dir DIR; or use --data DIR"),
        (["--data", "x", "--dataset", "synthetic"], "give one of them"),
        (["--image-size", "100"], "multiples of 32, 32 to 2048; the nearest is 96"),
        (["--image-size", "480x360"], "the nearest is 480x352"),
        (["--image-size", "64x5000"], "the nearest is 64x2048"),
        (["--image-size", "0"], "the nearest is 32"),
        (["--image-size", "wide"], "wide is neither PIXELS nor WIDTHxHEIGHT"),
        (["--skip-bad", "2"], "between 0 and 1"),
        (["--names", "cat"], "1 classes, but 2 to 150 are supported"),
        (["--label-mapping", "255=1"], "write VALUE:CLASS, as in 255:1,0:0"),
        (["--fit", "squash"], "'stretch', 'pad', 'crop'"),
    ],
)
def test_invalid_flag_is_refused_with_the_reason(flags, message, capsys):
    with pytest.raises(SystemExit) as caught:
        data_preparation.parse(flags)
    assert caught.value.code == 2 and message in capsys.readouterr().err


def test_image_size_is_width_by_height():
    assert data_preparation.parse(["--image-size", "480x352"]).image_size == [480, 352]
    assert data_preparation.parse([]).image_size == [128, 128]


# --- a folder of one's own ----------------------------------------------------------------


@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
def test_portrait_pictures_are_fitted_to_a_landscape_size(tmp_path, fit):
    for k in range(12):
        for kind, pixels in zip(("images", "masks"), stripes(k, 3, 40, 90)):
            save(tmp_path / "set" / kind / f"p{k}.png", pixels)
    flags = ("--names", "a,b,c", "--image-size", "96x64", "--fit", fit)
    prepared = prepare(tmp_path / "models", tmp_path / "set", *flags)
    assert prepared.record["image_size"] == [96, 64] and prepared.record["fit"] == fit
    assert prepared.all_images.shape == (12, 64, 96, 3) and prepared.all_masks.shape == (12, 64, 96)
    assert prepared.classes.ignored == (fit == "pad")
    assert (IGNORED in prepared.all_masks) == (fit == "pad")
    inside = prepared.all_masks != IGNORED
    red = np.round(prepared.all_images[..., 0] / 127.5)
    assert (red == prepared.all_masks)[inside].mean() > 0.9


def test_sideways_and_16_bit_photographs_give_the_same_arrays(tmp_path):
    """As phones and microscopes store them; compared with the same pictures as plain RGB."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for k in range(12):
        pixels, truth = stripes(k, 3, 60, 90)
        grey = Image.fromarray(pixels[..., 0])
        save(tmp_path / f"plain/images/p{k:02}.png", grey.convert("RGB"))
        save(tmp_path / f"plain/masks/p{k:02}.png", truth)
        save(tmp_path / f"mixed/masks/p{k:02}.png", truth)
        if k % 2:
            deep = np.asarray(grey).astype(np.uint16) * 257
            save(tmp_path / f"mixed/images/p{k:02}.png", deep)
        else:
            turned = grey.transpose(TURNS[8])
            save(tmp_path / f"mixed/images/p{k:02}.png", turned, exif=exif.tobytes())
    plain, mixed = (prepare(tmp_path / f"m{name}", tmp_path / name) for name in ("plain", "mixed"))
    np.testing.assert_array_equal(mixed.all_images, plain.all_images)
    np.testing.assert_array_equal(mixed.all_masks, plain.all_masks)


def test_splits_of_forty_photographs(tmp_path):
    prepared = prepare(tmp_path / "models", write_set(tmp_path / "set", 40))
    assert prepared.counts == {"train": 29, "validation": 3, "test": 8}
    assert len({image.tobytes() for image in prepared.all_images}) == 40, (
        "no picture is in two splits"
    )
    again = prepare(tmp_path / "again", tmp_path / "set")
    other = prepare(tmp_path / "other", tmp_path / "set", "--seed", "8")
    assert again.record["fingerprint"] == prepared.record["fingerprint"]
    assert other.record["fingerprint"] != prepared.record["fingerprint"]


def test_skipped_files_are_listed_until_they_are_removed(tmp_path):
    folder = write_set(tmp_path / "set", 12)
    (folder / "images" / "._p00.png").write_bytes(b"\0\5\x16\7")
    prepared = prepare(tmp_path / "models", folder)
    assert prepared.left_out == ["images/._p00.png: hidden, skipped"]
    (folder / "images" / "._p00.png").unlink()
    assert prepare(tmp_path / "models", folder).left_out == []


def test_prepared_folder_is_up_to_date_until_a_file_changes(tmp_path, capsys):
    folder = write_set(tmp_path / "set", 12)
    for change, message in (
        (lambda: None, "is missing"),
        (lambda: None, "up to date, nothing to do"),
        (lambda: save(folder / "masks/p03.png", stripes(5, 3)[1]), "runs, because content of"),
        (lambda: None, "up to date, nothing to do"),
    ):
        change()
        capsys.readouterr()
        prepared = prepare(tmp_path / "models", folder, "--if-needed", "--names", "a,b,c")
        assert message in capsys.readouterr().out
    assert prepared.classes.names == ("a", "b", "c")
    (tmp_path / "names.txt").write_text("a\nb\nd\n")
    prepared = prepare(
        tmp_path / "models", folder, "--if-needed", "--names", tmp_path / "names.txt"
    )
    assert "runs, because --names is ['a', 'b', 'd']" in capsys.readouterr().out
    assert prepared.classes.names == ("a", "b", "d")


def test_fault_is_one_line_and_exit_code_2(tmp_path):
    folder = write_set(tmp_path / "set", 12)
    (folder / "masks" / "p03.png").unlink()
    done = run_script("data_preparation.py", "--models-dir", tmp_path / "m", "--data", folder)
    assert done.returncode == 2
    assert done.stderr == (
        f"data_preparation.py: {folder}/images/p03.png has no mask of the same name; draw it, or "
        "remove the image, or if such show background alone: --missing-mask background; to skip "
        "faulty examples: --skip-bad 0.09\n"
    )
    assert not list((tmp_path / "m").rglob("*.npy"))


def test_tensorflow_is_not_loaded_for_a_folder(tmp_path):
    """So a folder of a few pictures takes a second."""
    program = """
import sys, data_preparation
data_preparation.main(sys.argv[1:])
print([name for name in ("tensorflow", "tensorflow_datasets") if name in sys.modules])
"""
    folder = write_set(tmp_path / "set", 12)
    where = ["--models-dir", str(tmp_path / "m"), "--data", str(folder), "--image-size", "32"]
    command = [sys.executable, "-c", program, *where]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]" and done.stderr == ""
    assert "train          9 examples" in done.stdout


# --- TensorFlow Datasets ------------------------------------------------------------------


SIZES = [(500, 375), (333, 500), (300, 225), (500, 333), (267, 400)]  # as the real ones have


def write_pets(folder, train=10, test=5, sizes=SIZES, damaged=()):
    """Writes oxford_iiit_pet/4.0.0 into a TFDS folder, and returns that.

    Args:
        sizes: of the pictures, in turn.
        damaged: numbers of the examples of each split whose photograph ends early.
    """
    version = folder / "oxford_iiit_pet" / "4.0.0"
    version.mkdir(parents=True)
    features = tfds.builder("oxford_iiit_pet:4.0.0", data_dir=folder / "empty").info.features
    splits = []
    for split, number in (("train", train), ("test", test)):
        records = []
        for k in range(number):
            width, height = sizes[k % len(sizes)]
            image = encoded(photograph(width, height), quality=95)
            example = {
                "image": io.BytesIO(image[: len(image) // 2] if k in damaged else image),
                "segmentation_mask": io.BytesIO(encoded(halves(width, height), "png")),
                "label": k % 37,
                "species": 0,
                "file_name": f"{k}.jpg",
                "head_bbox": tfds.features.BBox(0.0, 0.0, 1.0, 1.0),
            }
            records.append(features.serialize_example(features.encode_example(example)))
        path = version / f"oxford_iiit_pet-{split}.tfrecord-00000-of-00001"
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
    features.save_config(version)
    info = {
        "name": "oxford_iiit_pet",
        "version": "4.0.0",
        "fileFormat": "tfrecord",
        "splits": splits,
        "moduleName": "tensorflow_datasets.datasets.oxford_iiit_pet."
        "oxford_iiit_pet_dataset_builder",
    }
    (version / "dataset_info.json").write_text(json.dumps(info))
    return folder


@pytest.fixture
def tfds_folder(tmp_path):
    """A TFDS folder with 15 examples of the pets."""
    return write_pets(tmp_path / "tensorflow_datasets")


@pytest.mark.parametrize("named_by", ["flag", "environment"])
def test_pets_are_read_from_a_tfds_folder(tfds_folder, tmp_path, monkeypatch, named_by):
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
    assert facts["metrics"]["audit"]["left_out"] == dict.fromkeys(FAULTS, 0)
    assert facts["class_names"] == ["pet", "background", "border"]
    parts = [load_split(models_dir, split) for split in SPLITS]
    images = np.concatenate([images[:] for images, _ in parts])
    masks = np.concatenate([masks[:] for _, masks in parts])
    assert (masks[:, :, :30] == 0).all() and (masks[:, :, 34:] == 1).all()
    assert np.abs(images[:, :, :30].astype(int) - (220, 40, 60)).max() <= 6


def test_incomplete_tfds_file_keeps_the_old_data_set(tfds_folder, data_copy):
    """Such as after an interrupted copy."""
    path = next(tfds_folder.rglob("*train.tfrecord*"))
    os.truncate(path, path.stat().st_size // 2)
    before = read_record(data_copy, "dataset")
    where = ["--models-dir", str(data_copy), "--data-dir", str(tfds_folder)]
    with pytest.raises(UserError, match=r"the train split in .* is damaged .*copy it again"):
        data_preparation.main([*where, "--image-size", str(SIZE)])
    assert read_record(data_copy, "dataset") == before
    assert len(load_split(data_copy, "train")[0]) == 36


@pytest.mark.parametrize("data", ["pets", "tfds:oxford_iiit_pet:4.0.0"])
def test_half_damaged_copy_of_a_tfds_set_is_refused(tmp_path, data):
    """Its records are whole, so that TFDS reads them: pictures were damaged before it did."""
    folder = write_pets(tmp_path / "copy", damaged=range(0, 10, 2))
    where = ["--models-dir", str(tmp_path / "m"), "--data", data, "--data-dir", str(folder)]
    if data != "pets":
        where += ["--image-key", "image", "--mask-key", "segmentation_mask"]
    with pytest.raises(UserError) as caught:
        data_preparation.main([*where, "--image-size", str(SIZE)])
    message = str(caught.value)
    assert "\n" not in message and "(8 such faults)" in message
    assert "copy it again, or delete" in message and str(folder / "oxford_iiit_pet") in message
    assert message.endswith("to skip faulty examples: --skip-bad 0.54")
    assert not list((tmp_path / "m").rglob("*.npy"))


def test_few_damaged_pictures_of_the_pets_are_skipped_and_listed(tmp_path, capsys):
    """At most one in a hundred: they are faults of its authors."""
    small = [(32, 24)]
    folder = write_pets(tmp_path / "copy", 200, 50, small, damaged=(60, 61))
    where = ["--models-dir", str(tmp_path / "m"), "--image-size", "32", "--data-dir"]
    data_preparation.main([*where, str(folder)])
    left_out = tmp_path / "m" / "dataset" / "left_out.txt"
    lines = left_out.read_text(encoding="utf-8").splitlines()
    assert [line.partition(" is ")[0].partition(" cannot ")[0] for line in lines] == [
        "image of oxford_iiit_pet, train example 60",
        "image of oxford_iiit_pet, train example 61",
    ]
    assert f"left out: 2 faulty examples, 0 skipped files; {left_out} lists" in (
        capsys.readouterr().out
    )
    worse = write_pets(tmp_path / "worse", 200, 50, small, damaged=(60, 61, 62))
    with pytest.raises(UserError, match=r"\(3 such faults\).*--skip-bad 0\.02$"):
        data_preparation.main([*where, str(worse)])
    assert left_out.exists(), "the data set of before is still there"


@pytest.mark.slow
def test_oxford_iiit_pet_has_its_documented_counts_and_shares(shared_data, tmp_path):
    where = ["--models-dir", str(tmp_path), "--data-dir", str(shared_data)]
    data_preparation.main([*where, "--image-size", "32"])
    facts = read_record(tmp_path, "dataset")
    counts = {split: facts["splits"][split]["examples"] for split in SPLITS}
    assert counts == {"train": 3312, "validation": 368, "test": 3669}
    audit = facts["metrics"]["audit"]
    assert audit["left_out"] == dict.fromkeys(FAULTS, 0)
    pictures = {value: about["pictures"] for value, about in audit["values"].items()}
    assert pictures == {"1": 7335, "2": 7349, "3": 7335}, "14 masks without any pet"
    masks = {split: load_split(tmp_path, split)[1][:] for split in SPLITS}
    official = {
        "train": np.concatenate([masks["train"], masks["validation"]]),
        "test": masks["test"],
    }
    for split, expected in (("train", (0.300, 0.587, 0.114)), ("test", (0.300, 0.577, 0.123))):
        shares = np.bincount(official[split].ravel(), minlength=3) / official[split].size
        assert np.abs(shares - expected).max() < 0.002, (split, shares)
