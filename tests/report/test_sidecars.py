"""Charts and tables beside an artifact: drawn from its record, never able to cost it anything."""

from __future__ import annotations

import argparse
import errno

import pytest

from pipeline.base import artifacts, fingerprints
from pipeline.base.stage import Stage
from pipeline.report import sidecars


@pytest.fixture
def stage(tmp_path):
    """A stage whose model and record are in place."""
    script = tmp_path / "training.py"
    script.write_text("")
    common = {"models_dir": tmp_path / "models", "if_needed": True, "accept_edits": False}
    made = Stage.begin(script, argparse.Namespace(**common))
    with made.new_artifact("original", {}, tables={"history": [{"epoch": 1}]}) as (path,):
        path.write_text("weights")
    return made


@pytest.fixture
def code(tmp_path):
    """A module that draws, which may be edited."""
    path = tmp_path / "charts.py"
    path.write_text("COLOUR = 1\n")
    fingerprints.read.cache_clear()
    yield path
    fingerprints.read.cache_clear()


class Drawer:
    """Writes files from the record and counts how often; raises what it is told to."""

    def __init__(self, stage):
        self.folder, self.calls, self.error = stage.models_dir, [], None

    def write(self, path):
        self.calls.append(path.name)
        if self.error and path.suffix == ".png":
            raise self.error
        path.write_text(f"drawn: {path.name}")

    @property
    def files(self):
        names = ("original_training.csv", "original_training.png")
        return {self.folder / name: self.write for name in names}


@pytest.fixture
def drawer(stage):
    return Drawer(stage)


def test_files_are_drawn_once(stage, drawer, code):
    sidecars.draw(stage, "original", drawer.files, str(code))
    assert all(path.read_text() == f"drawn: {path.name}" for path in drawer.files)
    sidecars.draw_again(stage, "original", drawer.files, str(code))
    assert drawer.calls == ["original_training.csv", "original_training.png"]
    record = artifacts.read_record(stage.models_dir, "original")
    assert record["history"] == [{"epoch": 1}] and stage.reasons("original") == []


@pytest.mark.parametrize("change", ["missing", "edited", "code"])
def test_file_that_is_missing_or_out_of_date_is_drawn_again(stage, drawer, code, capsys, change):
    """And the stage has no reason to run."""
    sidecars.draw(stage, "original", drawer.files, str(code))
    picture = stage.models_dir / "original_training.png"
    if change == "missing":
        picture.unlink()
    elif change == "edited":
        picture.write_text("scribbled over")
    else:
        code.write_text("COLOUR = 2\n")
        fingerprints.read.cache_clear()
    assert stage.reasons("original") == []
    sidecars.draw_again(stage, "original", drawer.files, str(code))
    assert picture.read_text() == "drawn: original_training.png"
    why = {"missing": "it is missing", "edited": "it was changed after it was drawn"}
    why["code"] = "charts.py was edited"
    said = f"training.py: draws original_training.png, because {why[change]}"
    assert said in capsys.readouterr().out


ERRORS = [ValueError("no such\nbackend"), OSError(errno.ENOSPC, "No space left"), MemoryError()]


@pytest.mark.parametrize("error", ERRORS, ids=["library", "disk", "memory"])
def test_chart_that_cannot_be_drawn_is_a_note(stage, drawer, code, capsys, error):
    drawer.error = error
    sidecars.draw(stage, "original", drawer.files, str(code))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"note: {stage.models_dir}/original_training.png could not be drawn: ")
    assert (stage.models_dir / "original_training.csv").exists()
    assert stage.reasons("original") == []
    drawer.error = None
    sidecars.draw_again(stage, "original", drawer.files, str(code))
    assert (stage.models_dir / "original_training.png").exists()


def test_disk_that_is_full_after_the_model_is_a_note(stage, drawer, code, capsys, monkeypatch):
    """The record of the model is in place already; that the charts are drawn cannot be noted."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "write_record", full)
        sidecars.draw(stage, "original", drawer.files, str(code))
    assert "note: " in capsys.readouterr().out
    assert stage.reasons("original") == []
    sidecars.draw_again(stage, "original", drawer.files, str(code))
    assert artifacts.read_record(stage.models_dir, "original")["drawn"]["files"]


def test_ctrl_c_is_no_fault_of_a_chart(stage, drawer, code):
    drawer.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        sidecars.draw(stage, "original", drawer.files, str(code))


def test_nothing_is_drawn_where_another_stage_works(stage, drawer, code):
    with stage.lock():
        other = Drawer(stage)
        sidecars.draw_again(stage, "original", other.files, str(code))
        assert other.calls == []


def test_charts_of_an_earlier_artifact_go_with_it(stage, drawer, code):
    """As the curves of a fine-tuning, where the new model had none."""
    sidecars.draw(stage, "original", drawer.files, str(code))
    with stage.new_artifact("original", {}) as (path,):
        path.write_text("other weights")
    assert not [path for path in drawer.files if path.exists()]
