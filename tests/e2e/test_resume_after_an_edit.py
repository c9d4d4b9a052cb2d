"""A training script that was killed, an edit that is accepted, and --resume.

An edit that is not accepted: tests/base/test_stage.py and tests/training/test_checkpoints.py.
"""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import pytest

from pipeline.base import artifacts
from pipeline.base.files import sha256
from tests.helpers.runs import OWN_TRAINING, edit, run_script, start_script

pytestmark = pytest.mark.slow


@pytest.fixture
def stopped_project(own_project: Path, tmp_path: Path) -> Path:
    """A copy of `own_project` whose training was killed after its first epoch."""
    project = Path(shutil.copytree(own_project, tmp_path / "project"))
    models_dir = project / "models"
    (models_dir / "original_model.h5").unlink()
    state = models_dir / ".original_training_state.npz"
    process = start_script(project / "training.py", "--models-dir", models_dir, *OWN_TRAINING)
    deadline = time.monotonic() + 200
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert state.exists()
    return project


def test_killed_training_resumes_after_an_accepted_edit_and_records_it(
    stopped_project, own_project
):
    """The edit changes the text of the code and nothing that it computes: the bytes are equal."""
    losses = stopped_project / "pipeline" / "training" / "losses.py"
    edit(losses, "JACCARD_WEIGHT = 1.0", "JACCARD_WEIGHT = 2 / 2")
    models_dir = stopped_project / "models"
    where = ("--models-dir", models_dir, *OWN_TRAINING)
    done = run_script(stopped_project / "training.py", *where, "--resume", "--accept-edits")
    assert done.returncode == 0, done.stderr
    assert "going on after epoch 1\n" in done.stdout
    record = artifacts.read_record(models_dir, "original")
    assert record["accepted"] == ["pipeline/training/losses.py was edited"]
    uninterrupted = sha256(own_project / "models" / "original_model.h5")
    assert sha256(models_dir / "original_model.h5") == uninterrupted
