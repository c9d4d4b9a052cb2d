"""A model file that this pipeline did not write is never replaced; one that it wrote is."""

import argparse
import contextlib
import os
import shlex
import subprocess

import pytest

from pipeline.base import artifacts, ownership
from pipeline.base.console import UserError
from pipeline.base.stage import Stage


@pytest.fixture
def training(tmp_path):
    """A stage that writes the original model into a folder where nothing is yet."""
    script, models_dir = tmp_path / "training.py", tmp_path / "my $models'"
    script.write_text("RATE = 1\n")
    models_dir.mkdir()
    usual = {"models_dir": models_dir, "if_needed": True, "accept_edits": False, "resume": False}

    def make(content="ours", before_the_end=lambda: None, **settings):
        stage = Stage.begin(script, argparse.Namespace(**usual | settings))
        if not stage.nothing_to_do("original"):
            with stage.working(), stage.new_artifact("original", {}) as (path,):
                path.write_text(content)
                before_the_end()

    make.models_dir, make.model = models_dir, models_dir / "original_model.h5"
    make.record = ownership.record_beside(make.model)
    return make


@contextlib.contextmanager
def killed_before_the_record(monkeypatch):
    """A run that ends between its files and their record."""

    def killed(*_):
        raise SystemExit

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(artifacts, "write_record", killed)
        yield


def hidden(folder):
    return [path.name for path in folder.glob(".*")]


@pytest.mark.parametrize("kind", ["no record", "changed", "folder", "no record of it", "a link"])
def test_model_of_the_user_is_not_replaced(training, kind):
    """The message has the command that keeps it, and then the stage runs."""
    if kind in ("changed", "no record of it"):
        training()
    model = training.model
    if kind == "folder":
        model.mkdir()
        (model / "saved_model.pb").write_text("theirs")
    elif kind == "a link":
        (model.parent / "best.h5").write_text("theirs")
        model.symlink_to("best.h5")
    else:
        model.write_text("theirs")
    if kind == "no record of it":
        training.record.write_text('{"stage": "training"}')
    (model.parent / "original_model.before.h5").write_text("an earlier one")
    with pytest.raises(UserError, match=r"original_model\.h5 was not written by this") as refused:
        training("ours, the second", epochs=3)
    kept = model.parent / "original_model.before2.h5"
    steps = str(refused.value).split("go on with: ")[1].split(" && ")
    assert shlex.split(steps[0]) == ["mv", str(model), str(kept)]
    assert steps[1] == f"{artifacts.command('original', model.parent)} --epochs 3"
    assert hidden(model.parent) == []
    subprocess.run(steps[0], shell=True, check=True)
    training("ours, the second")
    text = (kept / "saved_model.pb" if kind == "folder" else kept).read_text()
    assert (text, model.read_text()) == ("theirs", "ours, the second")
    assert (model.parent / "original_model.before.h5").read_text() == "an earlier one"


def test_record_that_is_damaged_still_tells_which_model_is_ours(training):
    training()
    content = bytearray(training.record.read_bytes())
    content[content.index(b"settings")] ^= 1
    training.record.write_bytes(content)
    training("the second")
    assert training.model.read_text() == "the second"


@pytest.mark.parametrize("first", [True, False])
def test_model_of_a_run_that_was_killed_before_its_record_is_ours(training, monkeypatch, first):
    if not first:
        training()
    with killed_before_the_record(monkeypatch):
        training("of a run that was killed", epochs=2)
    assert training.model.read_text() == "of a run that was killed"
    assert ownership.NOTE in hidden(training.model.parent)
    training("whole", epochs=2)
    assert training.model.read_text() == "whole" and hidden(training.model.parent) == []


def test_model_of_a_killed_run_is_ours_after_a_second_kill(training, monkeypatch):
    """The second run is killed after it noted its file and before that is in place."""
    with killed_before_the_record(monkeypatch):
        training("the first")
    noted = ownership.note

    def noted_and_killed(*arguments):
        noted(*arguments)
        raise SystemExit

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(ownership, "note", noted_and_killed)
        training("the second")
    assert training.model.read_text() == "the first"
    training("the third")
    assert training.model.read_text() == "the third" and hidden(training.model.parent) == []


def test_note_does_not_make_another_file_ours(training, monkeypatch):
    with killed_before_the_record(monkeypatch):
        training()
    training.model.write_text("theirs")
    with pytest.raises(UserError, match="was not written by this pipeline"):
        training()
    assert training.model.read_text() == "theirs"


def test_note_that_was_left_beside_a_record_is_removed(training, monkeypatch):
    """The run was killed right before it removed the note."""
    with monkeypatch.context() as patch:
        patch.setattr(ownership, "settle", lambda _: None)
        training()
    assert hidden(training.model.parent) == [ownership.NOTE]
    training()
    assert hidden(training.model.parent) == []


def test_model_of_the_user_that_appears_while_the_stage_works_stays(training):
    """The result lies beside it, with its record; the commands put both in place."""
    with pytest.raises(UserError, match="was put there by somebody else meanwhile") as refused:
        training("ours", lambda: training.model.write_text("theirs"))
    assert training.model.read_text() == "theirs"
    assert (training.model.parent / "original_model.after.h5").read_text() == "ours"
    steps = str(refused.value).split("to use it: ")[1]
    subprocess.run(steps, shell=True, check=True)
    assert training.model.read_text() == "ours"
    assert artifacts.stale_reason(training.models_dir, "original") is None
    assert (training.model.parent / "original_model.before.h5").read_text() == "theirs"
    assert hidden(training.model.parent) == []


@pytest.mark.parametrize("kind", ["no record", "changed"])
def test_later_stage_advises_nothing_that_destroys_a_model(training, kind):
    if kind == "changed":
        training()
    training.model.write_text("theirs")
    stage = Stage.begin(__file__, argparse.Namespace(models_dir=training.models_dir))
    with pytest.raises(UserError) as refused:
        stage.require("original")
    kept = training.model.with_name("original_model.before.h5")
    advice = str(refused.value).rpartition(": mv ")[2]
    assert shlex.split(advice)[:2] == [str(training.model), str(kept)]
    assert shlex.split(advice)[2:3] == ["&&"] and "training.py" in advice


def test_every_model_in_the_way_is_named_at_once(tmp_path):
    for name in ("int8_quantized_model.tflite", "float32_model.tflite"):
        (tmp_path / name).write_text("theirs")
    with pytest.raises(UserError, match=r"mv .*float32.* && mv .*int8.* && again$"):
        artifacts.refuse_foreign(artifacts.MODELS, tmp_path, "again")
    assert sorted(os.listdir(tmp_path)) == ["float32_model.tflite", "int8_quantized_model.tflite"]


def test_json_file_of_the_user_is_not_replaced_by_the_record_of_a_data_set(tmp_path):
    """The folder of somebody's pictures, given as --models-dir."""
    path = artifacts.artifact_path(tmp_path, "dataset")
    path.parent.mkdir()
    path.write_text('{"images": [], "annotations": []}')
    with pytest.raises(UserError, match=r"mv .*dataset\.before\.json && again$"):
        artifacts.refuse_foreign(["dataset"], tmp_path, "again")
    for ours in ('{"source": "pets", "fingerprint": "ab', "", "\0\0"):
        path.write_text(ours)
        artifacts.refuse_foreign(["dataset"], tmp_path, "again")


# --- folders to hand over -------------------------------------------------------------------

OLD, NEW = ({"model": text, "sub/list.txt": b"same"} for text in (b"old", b"new"))


def content_of(folder):
    """Content by path of the files in a folder, without the list."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    kept = {name: path for name, path in files.items() if path.is_file()}
    return {name: path.read_bytes() for name, path in kept.items() if name != ownership.LIST}


@pytest.mark.parametrize("kind", ["new", "of ours", "with a file beside", "a link"])
def test_folder_of_ours_is_written_again(tmp_path, kind):
    folder, more = tmp_path / "out", {}
    if kind == "a link":
        (tmp_path / "other").mkdir()
        folder.symlink_to("other")
    if kind in ("of ours", "with a file beside"):
        ownership.write_folder(folder, OLD)
    if kind == "with a file beside":
        more = {"notes.txt": b"theirs"}
        (folder / "notes.txt").write_bytes(b"theirs")
    ownership.write_folder(folder, NEW)
    assert content_of(folder) == NEW | more
    command = ["sha256sum", "--check", "--strict", "--quiet", ownership.LIST]
    subprocess.run(command, cwd=folder, check=True)


@pytest.mark.parametrize("killed_before", [0, 1, 2, 3])
def test_folder_of_a_run_that_was_killed_is_ours(tmp_path, monkeypatch, killed_before):
    """The list, a first file, a second one, the list again: the kill is before one of them."""
    folder, writes, replace = tmp_path / "out", [], os.replace
    ownership.write_folder(folder, OLD)

    def counted(*paths):
        if len(writes) == killed_before:
            raise SystemExit
        writes.append(paths)
        replace(*paths)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(os, "replace", counted)
        ownership.write_folder(folder, NEW)
    ownership.write_folder(folder, NEW)
    assert content_of(folder) == NEW


@pytest.mark.parametrize("kind", ["theirs", "changed", "a file", "file in the way"])
def test_folder_of_the_user_stays(tmp_path, kind):
    folder = tmp_path / "out $x"
    if kind in ("changed", "file in the way"):
        ownership.write_folder(folder, OLD if kind == "changed" else {"model": b"old"})
    if kind == "a file":
        folder.write_bytes(b"theirs")
    else:
        path = folder / ("sub/list.txt" if kind == "file in the way" else "model")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"theirs")
    before = content_of(folder) or folder.read_bytes()
    with pytest.raises(UserError, match="first: mv ") as refused:
        ownership.write_folder(folder, NEW)
    assert (content_of(folder) or folder.read_bytes()) == before
    subprocess.run(str(refused.value).split("first: ")[1], shell=True, check=True)
    ownership.write_folder(folder, NEW)
    assert NEW.items() <= content_of(folder).items()
    kept = [path.read_bytes() for path in tmp_path.rglob("*.before*") if path.is_file()]
    kept += [path.read_bytes() for path in tmp_path.glob("*.before*/model")]
    assert kept == [b"theirs"]
