"""What int8 costs operator by operator, and a limit on the loss that is kept or refused."""

import csv

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import jaccard_score

import quantization
from pipeline import file_checks, sensitivity
from pipeline.artifacts import artifact_path, read_record, record_path, sha256, write_json
from pipeline.console import UserError
from pipeline.conversion import convert
from pipeline.dataset import load_split
from pipeline.keras_models import load_model, save_model
from pipeline.litert import logits_of, open_interpreter, operators, predict_tflite
from pipeline.recipes import activation_ranges, quantise_static

FEW = ("--calibration-images", "20")


@pytest.fixture(scope="module")
def pruned(finished_run):
    return load_model(finished_run, "pruned")


def test_scan_measures_signal_to_noise_and_the_loss_of_each_operator(finished_run, pruned):
    images, masks = load_split(finished_run, "validation")
    pixels = images.astype(np.float32) / 255
    float32_file = convert(pruned, "float32")
    ranges = activation_ranges(float32_file, pixels)
    rows = sensitivity.scan_operators(float32_file, ranges, (images, masks))
    every = operators(float32_file)
    assert {row["operator"] for row in rows} == set(range(len(every)))
    assert [row["snr_db"] for row in rows] == sorted(row["snr_db"] for row in rows)
    row = rows[0]
    assert row["layer"] == every[row["operator"]].layer
    content = quantise_static(float32_file, ranges, only=every[row["operator"]])
    logits = logits_of(content, images)
    exact = pruned(pixels).numpy()
    error = np.std(logits - exact) ** 2 + np.mean(logits - exact) ** 2
    assert row["snr_db"] == pytest.approx(10 * np.log10(np.mean(exact**2) / error), abs=0.1)
    truth = masks.ravel()
    with_int8, without = (
        jaccard_score(truth, guess.argmax(-1).ravel(), average="macro", labels=range(3))
        for guess in (logits, exact)
    )
    assert row["drop"] == pytest.approx(without - with_int8, abs=2e-4)


def test_ranges_of_a_scan_reach_from_black_to_white(finished_run, pruned):
    """As the int8 file's input does, whatever the calibration images are."""
    grey = np.full((2, *pruned.input_shape[1:]), 0.5, np.float32)
    _, ranges = sensitivity.ready_to_scan(pruned, grey)
    (image,) = (values for name, values in ranges.items() if "image" in name)
    assert (image["min"].item(), image["max"].item()) == (0, 1)


# --- a limit on the loss --------------------------------------------------------------------


@pytest.fixture
def fragile_run(run_copy, monkeypatch):
    """A pruned model that one int8 tensor ruins: a channel that nothing reads, but so large that
    the others, which share its scale, vanish. In float32 it changes nothing. The validation masks
    are its own predictions, so that whatever int8 changes is a loss.
    """
    record = read_record(run_copy, "pruned")
    model = load_model(run_copy, "pruned")
    norm, reader = model.get_layer("up8_depthwise3_norm"), model.get_layer("up8_mix3")
    scale, offset, mean, variance = norm.get_weights()
    scale[0], offset[0] = 3e3, 3e3
    norm.set_weights([scale, offset, mean, variance])
    (kernel,) = reader.get_weights()
    kernel[:, :, 0] = 0
    reader.set_weights([kernel])
    path = artifact_path(run_copy, "pruned")
    save_model(model, path)
    write_json(record_path(run_copy, "pruned"), record | {"sha256": sha256(path)})

    def with_own_masks(models_dir, split):
        images, masks = load_split(models_dir, split)
        if split == "validation":
            masks = model(images.astype(np.float32) / 255).numpy().argmax(-1).astype(np.uint8)
        return images, masks

    monkeypatch.setattr(quantization, "load_split", with_own_masks)
    monkeypatch.setattr(file_checks, "LEAST_AGREEMENT", 0.0)
    return run_copy


def validation_loss(models_dir):
    """What the int8 file loses in mean IoU where the masks are the pruned model's predictions."""
    images, masks = quantization.load_split(models_dir, "validation")
    interpreter = open_interpreter(artifact_path(models_dir, "int8"))
    guesses = np.stack(list(predict_tflite(interpreter, images)))
    labels = np.unique(masks)
    return 1 - jaccard_score(masks.ravel(), guesses.ravel(), average="macro", labels=labels)


def test_limit_on_the_loss_keeps_the_operators_that_ruin_it_in_float(fragile_run, capsys):
    asked = ["--models-dir", str(fragile_run), *FEW]
    quantization.main(asked)
    assert validation_loss(fragile_run) > 0.1
    quantization.main([*asked, "--max-drop", "0.05"])
    assert validation_loss(fragile_run) <= 0.0501
    metrics = read_record(fragile_run, "int8")["metrics"]
    # What writes and what reads it.
    assert {"up8_depthwise3", "up8_mix3"} <= set(metrics["float_operators"])
    assert len(metrics["float_operators"]) <= 8
    assert metrics["validation_drop"] <= 0.05 and metrics["times_slower"] > 0
    assert "kept in float: " in capsys.readouterr().out
    with (fragile_run / "int8_sensitivity.csv").open() as file:
        worst = list(csv.DictReader(file))[:2]
    assert {row["layer"] for row in worst} <= {"up8_depthwise3", "up8_mix3"}
    with Image.open(fragile_run / "int8_sensitivity.png") as picture:
        assert min(picture.size) > 300


def test_limit_that_no_file_holds_leaves_the_old_file(fragile_run, monkeypatch):
    before = sha256(artifact_path(fragile_run, "int8"))
    scan = sensitivity.scan_operators
    # Misses what ruins it.
    monkeypatch.setattr(sensitivity, "scan_operators", lambda *given: scan(*given)[-8:])
    words = r"int8 loses 0\.\d+ mean IoU even with 4 of \d+ operators in float"
    with pytest.raises(UserError, match=words):
        quantization.main(["--models-dir", str(fragile_run), *FEW, "--max-drop", "0.01"])
    assert sha256(artifact_path(fragile_run, "int8")) == before


def test_limit_that_holds_anyway_leaves_int8_throughout(run_copy):
    quantization.main(["--models-dir", str(run_copy), *FEW, "--max-drop", "0.9"])
    assert read_record(run_copy, "int8")["metrics"]["float_operators"] == []
    interpreter = open_interpreter(artifact_path(run_copy, "int8"))
    types = {tensor["dtype"] for tensor in interpreter.get_tensor_details()}
    assert types <= {np.int8, np.uint8, np.int32}
