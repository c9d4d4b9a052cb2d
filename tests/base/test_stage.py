"""When a stage runs again, and why: every reason, and the flag that says an edit did not matter."""

import argparse
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import data_preparation
from pipeline.base import artifacts, fingerprints, lazy, stage, system
from pipeline.base.console import UserError
from tests.helpers.runs import (
    OWN_TRAINING,
    ROOT,
    TRAINING,
    copy_code,
    edit,
    make_data_set,
    run_script,
    start_script,
)

RECORD = "original_model.h5.json"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the code that may be edited, and a finished training beside it."""
    return copy_code(tmp_path_factory.mktemp("project"))


@pytest.fixture
def run(project, finished_run, tmp_path):
    """Runs a script of the copy on a copy of the finished run; edits are taken back at the end."""
    models_dir = shutil.copytree(finished_run, tmp_path / "models")
    kept = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}

    def start(script, *arguments):
        command = [sys.executable, script, "--models-dir", models_dir, *arguments]
        return subprocess.Popen(
            list(map(str, command)),
            cwd=project,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(script, *arguments):
        process = start(script, *arguments)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
        return out

    call.models_dir, call.start = models_dir, start
    yield call
    for path, content in kept.items():
        if path.read_bytes() != content:
            path.write_bytes(content)


def asked(run, project):
    """Whether `training.py --if-needed` would run, and what it says; it is stopped if it does."""
    process = run.start("training.py", *TRAINING, "--if-needed")
    line = process.stdout.readline()
    process.kill()
    process.communicate()
    return line


# --- the reasons ----------------------------------------------------------------------------


def test_nothing_changed(run, project):
    assert asked(run, project) == "training.py: up to date, nothing to do\n"


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("training.py", "EPOCHS = 40", "EPOCHS = 40  # of the whole split"),
        ("pipeline/training/networks.py", "def pointwise(", "# A comment.\n\n\ndef pointwise("),
        ("pipeline/training/losses.py", "a scalar.", "one number."),
        ("pipeline/training/networks.py", "(144, 96, 72)", "(\n    144,\n    96,\n    72,\n)"),
        ("pipeline/base/console.py", "leave=False", "leave=True"),
        ("pipeline/report/charts.py", "training loss", "loss"),
        ("pipeline/report/page.py", "Segmentation: size", "Size"),
        ("pipeline/data/formats/synthetic.py", "BORDER_WIDTH = 0.035", "BORDER_WIDTH = 0.04"),
        ("pipeline/variants.py", "VARIANTS = {", 'VARIANTS = {\n    "x": Variant("x.tflite"),'),
    ],
    ids=[
        "comment",
        "layout",
        "docstring",
        "format",
        "console",
        "chart",
        "report",
        "data",
        "variant",
    ],
)
def test_edit_that_does_not_touch_training_reruns_nothing(run, project, file, old, new):
    edit(project / file, old, new)
    assert asked(run, project) == "training.py: up to date, nothing to do\n"


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("pipeline/training/networks.py", "(144, 96, 72)", "(144, 96, 48)"),
        ("pipeline/training/losses.py", "JACCARD_WEIGHT = 1.0", "JACCARD_WEIGHT = 0.0"),
        ("pipeline/training/input_pipeline.py", "ROTATION = 12.0", "ROTATION = 0.0"),
        ("training.py", "ENCODER_SHARE = 0.3", "ENCODER_SHARE = 0.2"),
    ],
    ids=["network", "loss", "augmentation", "script"],
)
def test_edit_of_what_trains_is_named(run, project, file, old, new):
    edit(project / file, old, new)
    assert asked(run, project) == f"training.py: runs, because {file} was edited\n"


def test_setting_is_named(run, project):
    process = run.start("training.py", *TRAINING, "--if-needed", "--learning-rate", "0.01")
    line = process.stdout.readline()
    process.kill()
    process.communicate()
    assert line == "training.py: runs, because --learning-rate is 0.01, was 0.0015\n"


def test_input_is_named(run, project):
    make_data_set(run.models_dir, seed=8)
    assert asked(run, project) == "training.py: runs, because dataset changed\n"


def test_package_version_is_named(run, project):
    record = json.loads((run.models_dir / RECORD).read_text())
    now, record["versions"]["numpy"] = record["versions"]["numpy"], "1.0"
    artifacts.write_record(run.models_dir / RECORD, record)
    assert asked(run, project) == f"training.py: runs, because numpy is {now}, was 1.0\n"


def test_missing_and_damaged_artifacts_are_named(run, project):
    (run.models_dir / RECORD).write_text("{")
    assert "original_model.h5.json is damaged" in asked(run, project)
    (run.models_dir / "original_model.h5").unlink()
    assert "original_model.h5 is missing" in asked(run, project)


def test_artifact_changed_after_it_was_made_is_made_anew(run, project):
    with (run.models_dir / "original_model.h5").open("ab") as file:
        file.write(b"0")
    assert "original_model.h5 was changed after it was made" in asked(run, project)


# --- a folder of pictures -------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
    """A folder of ten pictures with masks, and what draws one more of a given seed."""
    folder = tmp_path / "photos"
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)

    def draw(name, seed):
        random = np.random.default_rng(seed)
        image = random.integers(0, 256, (40, 40, 3), np.uint8)
        mask = random.integers(1, 4, (40, 40)).astype(np.uint8)
        Image.fromarray(image).save(folder / "images" / f"{name}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{name}.png")

    for number in range(10):
        draw(f"p{number}", number)
    draw.folder = folder
    return draw


@pytest.mark.parametrize("change", ["none", "time", "added", "gone", "redrawn", "mask"])
def test_folder_counts_by_its_content(tmp_path, photos, capsys, change):
    where = ["--models-dir", str(tmp_path / "models"), "--data-dir", str(photos.folder)]

    def prepare():
        flags = ["--dataset", "folder", "--image-size", "32", "--if-needed"]
        data_preparation.main([*where, *flags])
        return capsys.readouterr().out

    assert "wrote" in prepare()
    first = artifacts.read_record(tmp_path / "models", "dataset")["splits"]["train"]["examples"]
    if change == "time":
        for path in photos.folder.rglob("*.png"):
            path.touch()
    elif change == "added":
        for number in range(20, 30):
            photos(f"p{number}", number)
    elif change == "gone":
        photos("p99", 99)
        prepare()
        for kind in ("images", "masks"):
            (photos.folder / kind / "p99.png").unlink()
    elif change == "redrawn":
        photos("p3", 33)
    elif change == "mask":
        mask = photos.folder / "masks" / "p4.png"
        Image.fromarray(np.full((40, 40), 2, np.uint8)).save(mask)
    said = prepare()
    if change in ("none", "time"):
        assert said == "data_preparation.py: up to date, nothing to do\n"
    else:
        assert f"runs, because content of {photos.folder} changed" in said
    if change == "added":
        about = artifacts.read_record(tmp_path / "models", "dataset")
        assert about["splits"]["train"]["examples"] > first


# --- an edit between a kill and --resume ----------------------------------------------------


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
    edit(stopped / "pipeline" / "losses.py", "a scalar.", "one number.")
    said = run_script(*resuming(stopped)).stdout
    assert "going on after epoch 1\n" in said
    same = [artifacts.sha256(d / "models" / "original_model.h5") for d in (stopped, own_project)]
    assert same[0] == same[1]


def test_resume_after_an_edit_begins_anew_and_says_why(stopped):
    losses = stopped / "pipeline" / "losses.py"
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
    losses = stopped / "pipeline" / "losses.py"
    edit(losses, "JACCARD_WEIGHT = 1.0", "JACCARD_WEIGHT = 2 / 2")
    said = run_script(*resuming(stopped, "--accept-edits")).stdout
    assert "going on after epoch 1\n" in said
    record = artifacts.read_record(stopped / "models", "original")
    assert record["accepted"] == ["pipeline/training/losses.py was edited"]


# --- somebody knows that an edit did not matter ---------------------------------------------


def test_accepted_edit_trains_nothing_and_is_in_the_record(run, project):
    edit(project / "pipeline" / "losses.py", "JACCARD_WEIGHT = 1.0", "JACCARD_WEIGHT = 2 / 2")
    before = artifacts.sha256(run.models_dir / "original_model.h5")
    said = run("training.py", *TRAINING, "--accept-edits")
    assert "accepted as changing nothing: pipeline/training/losses.py was edited" in said
    assert artifacts.sha256(run.models_dir / "original_model.h5") == before
    record = artifacts.read_record(run.models_dir, "original")
    assert record["accepted"] == ["pipeline/training/losses.py was edited"]
    assert asked(run, project) == "training.py: up to date, nothing to do\n"
    assert artifacts.stale_reason(run.models_dir, "pruned") is None


def test_what_is_no_edit_cannot_be_accepted(finished_run, tmp_path):
    """A setting or an input decides what is in an artifact: nobody can know otherwise."""
    models_dir = shutil.copytree(finished_run, tmp_path / "models")
    settings = artifacts.read_record(models_dir, "original")["settings"] | {"epochs": 4}
    common = {"models_dir": models_dir, "if_needed": False, "accept_edits": True}
    arguments = argparse.Namespace(**settings, **common, resume=False)
    run = stage.Stage(str(ROOT / "training.py"), arguments)
    run.require("dataset")
    with pytest.raises(UserError, match=r"code and packages only, .*--epochs is 4, was 3"):
        run.nothing_to_do("original")


def test_settings_that_change_nothing_do_not_count(tmp_path):
    script = tmp_path / "stage.py"
    script.write_text("")
    common = {"models_dir": tmp_path, "if_needed": True, "accept_edits": False}
    one, two = (
        stage.Stage(str(script), argparse.Namespace(**common, resume=r, where=w, n=1))
        for r, w in ((True, "here"), (False, "there"))
    )
    assert one.identity() != two.identity()
    assert one.apart_from("where").identity() == two.apart_from("where").identity()
    assert one.identity()["settings"] == {"n": 1, "where": "here"}, "it is what it was"


def test_versions_are_those_that_are_installed():
    import importlib.metadata

    found = lazy.versions({"numpy", "PIL"})
    assert found["numpy"] == importlib.metadata.version("numpy")
    assert found["pillow"] == importlib.metadata.version("pillow") and len(found) == 3
    assert fingerprints.DISTRIBUTIONS is lazy.DISTRIBUTIONS


@pytest.mark.parametrize("foreign", [None, [], "text", {"settings": None, "code": [1]}])
def test_identity_that_is_none_of_ours_is_another_one(foreign):
    now = {"settings": {"epochs": 3}, "inputs": {}, "code": {"a.py": "1"}, "versions": {}}
    texts = [reason.text for reason in stage.differences(foreign, now)]
    assert texts == ["--epochs is new", "a.py is new"]
    assert stage.differences(now, now) == []


# --- one at a time --------------------------------------------------------------------------

HOLD = """
import argparse, pathlib, sys
from pipeline.base.stage import Stage
common = dict(models_dir=pathlib.Path(sys.argv[1]), if_needed=False, accept_edits=False)
with Stage("training.py", argparse.Namespace(**common)).alone():
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
    return stage.Stage(str(ROOT / "pruning.py"), argparse.Namespace(**common))


def test_second_stage_in_a_folder_is_told_who_works_there(holder, tmp_path):
    says = rf"training\.py \(process {holder.pid}\) works in {tmp_path}; wait until it ends"
    with pytest.raises(UserError, match=says), a_stage(tmp_path).alone():
        pass
    with a_stage(tmp_path / "another").alone():
        pass
    holder.communicate("\n")
    with a_stage(tmp_path).alone():
        pass
    assert not (tmp_path / ".lock").exists()


def test_lock_of_a_killed_process_does_not_block(holder, tmp_path):
    holder.kill()
    holder.wait()
    assert (tmp_path / ".lock").exists()
    with a_stage(tmp_path).alone():
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
    with system.alone(tmp_path, "training.py"):
        assert (tmp_path / ".lock").read_text() == f"training.py (process {os.getpid()})"
    assert len(seen) == 2


def test_full_disk_is_said_before_the_work_and_leaves_no_lock(tmp_path, monkeypatch):
    def write(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(system.os, "write", write)
    with (
        pytest.raises(UserError, match=rf"{tmp_path} cannot be written \(No space left"),
        system.alone(tmp_path, "training.py"),
    ):
        pytest.fail("worked")
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be_written_is_said_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), a_stage(tmp_path / "file").alone():
        pass
