"""Records, stale artifacts, atomic files, exit codes and the command line that all scripts share."""

import argparse
import json
import os
import signal
import subprocess
import sys

import pytest
from conftest import PRUNING, ROOT, run_script, start_script

import pipeline
from pipeline import UserError

SCRIPTS = ("data_preparation.py", "training.py", "pruning.py", "quantization.py", "evaluation.py")
NAMES = ("dataset", "original", "pruned")


@pytest.fixture
def stages(tmp_path):
    """Makes artifacts of the chain dataset, original, pruned without any training."""
    script = tmp_path / "some_stage.py"
    script.write_text("print('one')")
    models_dir = tmp_path / "models"

    def stage(*inputs, script=script, without=(), **settings):
        made = pipeline.Stage(str(script), argparse.Namespace(models_dir=models_dir, if_needed=False, **settings), *without)
        made.require(*inputs)
        return made

    def make(name, content, **settings):
        inputs = NAMES[: NAMES.index(name)]
        made = stage(*inputs, **settings)
        if name == "dataset":
            pipeline.write_json(pipeline.artifact_path(models_dir, name), made.record(content, {}))
            return
        with made.new_artifact(name, {"accuracy": 0.5}) as path:
            path.write_text(content)

    for name in NAMES:
        make(name, f"first {name}")
    return argparse.Namespace(models_dir=models_dir, script=script, stage=stage, make=make)


# --- records ------------------------------------------------------------------------------


def test_record_holds_what_reproduces_the_artifact(stages):
    stages.make("original", "weights", epochs=3, seed=11)
    record = json.loads((stages.models_dir / "original_model.h5.json").read_text())
    assert record["settings"] == {"epochs": 3, "seed": 11}
    assert record["sha256"] == pipeline.sha256(stages.models_dir / "original_model.h5")
    assert record["inputs"] == {"dataset": "first dataset"}
    assert record["script_sha256"] == pipeline.sha256(stages.script)
    assert record["metrics"] == {"accuracy": 0.5}
    assert record["versions"]["tensorflow"].startswith("2.")
    assert record["wall_seconds"] >= 0


def test_fresh_chain_is_not_stale(stages):
    assert [pipeline.stale_reason(stages.models_dir, name) for name in NAMES] == [None, None, None]


def test_pruned_made_from_another_original_is_stale_with_reason_and_command(stages):
    stages.make("original", "second original")
    reason = pipeline.stale_reason(stages.models_dir, "pruned")
    assert "pruned_model.h5 was made from another original_model.h5" in reason
    assert reason.endswith(f"make it anew with: python pruning.py --models-dir {stages.models_dir}")
    with pytest.raises(UserError, match=r"was made from another original_model\.h5"):
        stages.stage("dataset", "pruned")


def test_another_data_set_makes_the_whole_chain_stale(stages):
    stages.make("dataset", "second dataset")
    for name in ("original", "pruned"):
        assert "was made from another dataset.json" in pipeline.stale_reason(stages.models_dir, name)


def test_artifact_edited_after_it_was_made_is_stale(stages):
    (stages.models_dir / "original_model.h5").write_text("edited")
    assert "was changed after it was made" in pipeline.stale_reason(stages.models_dir, "original")
    # What was made from it is as suspect: the chain leads through the edited file.
    assert "original_model.h5 was changed" in pipeline.stale_reason(stages.models_dir, "pruned")


@pytest.mark.parametrize(("name", "file", "script"), [
    ("original", "original_model.h5", "training.py"),
    ("original", "original_model.h5.json", "training.py"),
    ("dataset", "dataset/dataset.json", "data_preparation.py"),
])  # fmt: skip
def test_missing_input_names_the_command_that_makes_it(stages, name, file, script):
    (stages.models_dir / file).unlink()
    with pytest.raises(UserError) as caught:
        stages.stage(name)
    assert str(caught.value) == (f"{stages.models_dir / file} is missing; make it with: "
                                 f"python {script} --models-dir {stages.models_dir}")  # fmt: skip


def test_command_is_plain_for_the_default_folder():
    assert pipeline.command("pruned", pipeline.MODELS_DIR) == "python pruning.py"


@pytest.mark.parametrize("content", ["", "{", '{"sha256": "a"}', "[]", '"text"', "\xff\xfe"])
def test_damaged_record_is_reported_as_such(stages, content):
    record = stages.models_dir / "original_model.h5.json"
    record.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"original_model\.h5\.json is damaged; make it anew with: python training\.py"):
        pipeline.read_record(stages.models_dir, "original")


# --- up to date ---------------------------------------------------------------------------


def test_up_to_date_after_the_same_run(stages, capsys):
    old = stages.models_dir / "original_model.h5"
    os.utime(old, (1, 1))
    assert stages.stage("dataset").up_to_date("original")
    assert "some_stage.py: up to date, nothing to do" in capsys.readouterr().out
    assert old.stat().st_mtime > 1, "make would run the stage again for ever"


def test_other_setting_is_not_up_to_date(stages):
    stages.make("original", "weights", epochs=3)
    assert stages.stage("dataset", epochs=3).up_to_date("original")
    assert not stages.stage("dataset", epochs=4).up_to_date("original")


def test_settings_that_change_nothing_do_not_count(stages):
    stages.make("original", "weights", epochs=3, resume=False, where="here", without=("where",))
    assert stages.stage("dataset", epochs=3, resume=True, where="there", without=("where",)).up_to_date("original")


def test_other_script_is_not_up_to_date(stages):
    stages.script.write_text("print('two')")
    assert not stages.stage("dataset").up_to_date("original")


def test_other_input_is_not_up_to_date(stages):
    stages.make("original", "second original")
    pipeline_stage = stages.stage("dataset", "original")
    assert not pipeline_stage.up_to_date("pruned")


def test_missing_artifact_is_not_up_to_date(stages):
    (stages.models_dir / "pruned_model.h5").unlink()
    assert not stages.stage("dataset", "original").up_to_date("pruned")


def test_one_of_several_artifacts_missing_is_not_up_to_date(stages):
    assert not stages.stage("dataset").up_to_date("original", "int8")


# --- atomic files -------------------------------------------------------------------------


def test_atomic_replaces_the_file_and_keeps_its_suffix(tmp_path):
    path = tmp_path / "new" / "model.h5"
    with pipeline.atomic(path) as temporary:
        assert temporary.suffix == ".h5" and temporary.parent == path.parent and not path.exists()
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["model.h5"]


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt])
def test_failing_writer_leaves_the_old_file_and_no_temporary_one(tmp_path, fault):
    path = tmp_path / "model.h5"
    path.write_text("old")
    with pytest.raises(fault), pipeline.atomic(path) as temporary:
        temporary.write_text("half of the n")
        raise fault
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["model.h5"]


def test_failing_stage_leaves_the_old_artifact_and_its_record(stages):
    before = (stages.models_dir / "original_model.h5.json").read_text()
    with pytest.raises(ZeroDivisionError), stages.stage("dataset").new_artifact("original", {}) as path:
        path.write_text("half")
        1 / 0  # noqa: B018
    assert (stages.models_dir / "original_model.h5").read_text() == "first original"
    assert (stages.models_dir / "original_model.h5.json").read_text() == before
    assert pipeline.stale_reason(stages.models_dir, "pruned") is None


def test_killed_writer_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "model.h5"
    path.write_text("old")
    program = """
import os, pathlib, signal, sys
import pipeline
with pipeline.atomic(pathlib.Path(sys.argv[1])) as temporary:
    with temporary.open("w") as file:
        file.write("half of the n")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program, path], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_kill_between_artifact_and_record_is_found(stages, monkeypatch):
    def killed(*_):
        raise SystemExit

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(pipeline, "write_json", killed)
        stages.make("original", "second original")
    assert "was changed after it was made" in pipeline.stale_reason(stages.models_dir, "original")


# --- the scripts as their user meets them -------------------------------------------------


@pytest.fixture(scope="module")
def helps():
    started = {script: start_script(script, "--help", COLUMNS="200") for script in SCRIPTS}
    return {script: (process.communicate(timeout=120), process.returncode) for script, process in started.items()}


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_explains_the_stage_and_lists_the_shared_flags(helps, script):
    (out, err), code = helps[script]
    assert (code, err) == (0, "")
    for flag in ("--models-dir DIR", "--seed", "--if-needed"):
        assert flag in out
    assert f"python {script}" in out and "Writes" in out


@pytest.mark.parametrize(("script", "arguments", "says"), [
    ("data_preparation.py", ("--dataset", "folder"), "needs --data-dir DIR"),
    ("data_preparation.py", ("--dataset", "folder", "--data-dir", "/nowhere"), "holds 0 .jpg or .png files"),
    ("training.py", (), "dataset.json is missing; make it with: python data_preparation.py --models-dir"),
])  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, script, arguments, says):
    done = run_script(script, "--models-dir", tmp_path / "models", *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"{script}: ") and says in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(("arguments", "says"), [
    (("--image-size", "100"), "100 is not a multiple of 32"),
    (("--image-size", "0"), "0 is not between 32 and 1024"),
    (("--image-size", "many"), "invalid int value"),
    (("--dataset", "imagenet"), "invalid choice"),
])  # fmt: skip
def test_bad_flag_is_refused_before_anything_is_written(tmp_path, arguments, says):
    done = run_script("data_preparation.py", "--models-dir", tmp_path / "models", *arguments)
    assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "models").exists()


def test_model_file_that_is_no_model_is_one_line(data_copy):
    pipeline_stage = pipeline.Stage(str(ROOT / "training.py"), argparse.Namespace(models_dir=data_copy))
    pipeline_stage.require("dataset")
    with pipeline_stage.new_artifact("original", {}) as path:
        path.write_text("no HDF5 at all")
    done = run_script("pruning.py", "--models-dir", data_copy)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert "original_model.h5 cannot be read" in done.stderr and "python training.py" in done.stderr


def test_interrupt_ends_with_code_130_and_no_traceback():
    program = """
import pipeline, sys
def main():
    raise KeyboardInterrupt
sys.argv = ["training.py"]
pipeline.run(main)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr and "earlier artifacts are untouched" in done.stderr


def test_five_stages_leave_every_artifact_up_to_date(evaluated_run):
    for name, (file, _) in pipeline.ARTIFACTS.items():
        assert (evaluated_run / file).stat().st_size > 0
        assert pipeline.stale_reason(evaluated_run, name) is None
    left_over = [path.name for path in evaluated_run.rglob(".*")]
    assert left_over == []


def test_second_run_with_if_needed_does_nothing(run_copy):
    before = pipeline.sha256(run_copy / "pruned_model.h5.json")
    done = run_script("pruning.py", "--models-dir", run_copy, *PRUNING, "--if-needed")
    assert done.stdout == "pruning.py: up to date, nothing to do\n", done.stderr
    assert pipeline.sha256(run_copy / "pruned_model.h5.json") == before
