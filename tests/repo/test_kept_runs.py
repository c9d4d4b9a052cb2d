"""Finished runs are kept between calls of pytest: under which key, for how long, and unchanged."""

from __future__ import annotations

import os

import pytest

from pipeline.base import fingerprints
from tests.helpers import kept_runs
from tests.helpers.kept_runs import STAGES, KeptRuns, RunChanged, key_of
from tests.helpers.runs import copy_code


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """An empty folder of runs, in a call of pytest during which nobody edits the pipeline."""
    monkeypatch.setattr(kept_runs, "edited_since", lambda moment: False)
    return KeptRuns(tmp_path, tmp_path / "temporary")


def write_run(path):
    path.mkdir()
    (path / "model.h5").write_text("weights")


def fail(path):
    path.mkdir()
    raise KeyboardInterrupt


def test_run_is_made_once(runs):
    path = runs.get("finished", "aa", write_run)
    assert runs.get("finished", "aa", fail) == path
    assert (path / "model.h5").read_text() == "weights"
    runs.check()


def test_unfinished_run_is_made_anew(runs):
    with pytest.raises(KeyboardInterrupt):
        runs.get("finished", "aa", fail)
    assert (runs.get("finished", "aa", write_run) / "model.h5").exists()


def test_old_versions_are_removed(runs, tmp_path):
    """All but the two that were used last, and none that was used within an hour."""
    for number, key in enumerate(("aa", "bb", "cc", "dd")):
        runs.get("finished", key, write_run)
        done = runs.done_file(tmp_path / f"finished-{key}")
        hours_ago = os.stat(done).st_mtime - (4 - number) * kept_runs.UNUSED_SECONDS
        os.utime(done, (hours_ago, hours_ago))
    runs.get("other", "aa", write_run)
    runs.remove_old("finished")
    folders = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert folders == {"finished-cc", "finished-dd", "other-aa"}
    assert not list(tmp_path.glob("finished-aa*"))


def test_test_that_writes_into_a_run_is_a_fault(runs):
    path = runs.get("finished", "aa", write_run)
    (path / "left.txt").write_text("")
    with pytest.raises(RunChanged, match=r"left\.txt in .*finished-aa.*run_copy"):
        runs.check()
    path = runs.get("finished", "aa", write_run)
    assert not (path / "left.txt").exists(), "it is made anew"


def test_run_that_was_made_during_an_edit_is_not_kept(runs, tmp_path, monkeypatch):
    edits = iter([False, True])
    monkeypatch.setattr(kept_runs, "edited_since", lambda moment: next(edits))
    runs.get("finished", "aa", write_run)
    runs.check()
    assert not runs.done_file(tmp_path / "finished-aa").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "addition", "anew"),
    [
        ("training/losses.py", "EDITED = True", True),
        ("training/losses.py", "# A comment.", False),
        ("base/stage.py", "EDITED = True", True),
        ("report/charts.py", "EDITED = True", False),
        ("deploy/handover.py", "EDITED = True", False),
    ],
)
def test_key_follows_the_code_that_makes_a_finished_run(tmp_path, file, addition, anew):
    project = copy_code(tmp_path / "project")
    before = key_of(STAGES[:4], root=project)
    path = project / "pipeline" / file
    path.write_text(f"{path.read_text(encoding='utf-8')}\n{addition}\n", encoding="utf-8")
    fingerprints.read.cache_clear()
    assert (key_of(STAGES[:4], root=project) != before) == anew
