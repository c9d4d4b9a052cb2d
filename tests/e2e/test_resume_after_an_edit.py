"""A training that was killed, an edit of the code, and --resume."""

import shutil
import signal
import time

import pytest

from pipeline.base import artifacts
from tests.helpers.runs import OWN_TRAINING, edit, run_script, start_script

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stopped_project(own_project, tmp_path_factory):
    """A copy of that project whose training was killed after its first epoch."""
    project = shutil.copytree(own_project, tmp_path_factory.mktemp("stopped") / "project")
    models_dir = project / "models"
    (models_dir / "original_model.h5").unlink()
    state = models_dir / ".original_training_state.npz"
    process = start_script(project / "training.py", "--models-dir", models_dir, *OWN_TRAINING)
    deadline = time.time() + 200
    while not state.exists() and process.poll() is None and time.time() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert state.exists()
    return project


@pytest.fixture
def stopped(stopped_project, tmp_path):
    return shutil.copytree(stopped_project, tmp_path / "project")


def resuming(project, *arguments):
    """The script, and what follows it, that goes on with the training of a project."""
    where = (project / "training.py", "--models-dir", project / "models")
    return (*where, *OWN_TRAINING, "--resume", *arguments)


def test_resume_goes_on_under_the_same_code(stopped, own_project):
    edit(stopped / "pipeline" / "training" / "losses.py", "a scalar.", "one number.")
    said = run_script(*resuming(stopped)).stdout
    assert "going on after epoch 1\n" in said
    same = [artifacts.sha256(d / "models" / "original_model.h5") for d in (stopped, own_project)]
    assert same[0] == same[1]


def test_resume_after_an_edit_begins_anew_and_says_why(stopped):
    losses = stopped / "pipeline" / "training" / "losses.py"
    edit(losses, "JACCARD_WEIGHT = 1.0", "JACCARD_WEIGHT = 0.0")
    process, said = start_script(*resuming(stopped)), []
    for line in process.stdout:
        said.append(line)
        if line.startswith("epoch "):
            break
    process.kill()
    process.communicate()
    assert "another one (pipeline/training/losses.py was edited); beginning anew" in "".join(said)
    assert said[-1].startswith("epoch   1/2")


def test_resume_after_an_edit_that_is_accepted_goes_on_and_records_it(stopped):
    losses = stopped / "pipeline" / "training" / "losses.py"
    edit(losses, "JACCARD_WEIGHT = 1.0", "JACCARD_WEIGHT = 2 / 2")
    said = run_script(*resuming(stopped, "--accept-edits")).stdout
    assert "going on after epoch 1\n" in said
    record = artifacts.read_record(stopped / "models", "original")
    assert record["accepted"] == ["pipeline/training/losses.py was edited"]
