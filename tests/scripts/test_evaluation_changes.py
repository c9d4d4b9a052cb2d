"""evaluation.py after a tweak: it keeps the evaluation before and says what changed since."""

import json
import shutil

import numpy as np
import pytest

import evaluation
from pipeline.base.artifacts import artifact_path, read_record
from pipeline.base.console import UserError
from pipeline.base.files import sha256
from pipeline.evaluation import comparison
from pipeline.evaluation.finished import COUNTS_FILE, PREVIOUS_FILES
from pipeline.report import gallery
from tests.helpers.made_up_evaluation import counted, made_up_times

SINCE = "What changed since the evaluation before"


@pytest.fixture
def folder(evaluated_run, tmp_path):
    return shutil.copytree(evaluated_run, tmp_path / "models")


@pytest.fixture
def counts(evaluated_run, monkeypatch, numbers):
    """Pixel counts by model, which a test may change; time and memory are made up."""
    with np.load(evaluated_run / COUNTS_FILE) as file:
        known = {name: file[name] for name in file.files}
    monkeypatch.setattr(evaluation.accuracy, "measure", lambda _, name, *__: counted(known[name]))
    times = {row["name"]: row["latency_ms"] for row in numbers["models"]}
    machine = {"latency_ms": times, "latency_ms_all_threads": times}
    machine["memory_bytes"] = dict.fromkeys(known, 10**7)
    monkeypatch.setattr(evaluation, "measure_machine", lambda *_: machine)
    monkeypatch.setattr(gallery, "photo_grid", lambda *_: None)
    return known


def tweak(folder, counts):
    """Another int8 file, as quantization.py would have made it with another setting."""
    path, record = artifact_path(folder, "int8"), read_record(folder, "int8")
    path.write_bytes(path.read_bytes() + b"\0")
    settings = record["settings"] | {"calibration_images": 5}
    record.rewrite(sha256=sha256(path), settings=settings)
    counts["int8"] = counts["int8"].copy()
    counts["int8"][:3, 0] //= 2


def ask(folder, *flags):
    return evaluation.main(["--models-dir", str(folder), "--if-needed", *flags])


def comparison_in(said):
    """The printed comparison, without the table before it and the last line."""
    return said[said.index("What changed") :].rpartition("\n\n")[0]


def test_tweak_is_said_with_what_it_did_and_said_again(folder, counts, capsys):
    before = [(folder / name).read_bytes() for name in ("evaluation.json", COUNTS_FILE)]
    tweak(folder, counts)
    assert ask(folder) == 0
    printed = capsys.readouterr().out
    said = comparison_in(printed)
    assert said.startswith(SINCE)
    assert "quantization --calibration-images 20 \N{RIGHTWARDS ARROW} 5" in said
    assert "the same file as then: original, pruned, float32" in said
    (row,) = (line.split() for line in said.splitlines() if line.startswith("int8"))
    assert row[1] == "+1" and row[-1] == "worse"
    assert "read at least 2 times" in said
    assert [(folder / name).read_bytes() for name in PREVIOUS_FILES] == before
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "note:" not in printed
    section = report.split("<h2>")[2]
    assert section.startswith(SINCE) and "data:image/webp" in section and ", was " in section

    content = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    (numbers,) = content["changes"]["models"]
    low, high = numbers["interval"]
    assert low <= numbers["mean_iou"][1] - numbers["mean_iou"][0] <= high < 0
    assert content["code"].keys() >= {"training", "pruning", "quantization", "evaluation"}

    files = {path: path.read_bytes() for path in folder.glob("*.*")}
    assert ask(folder) == 0
    again = capsys.readouterr().out
    assert "up to date" in again and comparison_in(again) == said and "drawing" not in again
    assert {path: path.read_bytes() for path in folder.glob("*.*")} == files


@pytest.mark.slow
def test_measured_again_without_a_change_it_still_compares_with_the_state_before(
    folder, counts, capsys
):
    before = (folder / "evaluation.json").read_bytes()
    tweak(folder, counts)
    for _ in range(2):
        assert evaluation.main(["--models-dir", str(folder)]) == 0
        assert "--calibration-images 20" in comparison_in(capsys.readouterr().out)
    assert (folder / PREVIOUS_FILES[0]).read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("name", PREVIOUS_FILES)
def test_damaged_copy_neither_measures_again_nor_hides_the_comparison(
    folder, counts, monkeypatch, capsys, name
):
    tweak(folder, counts)
    ask(folder)
    (folder / name).write_bytes(b"damaged")
    monkeypatch.setattr(evaluation, "evaluate", lambda *_: pytest.fail("measured again"))
    capsys.readouterr()
    assert ask(folder) == 0
    assert "--calibration-images 20" in comparison_in(capsys.readouterr().out)


@pytest.mark.slow
def test_damaged_evaluation_before_is_a_note(folder, counts, capsys):
    tweak(folder, counts)
    (folder / COUNTS_FILE).write_bytes(b"damaged")
    assert ask(folder) == 0
    said = capsys.readouterr().out
    assert f"note: nothing is compared with the evaluation before: {folder / COUNTS_FILE}" in said
    assert "What changed" not in said
    assert "What changed" not in (folder / "report.html").read_text(encoding="utf-8")


def test_against_another_folder_with_times_and_then_without(
    folder, counts, evaluated_run, monkeypatch, capsys
):
    tweak(folder, counts)
    timed = []

    def measure_files(paths, threads, image):
        timed.append((paths, threads, image.shape))
        return {name: made_up_times(3.0 if name.startswith("then") else 2.0) for name in paths}

    monkeypatch.setattr(comparison, "measure_files", measure_files)
    assert evaluation.main(["--models-dir", str(folder), "--against", str(evaluated_run)]) == 0
    said = capsys.readouterr().out
    assert "runs, because int8 changed" in said  # measured first, as it was not up to date
    text = comparison_in(said)
    assert text.startswith(f"What changed against {evaluated_run}")
    assert "1.50x faster" in text and "--calibration-images 20" in text
    files = {
        f"{when} int8": artifact_path(place, "int8")
        for when, place in (("then", evaluated_run), ("now", folder))
    }
    assert timed == [(files, 1, (32, 32, 3))]
    report = folder / "report.html"
    assert f"<h2>What changed against {evaluated_run}" in report.read_text(encoding="utf-8")

    assert ask(folder) == 0
    said = capsys.readouterr().out
    assert "drawing report.html, because the comparison with another folder is no longer" in said
    assert comparison_in(said).startswith(SINCE)
    assert f"<h2>{SINCE}" in report.read_text(encoding="utf-8")


def test_against_what_cannot_be_compared_ends_before_anything_is_measured(
    folder, monkeypatch, tmp_path
):
    monkeypatch.setattr(evaluation, "evaluate", lambda *_: pytest.fail("measured"))
    for other in (tmp_path / "missing", folder):
        with pytest.raises(UserError, match=r"--against "):
            evaluation.main(["--models-dir", str(folder), "--against", str(other)])
