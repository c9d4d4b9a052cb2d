"""One stage at a time in a models folder."""

import argparse
import errno
import os
import subprocess
import sys

import pytest

from pipeline.base import system
from pipeline.base.console import UserError
from pipeline.base.stage import Stage
from tests.helpers.runs import ROOT

HOLD = """
import argparse, pathlib, sys
from pipeline.base.stage import Stage
common = dict(models_dir=pathlib.Path(sys.argv[1]), if_needed=False, accept_edits=False)
with Stage.begin("training.py", argparse.Namespace(**common)).lock():
    print("holds", flush=True)
    input()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that works in a models folder until it is told to end."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "holds\n"
    yield process
    process.kill()
    process.communicate()


def a_stage(models_dir):
    common = {"models_dir": models_dir, "if_needed": False, "accept_edits": False}
    return Stage.begin(ROOT / "pruning.py", argparse.Namespace(**common))


def test_second_stage_in_a_folder_is_told_who_works_there(holder, tmp_path):
    says = rf"training\.py \(process {holder.pid}\) works in {tmp_path}; wait until it ends"
    with pytest.raises(UserError, match=says), a_stage(tmp_path).lock():
        pass
    with a_stage(tmp_path / "another").lock():
        pass
    holder.communicate("\n")
    with a_stage(tmp_path).lock():
        pass
    assert not (tmp_path / ".lock").exists()


def test_lock_of_a_killed_process_does_not_block(holder, tmp_path):
    holder.kill()
    holder.wait()
    assert (tmp_path / ".lock").exists()
    with a_stage(tmp_path).lock():
        pass


def test_lock_that_its_holder_removed_meanwhile_is_made_anew(tmp_path, monkeypatch):
    """Between the opening of the file and the lock the other stage ended."""
    plain, seen = system.fcntl.flock, []

    def flock(lock, how):
        if not seen:
            (tmp_path / ".lock").unlink()
        seen.append(lock)
        plain(lock, how)

    monkeypatch.setattr(system.fcntl, "flock", flock)
    with system.lock(tmp_path, "training.py"):
        assert (tmp_path / ".lock").read_text() == f"training.py (process {os.getpid()})"
    assert len(seen) == 2


def test_full_disk_is_said_before_the_work_and_leaves_no_lock(tmp_path, monkeypatch):
    def write(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(system.os, "write", write)
    with (
        pytest.raises(UserError, match=rf"{tmp_path} cannot be written \(No space left"),
        system.lock(tmp_path, "training.py"),
    ):
        pytest.fail("worked")
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be_written_is_said_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), a_stage(tmp_path / "file").lock():
        pass
