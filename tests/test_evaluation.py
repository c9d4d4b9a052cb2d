"""Stage 5 as its user meets it: gates, what is up to date, and the page drawn without measuring."""

import csv
import json
import shutil

import numpy as np
import pytest
from conftest import run_script

import evaluation
from pipeline import fingerprints
from pipeline.artifacts import (
    MODELS,
    artifact_path,
    read_record,
    record_path,
    stale_reason,
    write_json,
)
from pipeline.console import UserError
from pipeline.dataset import load_split
from pipeline.variants import VARIANTS, quantised


@pytest.fixture
def evaluated_copy(evaluated_run, tmp_path):
    return shutil.copytree(evaluated_run, tmp_path / "models")


@pytest.fixture
def unmeasured(monkeypatch):
    """Fails where something is measured."""

    def refuse(*arguments):
        raise AssertionError("measured again")

    monkeypatch.setattr(evaluation, "evaluate", refuse)


@pytest.fixture
def without_photos(monkeypatch):
    """Pages without photos, for tests that are about something else: no model has to run."""
    monkeypatch.setattr(evaluation.gallery, "photo_grid", lambda *_: None)


def ask(models_dir, *flags):
    return evaluation.main(["--models-dir", str(models_dir), "--if-needed", *flags])


# --- the gate -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "kept", "broken"),
    [
        ("--max-drop", "0.004", "0.003"),
        ("--max-latency-ms", "8.0", "7.9"),
        ("--max-bytes", "2000000", "1999999"),
        ("--min-mean-iou", "0.76", "0.761"),
    ],
)
def test_gate(numbers, flag, kept, broken):
    assert evaluation.broken_limits(evaluation.parse([flag, kept]), numbers) == []
    lines = evaluation.broken_limits(evaluation.parse([flag, broken]), numbers)
    assert lines
    assert all(flag in line and broken.rstrip("0") in line for line in lines)
    named = {line.split()[0] for line in lines}
    assert named <= set(quantised())  # the gate is for what ships


def test_gate_is_open_without_limits(numbers):
    assert evaluation.broken_limits(evaluation.parse([]), numbers) == []


@pytest.mark.parametrize("flag", ["--max-drop", "--max-latency-ms", "--max-bytes"])
@pytest.mark.parametrize("limit", ["nan", "inf", "-inf", "-1", "much"])
def test_limit_that_says_nothing_is_refused(flag, limit, capsys):
    """A gate at nan would let everything pass, for no number is above it."""
    with pytest.raises(SystemExit) as stopped:
        evaluation.main([f"{flag}={limit}"])
    assert stopped.value.code == 2
    assert flag in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["nan", "-0.1", "1.1"])
def test_mean_iou_is_a_share(limit):
    for flag in ("--min-mean-iou", "--max-drop"):
        with pytest.raises(SystemExit) as stopped:
            evaluation.main([f"{flag}={limit}"])
        assert stopped.value.code == 2


def test_limit_is_refused_before_tensorflow_is_loaded(tmp_path):
    """TensorFlow takes seconds to load: a stand-in that fails shows that nobody asked for it."""
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('loaded')")
    done = run_script("evaluation.py", "--max-drop", "nan", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(
        "argument --max-drop: nan is not a finite number between 0.0 and 1.0"
    )


def test_exit_code_tells_whether_a_limit_broke(evaluated_copy, unmeasured, capsys):
    assert ask(evaluated_copy, "--max-bytes", "100000000") == 0
    assert "FAILED" not in capsys.readouterr().out
    assert ask(evaluated_copy, "--max-bytes", "1000") == 1
    said = capsys.readouterr().out
    assert all(f"FAILED: {name} breaks --max-bytes 1000: " in said for name in quantised())
    assert ask(evaluated_copy) == 0  # a gate is of one call, and no setting of the record


# --- what it writes -----------------------------------------------------------------------


def test_evaluation_holds_a_whole_row_of_every_model(evaluated_run):
    found = json.loads((evaluated_run / "evaluation.json").read_text())
    assert [row["name"] for row in found["models"]] == list(MODELS)
    for row in found["models"]:
        assert row["bytes"] == artifact_path(evaluated_run, row["name"]).stat().st_size
        assert 0 < row["gzip_bytes"] < row["bytes"] and row["stale"] is None
        assert 0 < row["latency_ms"]["median"] <= row["latency_ms"]["p90"]
        low, high = row["mean_iou_interval"]
        assert low <= row["mean_iou"] <= high
        assert np.mean(list(row["iou"].values())) == pytest.approx(row["mean_iou"], abs=1e-4)
    original = found["models"][0]
    assert original["mean_iou_drop"] == 0 and original["mean_iou_drop_interval"] == [0, 0]
    with (evaluated_run / "evaluation.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(row["mean_iou"]) for row in table] == [row["mean_iou"] for row in found["models"]]


def test_numbers_say_what_data_they_are_of(evaluated_run):
    found = json.loads((evaluated_run / "evaluation.json").read_text())["dataset"]
    _, masks = load_split(evaluated_run, "test")
    shares = np.bincount(np.asarray(masks).ravel(), minlength=3) / np.asarray(masks).size
    assert list(found["class_shares"].values()) == pytest.approx(shares, abs=1e-6)
    assert found["constant_class"] == "background"
    assert found["constant_mean_iou"] == pytest.approx(shares[1] / 3, abs=1e-4)
    assert found["synthetic"] and found["examples"] == len(masks)
    assert found["image_size"] == [32, 32] and found["ignored_share"] == 0


def test_every_file_has_a_record_that_holds(evaluated_run):
    for name in (*VARIANTS, "evaluation", "report"):
        assert stale_reason(evaluated_run, name) is None
    assert read_record(evaluated_run, "pruned_float32")["inputs"].keys() == {"pruned"}
    assert read_record(evaluated_run, "report")["inputs"].keys() == {"evaluation"}


def test_stale_model_is_a_marked_row_and_no_reason_to_stop(
    evaluated_copy, monkeypatch, numbers, without_photos
):
    """Somebody may want the numbers of what lies there."""
    other = artifact_path(evaluated_copy, "dynamic").read_bytes()
    artifact_path(evaluated_copy, "int8").write_bytes(other)
    times = {row["name"]: row["latency_ms"] for row in numbers["models"]}
    keys = ("latency_ms", "latency_ms_all_threads", "memory_bytes")
    monkeypatch.setattr(evaluation, "measure_machine", lambda *_: dict.fromkeys(keys, times))
    monkeypatch.setattr(evaluation, "write_baselines", lambda *_: None)
    with np.load(evaluated_copy / "counts_per_image.npz") as file:
        counts = {name: file[name] for name in file.files}
    monkeypatch.setattr(
        evaluation.accuracy, "counts_per_image", lambda models_dir, name, *_: counts[name]
    )
    page = {}
    monkeypatch.setattr(evaluation.report, "page", lambda found, *_: page.update(found) or "page")
    assert evaluation.main(["--models-dir", str(evaluated_copy)]) == 0
    rows = json.loads((evaluated_copy / "evaluation.json").read_text())["models"]
    stale = {row["name"]: row["stale"] for row in rows if row["stale"]}
    assert stale.keys() == {"int8"} and "was changed after it was made" in stale["int8"]
    assert page["models"] == rows


def test_missing_model_is_said_before_anything_is_measured(run_copy, unmeasured):
    artifact_path(run_copy, "int8").unlink()
    with pytest.raises(UserError, match=r"int8_quantized_model\.tflite is missing; make it with"):
        evaluation.main(["--models-dir", str(run_copy)])


# --- what is up to date -------------------------------------------------------------------


def test_nothing_is_measured_or_drawn_twice(evaluated_copy, unmeasured, capsys):
    before = {path: path.read_bytes() for path in evaluated_copy.glob("*.*")}
    assert ask(evaluated_copy) == 0
    said = capsys.readouterr().out
    assert said.startswith("evaluation.py: up to date, nothing to do\n")
    assert "drawing" not in said and "mean IoU" in said  # the table is printed all the same
    assert {path: path.read_bytes() for path in evaluated_copy.glob("*.*")} == before


def test_deleted_report_is_drawn_without_measuring(
    evaluated_run, evaluated_copy, unmeasured, capsys
):
    report = evaluated_copy / "report.html"
    before = report.read_text().replace(str(evaluated_run), str(evaluated_copy))
    report.unlink()
    assert ask(evaluated_copy) == 0
    assert "drawing report.html, because " in capsys.readouterr().out
    assert report.read_text() == before


def test_edited_template_is_drawn_without_measuring(
    evaluated_copy, unmeasured, capsys, monkeypatch, without_photos
):
    plain = fingerprints.of_stage

    def edited(script):
        code, versions = plain(script)
        changed = {key: "0" * 16 for key in code if key == "pipeline/report.html"}
        return code | changed, versions

    monkeypatch.setattr(fingerprints, "of_stage", edited)
    assert ask(evaluated_copy) == 0
    said = capsys.readouterr().out
    assert "evaluation.py: up to date" in said
    assert "drawing report.html, because pipeline/report.html was edited" in said
    assert read_record(evaluated_copy, "report")["code"]["pipeline/report.html"] == "0" * 16
    ask(evaluated_copy)
    assert "drawing" not in capsys.readouterr().out


def test_report_changed_by_hand_is_drawn_anew(evaluated_copy, unmeasured, without_photos):
    report = evaluated_copy / "report.html"
    report.write_text("<p>hand-made")
    ask(evaluated_copy)
    assert "hand-made" not in report.read_text() and "<h1>" in report.read_text()


@pytest.mark.parametrize("change", ["seed", "model", "code"])
def test_what_decides_the_numbers_is_measured_anew(evaluated_copy, unmeasured, capsys, change):
    flags, reason = [], "int8 changed"
    if change == "seed":
        flags, reason = ["--seed", "8"], "--seed is 8, was 7"
    elif change == "model":
        path = record_path(evaluated_copy, "int8")
        write_json(path, json.loads(path.read_text()) | {"sha256": "0" * 64})
    else:
        path, reason = record_path(evaluated_copy, "evaluation"), "pipeline/metrics.py was edited"
        record = json.loads(path.read_text())
        assert "pipeline/metrics.py" in record["code"]
        record["code"]["pipeline/metrics.py"] = "0" * 16
        write_json(path, record)
    with pytest.raises(AssertionError, match="measured again"):
        ask(evaluated_copy, *flags)
    assert f"evaluation.py: runs, because {reason}" in capsys.readouterr().out
