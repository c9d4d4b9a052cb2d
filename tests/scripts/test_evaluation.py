"""Stage 5 as a user runs it: gates, what is up to date, and a page drawn without measuring."""

import csv
import json
import shutil

import numpy as np
import pytest

import evaluation
import quantization
from pipeline.base.artifacts import (
    MODELS,
    artifact_path,
    read_record,
    record_path,
    stale_reason,
    write_record,
)
from pipeline.base.console import UserError
from pipeline.base.files import sha256
from pipeline.data.dataset import load_split
from pipeline.report import gallery, page
from pipeline.variants import VARIANTS, quantised
from tests.helpers.made_up_evaluation import counted
from tests.helpers.small_runs import CALIBRATION
from tests.helpers.toy_networks import that_crashes


@pytest.fixture
def evaluated_copy(evaluated_run, tmp_path):
    return shutil.copytree(evaluated_run, tmp_path / "models")


@pytest.fixture
def unmeasured(monkeypatch):
    """Fails the test if anything is measured."""

    def refuse(*arguments):
        raise AssertionError("measured again")

    monkeypatch.setattr(evaluation, "evaluate", refuse)


@pytest.fixture
def without_photos(monkeypatch):
    """Draws reports without photos, for which models would have to run."""
    monkeypatch.setattr(gallery, "photo_grid", lambda *_: None)


@pytest.fixture
def known_counts(evaluated_run, monkeypatch):
    """Accuracy is taken from the finished run, so that no model has to run."""
    with np.load(evaluated_run / "counts_per_image.npz") as file:
        counts = {name: file[name] for name in file.files}
    monkeypatch.setattr(
        evaluation.accuracy, "measure", lambda models_dir, name, *_: counted(counts[name])
    )


def ask(models_dir, *flags):
    return evaluation.main(["--models-dir", str(models_dir), "--if-needed", *flags])


def test_exit_code_tells_whether_a_limit_broke(evaluated_copy, unmeasured, capsys):
    assert ask(evaluated_copy, "--max-bytes", "100000000") == 0
    assert "FAILED" not in capsys.readouterr().out
    assert ask(evaluated_copy, "--max-bytes", "1000") == 1
    said = capsys.readouterr().out
    assert all(f"FAILED: {name} breaks --max-bytes 1000: " in said for name in quantised())
    assert ask(evaluated_copy, "--max-bytes", "1000") == 1  # and fails again
    assert "up to date" in capsys.readouterr().out
    assert ask(evaluated_copy) == 0  # a gate is of one call, and no setting of the record


def test_latency_of_a_busy_machine_passes_no_gate(evaluated_copy, unmeasured, capsys):
    """Not even a limit that the latency keeps: exit code 2, or 1 if another limit is broken."""
    path = artifact_path(evaluated_copy, "evaluation")
    content = json.loads(path.read_text())
    for row in content["models"]:
        row["latency_ms"]["busy"] = "turns differ by 80%" if row["name"] == "int8" else None
    path.write_text(json.dumps(content))
    record = json.loads(record_path(evaluated_copy, "evaluation").read_text())
    write_record(record_path(evaluated_copy, "evaluation"), record | {"sha256": sha256(path)})
    assert ask(evaluated_copy, "--max-latency-ms", "100000") == 2
    said = capsys.readouterr().out
    assert "FAILED: int8 cannot be compared with --max-latency-ms: turns differ by 80%" in said
    assert "THE MACHINE WAS BUSY while latency was measured (int8: turns differ by 80%)" in said
    assert "THE MACHINE WAS BUSY" in (evaluated_copy / "report.html").read_text()
    assert ask(evaluated_copy, "--max-latency-ms", "100000", "--max-bytes", "1") == 1
    assert ask(evaluated_copy, "--max-latency-ms", "100000", "--gate", "float16") == 0
    assert ask(evaluated_copy, "--max-bytes", "100000000") == 0


# --- what it writes -----------------------------------------------------------------------


def test_evaluation_holds_a_whole_row_of_every_model(evaluated_run):
    content = json.loads((evaluated_run / "evaluation.json").read_text())
    assert [row["name"] for row in content["models"]] == list(MODELS)
    for row in content["models"]:
        assert row["bytes"] == artifact_path(evaluated_run, row["name"]).stat().st_size
        assert 0 < row["gzip_bytes"] < row["bytes"] and row["stale"] is None
        assert 0 < row["latency_ms"]["median"] <= row["latency_ms"]["p90"]
        low, high = row["mean_iou_interval"]
        assert low <= row["mean_iou"] <= high
        assert np.mean(list(row["iou"].values())) == pytest.approx(row["mean_iou"], abs=1e-4)
    original = content["models"][0]
    assert original["mean_iou_drop"] == 0 and original["mean_iou_drop_interval"] == [0, 0]
    with (evaluated_run / "evaluation.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    rows = [row["mean_iou"] for row in content["models"]]
    assert [float(row["mean_iou"]) for row in table] == rows


def test_evaluation_describes_the_data_set(evaluated_run):
    about = json.loads((evaluated_run / "evaluation.json").read_text())["dataset"]
    _, masks = (part[:] for part in load_split(evaluated_run, "test"))
    shares = np.bincount(np.asarray(masks).ravel(), minlength=3) / np.asarray(masks).size
    assert list(about["class_shares"].values()) == pytest.approx(shares, abs=1e-6)
    assert about["constant_class"] == "background"
    assert about["constant_mean_iou"] == pytest.approx(shares[1] / 3, abs=1e-4)
    assert about["synthetic"] and about["examples"] == len(masks)
    assert about["image_size"] == [32, 32] and about["ignored_share"] == 0


def test_no_file_is_stale(evaluated_run):
    for name in (*VARIANTS, "evaluation", "report"):
        assert stale_reason(evaluated_run, name) is None
    assert read_record(evaluated_run, "pruned_float32")["inputs"].keys() == {"pruned"}
    assert read_record(evaluated_run, "evaluation")["inputs"].keys() == {"dataset", *MODELS}
    assert read_record(evaluated_run, "report")["inputs"].keys() == {"evaluation"}


def test_stale_model_is_a_marked_row_that_passes_no_gate(
    evaluated_copy, monkeypatch, numbers, without_photos, known_counts, capsys
):
    """The measured values of a stale file are still worth a look, and are no reason to stop."""
    other = artifact_path(evaluated_copy, "dynamic").read_bytes()
    artifact_path(evaluated_copy, "int8").write_bytes(other)
    times = {row["name"]: row["latency_ms"] for row in numbers["models"]}
    keys = ("latency_ms", "latency_ms_all_threads", "memory_bytes")
    monkeypatch.setattr(evaluation, "measure_machine", lambda *_: dict.fromkeys(keys, times))
    shown = {}
    monkeypatch.setattr(page, "page", lambda content, *_: shown.update(content) or "page")
    assert evaluation.main(["--models-dir", str(evaluated_copy)]) == 0
    rows = json.loads((evaluated_copy / "evaluation.json").read_text())["models"]
    stale = {row["name"]: row["stale"] for row in rows if row["stale"]}
    assert stale.keys() == {"int8"} and "was changed after it was made" in stale["int8"]
    assert shown["models"] == rows
    capsys.readouterr()
    limit = ["--models-dir", str(evaluated_copy), "--max-drop", "1"]
    assert evaluation.main([*limit, "--gate", "int8"]) == 2
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "FAILED" in line]
    assert line == f"FAILED: int8 cannot be judged: {stale['int8']}"
    assert evaluation.main([*limit, "--gate", "float16"]) == 0


@pytest.mark.parametrize("changed", ["int8", "original", "dataset"])
def test_input_that_changes_while_it_is_measured_leaves_the_old_numbers(
    evaluated_copy, monkeypatch, known_counts, changed
):
    """Else a row would hold the latency of one file and the mean IoU of another."""
    before = (evaluated_copy / "evaluation.json").read_bytes()
    path = artifact_path(evaluated_copy, changed)
    if changed == "dataset":
        path = next(path.parent.glob("test_masks*"))

    def measure(*_):
        with path.open("r+b") as file:
            file.seek(-1, 2)
            last = file.read(1)[0]
            file.seek(-1, 2)
            file.write(bytes([last ^ 1]))
        return {}

    monkeypatch.setattr(evaluation, "measure_machine", measure)
    monkeypatch.setattr(evaluation, "MODELS", ("original", "int8"))
    with pytest.raises(UserError, match=r"was changed( while it was measured| after it was made)?"):
        evaluation.main(["--models-dir", str(evaluated_copy)])
    assert (evaluated_copy / "evaluation.json").read_bytes() == before


def test_file_that_crashes_litert_is_one_line_before_anything_is_measured(
    evaluated_copy, monkeypatch
):
    path = artifact_path(evaluated_copy, "int8")
    path.write_bytes(that_crashes(path.read_bytes()))
    monkeypatch.setattr(evaluation, "measure_machine", lambda *_: pytest.fail("measured"))
    with pytest.raises(UserError, match=r"int8_quantized_model.*run: LiteRT crashes"):
        evaluation.main(["--models-dir", str(evaluated_copy)])


@pytest.mark.parametrize("name", ["int8", "float32"])
def test_missing_model_is_said_before_anything_is_measured(run_copy, unmeasured, name):
    """Also where quantization.py ran when it did not yet make the float32 files."""
    artifact_path(run_copy, name).unlink()
    record_path(run_copy, name).unlink()
    words = rf"{VARIANTS[name].file} is missing; make it with: .*python .*quantization\.py"
    with pytest.raises(UserError, match=words):
        evaluation.main(["--models-dir", str(run_copy)])


# --- a models folder of before: this stage made the float32 files --------------------------


@pytest.fixture
def folder_of_before(evaluated_copy):
    """The records as they were then: the float32 files were no inputs of this stage."""
    for name in ("float32", "pruned_float32"):
        record = read_record(evaluated_copy, name)
        old = {"code": {"evaluation.py": "0" * 16}, "metrics": {"bytes": 1}}
        record.rewrite(stage="evaluation", settings={"seed": 7}, **old)
    record = read_record(evaluated_copy, "evaluation")
    before = {k: v for k, v in record["inputs"].items() if k not in ("float32", "pruned_float32")}
    record.rewrite(inputs=before)
    return evaluated_copy


def test_folder_of_before_needs_no_more_than_accepted_edits(folder_of_before, unmeasured, capsys):
    for stage, flags in ((quantization, CALIBRATION), (evaluation, ())):
        assert not stage.main(["--models-dir", str(folder_of_before), "--accept-edits", *flags])
        assert "up to date, nothing to do" in capsys.readouterr().out
        assert not stage.main(["--models-dir", str(folder_of_before), "--if-needed", *flags])
        assert "up to date, nothing to do" in capsys.readouterr().out


def test_float32_files_of_before_are_measured_as_they_are(
    folder_of_before, monkeypatch, numbers, without_photos, known_counts
):
    times = {row["name"]: row["latency_ms"] for row in numbers["models"]}
    keys = ("latency_ms", "latency_ms_all_threads", "memory_bytes")
    monkeypatch.setattr(evaluation, "measure_machine", lambda *_: dict.fromkeys(keys, times))
    artifact_path(folder_of_before, "evaluation").unlink()
    assert evaluation.main(["--models-dir", str(folder_of_before)]) == 0
    rows = json.loads((folder_of_before / "evaluation.json").read_text())["models"]
    assert [row["name"] for row in rows] == list(MODELS)
    assert all(row["stale"] is None for row in rows)
    assert ask(folder_of_before) == 0  # and nothing more


def test_float32_file_that_quantization_made_anew_is_measured(evaluated_copy, unmeasured, capsys):
    path = record_path(evaluated_copy, "float32")
    write_record(path, json.loads(path.read_text()) | {"sha256": "0" * 64})
    with pytest.raises(AssertionError, match="measured again"):
        ask(evaluated_copy)
    assert "evaluation.py: runs, because float32 changed" in capsys.readouterr().out


# --- what is up to date -------------------------------------------------------------------


def test_nothing_is_measured_or_drawn_twice(evaluated_copy, unmeasured, capsys):
    before = {path: path.read_bytes() for path in evaluated_copy.glob("*.*")}
    assert ask(evaluated_copy) == 0
    said = capsys.readouterr().out
    assert said.startswith("evaluation.py: up to date, nothing to do\n")
    assert "drawing" not in said and "mean IoU" in said  # the table is printed all the same
    assert said.splitlines()[-1].endswith(" s since the start")
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
    evaluated_copy, unmeasured, capsys, without_photos
):
    template, path = "pipeline/report/page.html", record_path(evaluated_copy, "report")
    record = json.loads(path.read_text())
    digest = record["code"][template]
    write_record(path, record | {"code": record["code"] | {template: "0" * 16}})
    assert ask(evaluated_copy) == 0
    printed = capsys.readouterr().out
    assert "evaluation.py: up to date" in printed
    assert f"drawing report.html, because {template} was edited" in printed
    assert read_record(evaluated_copy, "report")["code"][template] == digest
    ask(evaluated_copy)
    assert "drawing" not in capsys.readouterr().out


def test_report_is_drawn_again_when_the_names_of_its_photos_change(
    evaluated_copy, unmeasured, capsys, without_photos
):
    path = record_path(evaluated_copy, "dataset")
    for digest, reason in (("0" * 64, "is new"), ("1" * 64, "changed")):
        write_record(path, json.loads(path.read_text()) | {"listing": ["examples.csv", digest]})
        assert ask(evaluated_copy) == 0
        said = capsys.readouterr().out
        assert f"drawing report.html, because the list of pictures {reason}" in said
    assert ask(evaluated_copy) == 0 and "drawing" not in capsys.readouterr().out


def test_report_edited_by_hand_is_drawn_again(evaluated_copy, unmeasured, without_photos):
    report = evaluated_copy / "report.html"
    report.write_text("<p>hand-made")
    ask(evaluated_copy)
    assert "hand-made" not in report.read_text() and "<h1>" in report.read_text()


@pytest.mark.parametrize("change", ["seed", "model", "code"])
def test_change_of_what_decides_the_numbers_measures_again(
    evaluated_copy, unmeasured, capsys, change
):
    flags, reason = [], "int8 changed"
    if change == "seed":
        flags, reason = ["--seed", "8"], "--seed is 8, was 7"
    elif change == "model":
        path = record_path(evaluated_copy, "int8")
        write_record(path, json.loads(path.read_text()) | {"sha256": "0" * 64})
    else:
        path, reason = (
            record_path(evaluated_copy, "evaluation"),
            "pipeline/inference/iou.py was edited",
        )
        record = json.loads(path.read_text())
        assert "pipeline/inference/iou.py" in record["code"]
        record["code"]["pipeline/inference/iou.py"] = "0" * 16
        write_record(path, record)
    with pytest.raises(AssertionError, match="measured again"):
        ask(evaluated_copy, *flags)
    assert f"evaluation.py: runs, because {reason}" in capsys.readouterr().out
