"""What int8 costs operator by operator, and a limit on the loss that is kept or refused."""

import csv
import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import jaccard_score

import quantization
from pipeline.base.artifacts import artifact_path, read_record, record_path, sha256, write_record
from pipeline.base.console import UserError
from pipeline.data.dataset import load_split
from pipeline.inference.keras_files import load_model, save_model
from pipeline.inference.litert import logits_of, open_interpreter, operators, predict_tflite
from pipeline.quantization import convert as conversion
from pipeline.quantization import sensitivity, verify
from pipeline.quantization.convert import calibration_sample, convert
from pipeline.quantization.selective import quantise_static

FEW = ("--calibration-images", "20")


@pytest.fixture(scope="module")
def fragile(finished_run, tmp_path_factory):
    """A pruned model that one int8 tensor ruins: a channel that nothing reads, but so large that
    the others, which share its scale, vanish. In float32 it changes nothing.

    Returns the folder and the model.
    """
    models_dir = shutil.copytree(finished_run, tmp_path_factory.mktemp("fragile") / "models")
    record = read_record(models_dir, "pruned")
    model = load_model(models_dir, "pruned")
    norm, reader = model.get_layer("up8_depthwise3_norm"), model.get_layer("up8_mix3")
    scale, offset, mean, variance = norm.get_weights()
    scale[0], offset[0] = 3e3, 3e3
    norm.set_weights([scale, offset, mean, variance])
    (kernel,) = reader.get_weights()
    kernel[:, :, 0] = 0
    reader.set_weights([kernel])
    path = artifact_path(models_dir, "pruned")
    save_model(model, path)
    write_record(record_path(models_dir, "pruned"), record | {"sha256": sha256(path)})
    return models_dir, model


@pytest.fixture(scope="module")
def calibration(finished_run):
    return calibration_sample(finished_run, 8, 7)[1]


@pytest.fixture(scope="module")
def ready(fragile, calibration):
    """The float32 file that is scanned and its ranges."""
    return sensitivity.ready_to_scan(fragile[1], calibration)


@pytest.fixture(scope="module")
def rows(fragile, ready):
    split = tuple(part[:] for part in load_split(fragile[0], "validation"))
    return sensitivity.scan_operators(*ready, split)


def test_scan_measures_signal_to_noise_and_the_loss_of_each_operator(fragile, ready, rows):
    (models_dir, _), (float32_file, ranges) = fragile, ready
    images, masks = (part[:] for part in load_split(models_dir, "validation"))
    every = operators(float32_file)
    assert {row["operator"] for row in rows} == set(range(len(every)))
    assert [row["snr_db"] for row in rows] == sorted(row["snr_db"] for row in rows)
    exact, truth = logits_of(float32_file, images), masks.ravel()
    for row in (rows[0], rows[len(rows) // 2]):
        assert row["layer"] == every[row["operator"]].layer
        content = quantise_static(float32_file, ranges, only=every[row["operator"]])
        logits = logits_of(content, images)
        error = np.std(logits - exact) ** 2 + np.mean(logits - exact) ** 2
        decibels = 10 * np.log10(np.mean(exact**2) / error)
        assert row["snr_db"] == pytest.approx(decibels, abs=0.1)
        with_int8, without = (
            jaccard_score(truth, guess.argmax(-1).ravel(), average="macro", labels=range(3))
            for guess in (logits, exact)
        )
        assert row["drop"] == pytest.approx(without - with_int8, abs=2e-4)


# --- a limit on the loss --------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(fragile, calibration):
    return {name: convert(fragile[1], name, calibration) for name in ("int8", "float32")}


@pytest.fixture
def fragile_run(fragile, ready, rows, files, tmp_path, monkeypatch):
    """A copy of that run, for which nothing has to be converted or scanned again.

    The validation masks are the model's own predictions, so that whatever int8 changes is a loss.
    """
    models_dir, model = fragile

    def with_own_masks(models_dir, split):
        images, masks = (part[:] for part in load_split(models_dir, split))
        if split == "validation":
            masks = model(images.astype(np.float32) / 255).numpy().argmax(-1).astype(np.uint8)
        return images, masks

    monkeypatch.setattr(quantization, "load_split", with_own_masks)
    monkeypatch.setattr(quantization, "quantised", lambda: ("int8",))
    monkeypatch.setattr(verify, "LEAST_AGREEMENT", 0.0)
    monkeypatch.setattr(conversion, "convert", lambda _, variant, *__: files[variant])
    monkeypatch.setattr(sensitivity, "ready_to_scan", lambda *_: ready)
    monkeypatch.setattr(sensitivity, "scan_operators", lambda *_: rows)
    return shutil.copytree(models_dir, tmp_path / "models")


def validation_loss(models_dir):
    """What the int8 file loses in mean IoU where the masks are the pruned model's predictions."""
    images, masks = quantization.load_split(models_dir, "validation")
    interpreter = open_interpreter(artifact_path(models_dir, "int8"))
    guesses = np.stack(list(predict_tflite(interpreter, images)))
    labels = np.unique(masks)
    return 1 - jaccard_score(masks.ravel(), guesses.ravel(), average="macro", labels=labels)


def test_limit_on_the_loss_keeps_the_operators_that_ruin_it_in_float(fragile_run, capsys):
    quantization.main(["--models-dir", str(fragile_run), *FEW, "--max-drop", "0.05"])
    assert validation_loss(fragile_run) <= 0.0501
    metrics = read_record(fragile_run, "int8")["metrics"]
    # What writes and what reads it.
    assert {"up8_depthwise3", "up8_mix3"} <= set(metrics["float_operators"])
    # A class that the model never sees counts at once if int8 sees a pixel of it.
    assert len(metrics["float_operators"]) <= 32
    assert metrics["validation_drop"] <= 0.05 and metrics["times_slower"] > 0
    assert "kept in float: " in capsys.readouterr().out
    with (fragile_run / "int8_sensitivity.csv").open() as file:
        worst = list(csv.DictReader(file))[:2]
    assert {row["layer"] for row in worst} <= {"up8_depthwise3", "up8_mix3"}
    with Image.open(fragile_run / "int8_sensitivity.png") as picture:
        assert min(picture.size) > 300


def test_limit_that_no_file_holds_leaves_the_old_file(fragile_run, rows, monkeypatch):
    before = sha256(artifact_path(fragile_run, "int8"))
    # Misses what ruins it.
    monkeypatch.setattr(sensitivity, "scan_operators", lambda *_: rows[-8:])
    words = r"int8 loses 0\.\d+ mean IoU even with 4 of \d+ operators in float"
    with pytest.raises(UserError, match=words):
        quantization.main(["--models-dir", str(fragile_run), *FEW, "--max-drop", "0.01"])
    assert sha256(artifact_path(fragile_run, "int8")) == before


def test_limit_that_holds_anyway_leaves_int8_throughout(fragile_run):
    quantization.main(["--models-dir", str(fragile_run), *FEW, "--max-drop", "0.99"])
    assert validation_loss(fragile_run) > 0.1
    assert read_record(fragile_run, "int8")["metrics"]["float_operators"] == []
    interpreter = open_interpreter(artifact_path(fragile_run, "int8"))
    types = {tensor["dtype"] for tensor in interpreter.get_tensor_details()}
    assert types <= {np.int8, np.uint8, np.int32}
