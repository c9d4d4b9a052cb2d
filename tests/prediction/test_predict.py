"""Prediction on photos: any format, size and model; a clear message if one cannot be read."""

import errno
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import evaluation
from pipeline.base.artifacts import artifact_path, read_record, record_path, write_record
from pipeline.base.console import UserError
from pipeline.base.lazy import keras, layers
from pipeline.data import marked_pictures
from pipeline.data.classes import make_classes
from pipeline.data.fitting import FitRule
from pipeline.inference.contract import add_contract
from pipeline.inference.keras_files import save_model
from pipeline.prediction import legends, predict
from pipeline.prediction.photo_models import PhotoModel, open_photo_model
from pipeline.prediction.photo_rules import PhotoUse, use_of
from pipeline.report.overlays import overlay
from pipeline.variants import VARIANTS
from tests.helpers.runs import CLASSES, SIZE
from tests.helpers.toy_networks import saved_as


def encoded(mode, size, file_format, **options):
    pixels = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, file_format, **options)
    return buffer.getvalue()


def rotated_exif():
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be rotated by 90 degrees for display
    return exif


@pytest.mark.parametrize(
    ("mode", "size", "file_format", "options", "displayed"),
    [
        ("RGB", (90, 60), "JPEG", {"exif": rotated_exif()}, (60, 90)),
        ("L", (50, 41), "PNG", {}, (50, 41)),
        ("RGBA", (33, 64), "PNG", {}, (33, 64)),
        ("CMYK", (40, 30), "JPEG", {}, (40, 30)),
        ("P", (31, 7), "PNG", {}, (31, 7)),
        ("RGB", (1, 1), "PNG", {}, (1, 1)),
        ("RGB", (700, 300), "JPEG", {}, (700, 300)),
    ],
    ids=["rotated", "grey", "transparent", "cmyk", "palette", "one pixel", "large"],
)
def test_overlay_has_the_photos_displayed_size(
    finished_run, tmp_path, capsys, mode, size, file_format, options, displayed
):
    photo = tmp_path / f"photo.{file_format.lower()}"
    photo.write_bytes(encoded(mode, size, file_format, **options))
    assert evaluation.main(["--models-dir", str(finished_run), "--image", str(photo)]) == 0
    with Image.open(f"{photo}.overlay.png") as written:
        assert written.size == displayed and written.mode == "RGB"
    with Image.open(f"{photo}.classes.png") as written:
        assert written.size == displayed and written.mode == "P"
        assert set(np.unique(np.asarray(written))) <= {0, 1, 2}
        assert written.getpalette()[:6] == [242, 142, 43, 58, 72, 98]
    output = capsys.readouterr().out
    assert f"{photo.name}.overlay.png: {displayed[0]} x {displayed[1]} pixels" in output
    assert re.search(r"\d+\.\d ms for the network", output)
    written = {f"{photo.name}.{kind}.png" for kind in ("overlay", "classes", "legend")}
    written.add(f"{photo.name}.classes.csv")
    assert {path.name for path in tmp_path.iterdir()} == {photo.name, *written}


@pytest.mark.parametrize("name", ["original", "pruned", *VARIANTS])
def test_every_model_file_can_draw(evaluated_run, tmp_path, name):
    photo = tmp_path / "photo.png"
    photo.write_bytes(encoded("RGB", (48, 40), "PNG"))
    model = artifact_path(evaluated_run, name)
    evaluation.main(["--image", str(photo), "--model", str(model)])
    assert (tmp_path / "photo.png.overlay.png").exists()


@pytest.mark.parametrize("kind", ["contract", "record"])
def test_deep_photo_is_scaled_as_in_training(run_copy, tmp_path, capsys, kind):
    """By the contract of a .tflite file anywhere, and by the data set beside an .h5 file."""
    rules = {"white": 4095}
    model = artifact_path(run_copy, "original")
    if kind == "contract":
        content = artifact_path(run_copy, "int8").read_bytes()
        model = tmp_path / "int8.tflite"
        model.write_bytes(add_contract(content, CLASSES, rules))
    else:
        read_record(run_copy, "dataset").rewrite(photos=rules)
    grey = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE), np.uint8)
    deep = (grey.astype(np.uint32) * 4095 + 254) // 255
    pictures = {"deep": deep.astype(np.uint16), "plain": grey, "unscaled": grey.astype(np.uint16)}
    for name, values in pictures.items():
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    photos = [str(tmp_path / f"{name}.png") for name in pictures]
    evaluation.main(["--image", *photos, "--model", str(model)])
    maps = [np.asarray(Image.open(f"{photo}.classes.png")) for photo in photos]
    np.testing.assert_array_equal(maps[0], maps[1])
    assert "trained on have 8 bits" not in capsys.readouterr().out


def test_deep_photo_for_a_model_of_8_bit_pictures_is_noted(finished_run, tmp_path, capsys):
    Image.fromarray(np.full((40, 40), 2000, np.uint16)).save(tmp_path / "deep.png")
    evaluation.main(["--models-dir", str(finished_run), "--image", str(tmp_path / "deep.png")])
    expected = "holds values up to 2000, and the pictures that the model was trained on have 8 bits"
    assert f"deep.png {expected}; 65535 is taken for white" in capsys.readouterr().out


def test_one_command_draws_several_photos(finished_run, tmp_path):
    names = [tmp_path / name for name in ("cat.png", "dog.png", "cat.jpg")]
    for photo in names:
        photo.write_bytes(encoded("RGB", (20, 20), "PNG"))
    evaluation.main(["--models-dir", str(finished_run), "--image", *map(str, names)])
    assert {path.name for path in tmp_path.glob("*.overlay.png")} == {
        "cat.png.overlay.png",
        "dog.png.overlay.png",
        "cat.jpg.overlay.png",
    }


def opened(scores, side, classes):
    """A model of square images."""
    return PhotoModel((side, side), classes, None, False, True, scores)


def test_legend_that_fails_is_a_note(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise ValueError("no glyphs")

    photo = tmp_path / "cat.png"
    photo.write_bytes(encoded("RGB", (20, 20), "PNG"))
    model = opened(lambda _: np.zeros((SIZE, SIZE, 3), np.float32), SIZE, 3)
    monkeypatch.setattr(predict, "open_photo_model", lambda _: model)
    monkeypatch.setattr(legends, "legend_figure", fail)
    predict.write_overlays([photo], tmp_path / "model.tflite")
    output = capsys.readouterr().out
    assert f"note: {photo}.legend.png could not be drawn: no glyphs" in output
    assert f"wrote {photo}.overlay.png: 20 x 20 pixels; class 0 100.0%" in output
    names = {"cat.png", "cat.png.overlay.png", "cat.png.classes.png", "cat.png.classes.csv"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_overlay_is_the_photo_mixed_with_the_colours_of_the_class_map(tmp_path, monkeypatch):
    """At the model's resolution, and enlarged."""
    random = np.random.default_rng(4)
    scores = random.normal(0, 1, (SIZE, SIZE, 3)).astype(np.float32)
    monkeypatch.setattr(predict, "open_photo_model", lambda _: opened(lambda _: scores, SIZE, 3))
    colours = make_classes(("a", "b", "c"))
    for side in (SIZE, 3 * SIZE):
        photo = random.integers(0, 256, (side, side, 3), np.uint8)
        Image.fromarray(photo).save(tmp_path / "photo.png")
        predict.write_overlays([tmp_path / "photo.png"], tmp_path / "model.tflite")
        kinds = (Image.open(tmp_path / f"photo.png.{kind}.png") for kind in ("overlay", "classes"))
        drawn, class_map = map(np.asarray, kinds)
        np.testing.assert_array_equal(drawn, overlay(photo, class_map, colours))
        if side == SIZE:
            np.testing.assert_array_equal(class_map, scores.argmax(axis=-1))


@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
def test_photo_is_fitted_as_the_data_set_was(monkeypatch, tmp_path, fit):
    """A network whose second class is "red pixel" finds the red half of the photo."""
    photo = Image.new("RGB", (120, 60), (0, 0, 255))
    photo.paste((255, 0, 0), (0, 0, 60, 60))
    photo.save(tmp_path / "photo.png")
    seen_images = []

    def scores(image):
        seen_images.append(image)
        return np.stack([np.full(image.shape[:2], 0.5), image[..., 0] / 255], axis=-1)

    monkeypatch.setattr(predict, "open_photo_model", lambda _: opened(scores, 32, 2))
    use = PhotoUse(make_classes(("blue", "red")), {}, FitRule(fit), True)
    monkeypatch.setattr(predict, "use_of", lambda *_: use)
    predict.write_overlays([tmp_path / "photo.png"], tmp_path / "model.h5")
    with Image.open(tmp_path / "photo.png.classes.png") as class_map:
        classes = np.asarray(class_map)
    width = 120 if fit != "crop" else 60
    assert classes.shape == (60, width)
    assert (classes[:, : width // 2 - 4] == 1).all() and (classes[:, width // 2 + 4 :] == 0).all()
    black = (seen_images[-1] == 0).all(axis=(1, 2))
    assert black.sum() == (16 if fit == "pad" else 0)


def test_stale_model_draws_with_a_note(run_copy, tmp_path, capsys):
    """For example, pruning ran again and the int8 file is still the one of the old model."""
    photo = tmp_path / "photo.png"
    photo.write_bytes(encoded("RGB", (48, 40), "PNG"))

    def notes(*flags):
        evaluation.main(["--models-dir", str(run_copy), "--image", str(photo), *map(str, flags)])
        lines = capsys.readouterr().out.splitlines()
        assert any(line.startswith("wrote ") for line in lines)
        return [line for line in lines if line.startswith("note: ")]

    assert notes() == []
    record = record_path(run_copy, "pruned")
    write_record(record, json.loads(record.read_text()) | {"sha256": "0" * 64})
    (note,) = notes()
    assert "int8_quantized_model.tflite was made from another pruned_model.h5; make it" in note
    assert "quantization.py" in note
    assert notes("--model", artifact_path(run_copy, "original")) == [], (
        "it is not made from the pruned model"
    )
    other = shutil.copy(artifact_path(run_copy, "int8"), tmp_path / "other.tflite")
    assert notes("--model", other) == [], "it has no record, so its inputs are unknown"
    record.unlink()
    assert notes() == []


def test_class_names_come_from_the_contract_without_a_data_set(evaluated_run, tmp_path):
    for name, expected in (("int8", CLASSES), ("original", ("class 0", "class 1", "class 2"))):
        copy = shutil.copy(artifact_path(evaluated_run, name), tmp_path)
        assert use_of(Path(copy), open_photo_model(Path(copy))).classes.names == expected


def test_unreadable_photo_or_model_is_an_error(finished_run, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    cut = tmp_path / "cut.png"
    cut.write_bytes(encoded("RGB", (90, 60), "PNG")[:300])
    missing = tmp_path / "none.jpg"
    models_dir = ["--models-dir", str(finished_run)]
    for photo, message in (
        (bad, "not a picture"),
        (cut, "cannot be read"),
        (missing, "missing"),
        (
            tmp_path,
            "none of 2 photos: the photo .*bad.jpg is damaged.*; the photo .*cut.png cannot",
        ),
    ):
        with pytest.raises(UserError, match=message):
            evaluation.main([*models_dir, "--image", str(photo)])
    good = tmp_path / "good.png"
    good.write_bytes(encoded("RGB", (9, 6), "PNG"))
    for name in ("model.h5", "model.tflite"):
        broken = tmp_path / name
        with pytest.raises(UserError, match="missing"):
            evaluation.main(["--image", str(good), "--model", str(broken)])
        broken.write_bytes(b"no model")
        with pytest.raises(UserError, match="cannot be read"):
            evaluation.main(["--image", str(good), "--model", str(broken)])
    with pytest.raises(UserError):
        evaluation.main(["--image", str(good), "--model", ""])
    with pytest.raises(UserError, match=r"python quantization\.py"):
        evaluation.main(["--models-dir", str(tmp_path), "--image", str(good)])
    assert not list(tmp_path.glob("*overlay*"))


def test_model_that_is_no_segmentation_model_is_refused(tmp_path):
    image = layers.Input((16, 16, 3))
    save_model(keras.Model(image, layers.Conv2D(5, 1, 2)(image)), tmp_path / "other.h5")
    with pytest.raises(UserError, match="is not a segmentation model of this pipeline"):
        open_photo_model(tmp_path / "other.h5")


@pytest.mark.parametrize("suffix", [".h5", ".tflite"])
def test_model_of_one_score_per_pixel_is_refused(tmp_path, suffix):
    """It was "class 0 100.0%", whatever the network said."""
    image = layers.Input((SIZE, SIZE, 3))
    model = keras.Model(image, layers.Conv2D(1, 1, activation="sigmoid")(image))
    with pytest.raises(UserError, match="gives one score per pixel, not one per class; for two"):
        open_photo_model(saved_as(model, tmp_path / f"binary{suffix}"))


@pytest.mark.parametrize(
    "name",
    [
        *("it's a dog.png.overlay.png", "it's a dog.png.classes.png"),
        *("photos.legend.png", "photos.classes.csv"),
    ],
)
def test_only_files_of_an_earlier_run_are_replaced(tmp_path, monkeypatch, capsys, name):
    """A class map that the user drew by hand, say. Nothing is drawn, and the command keeps it."""
    cat, dog = tmp_path / "cat.png", tmp_path / "it's a dog.png"
    for photo in (cat, dog):
        photo.write_bytes(encoded("RGB", (20, 20), "PNG"))
    model = opened(lambda _: np.zeros((SIZE, SIZE, 3), np.float32), SIZE, 3)
    monkeypatch.setattr(predict, "open_photo_model", lambda _: model)
    theirs = tmp_path / name
    theirs.write_bytes(dog.read_bytes())
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=r"not written by evaluation\.py") as refused:
        predict.write_overlays([cat, dog], tmp_path / "model.tflite")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    subprocess.run(str(refused.value).split("first: ")[1], shell=True, check=True)
    for _ in range(2):
        assert predict.write_overlays([cat, dog], tmp_path / "model.tflite") == 0
    assert theirs.read_bytes() != dog.read_bytes() and "note: " not in capsys.readouterr().out
    kept = theirs.with_name(f"{theirs.stem}.before{theirs.suffix}")
    assert kept.read_bytes() == dog.read_bytes()


def test_overlay_that_cannot_be_written_is_an_error(finished_run, tmp_path, monkeypatch):
    photo = tmp_path / "photo.png"
    photo.write_bytes(encoded("RGB", (9, 6), "PNG"))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(marked_pictures, "save", full)
    with pytest.raises(UserError, match=r"photo\.png\.overlay\.png cannot be written \(No space"):
        evaluation.main(["--models-dir", str(finished_run), "--image", str(photo)])
    assert {path.name for path in tmp_path.iterdir()} == {"photo.png"}
