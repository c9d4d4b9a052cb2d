"""Files that are whole, old or new; records; what is stale, and the command that mends it."""

import argparse
import errno
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pipeline.base import artifacts, commands, system
from pipeline.base.console import UserError
from pipeline.base.files import atomic, sha256, write_csv, write_json
from pipeline.base.stage import Stage
from tests.helpers.runs import ROOT

NAMES = ("dataset", "original", "pruned")
WHOLE = {key: {} for key in artifacts.RECORD_KEYS} | {"sha256": "a", "wall_seconds": 1}
OTHERS = [json.dumps(WHOLE | {key: 3 if key != "wall_seconds" else {}}) for key in WHOLE]


@pytest.fixture
def chain(tmp_path):
    """Makes artifacts of the chain dataset, original, pruned without any training."""
    script = tmp_path / "some_stage.py"
    script.write_text("print('one')")
    models_dir = tmp_path / "models"
    common = {"models_dir": models_dir, "if_needed": False, "accept_edits": False}

    def begin(*inputs, **settings):
        return Stage.begin(script, argparse.Namespace(**common | settings)).require(*inputs)

    def make(name, content, **settings):
        made = begin(*NAMES[: NAMES.index(name)], **settings)
        if name == "dataset":
            path = artifacts.artifact_path(models_dir, name)
            artifacts.write_record(path, made.record(content, {}))
            return
        with made.new_artifact(name, {"accuracy": 0.5}) as (path,):
            path.write_text(content)

    for name in NAMES:
        make(name, f"first {name}")
    return argparse.Namespace(models_dir=models_dir, script=script, stage=begin, make=make)


# --- records ------------------------------------------------------------------------------


def test_record_holds_what_reproduces_the_artifact(chain):
    chain.make("original", "weights", epochs=3, seed=11)
    record = json.loads((chain.models_dir / "original_model.h5.json").read_text())
    assert record["settings"] == {"epochs": 3, "seed": 11}
    assert record["sha256"] == sha256(chain.models_dir / "original_model.h5")
    assert record["inputs"] == {"dataset": "first dataset"}
    assert list(record["code"]) == ["some_stage.py"]
    assert record["metrics"] == {"accuracy": 0.5}
    assert record["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert record["wall_seconds"] >= 0 and record["threads"] == len(os.sched_getaffinity(0))


def test_record_that_was_read_cannot_be_changed_and_says_what_is_wrong(chain):
    record = artifacts.read_record(chain.models_dir, "original")
    with pytest.raises(TypeError):
        record["sha256"] = "another"
    path = chain.models_dir / "original_model.h5"
    assert record.files == {path: record["sha256"]} and record.fault() is None
    path.write_text("another model")
    assert record.fault() == "original_model.h5 was changed after it was made"
    path.unlink()
    assert record.fault() == "original_model.h5 is missing"
    record.rewrite(metrics={})
    assert record["metrics"] == {"accuracy": 0.5}
    assert json.loads((chain.models_dir / "original_model.h5.json").read_text())["metrics"] == {}


def test_fresh_chain_is_not_stale(chain):
    assert [artifacts.stale_reason(chain.models_dir, name) for name in NAMES] == [None] * 3


def test_pruned_made_from_another_original_is_stale_with_reason_and_command(chain):
    chain.make("original", "second original")
    reason = artifacts.stale_reason(chain.models_dir, "pruned")
    assert "pruned_model.h5 was made from another original_model.h5" in reason
    command = f"{commands.python()} pruning.py --models-dir {chain.models_dir}"
    assert reason.endswith(f"make it anew with: {command}")
    with pytest.raises(UserError, match=r"was made from another original_model\.h5"):
        chain.stage("dataset", "pruned")


def test_another_data_set_makes_the_whole_chain_stale(chain):
    chain.make("dataset", "second dataset")
    for name in ("original", "pruned"):
        reason = artifacts.stale_reason(chain.models_dir, name)
        assert "was made from another dataset.json" in reason


def with_companion(made, weights="weights", counts="counts"):
    """Writes an artifact and a file that is made with it."""
    with made.new_artifact("original", {}, companions=("counts.npz",)) as (path, companion):
        path.write_text(weights)
        companion.write_text(counts)


def test_companion_that_is_missing_or_changed_reruns_the_stage(chain):
    """It cannot be drawn from the record: it was made with the artifact."""
    made = chain.stage("dataset")
    with_companion(made)
    counts = chain.models_dir / "counts.npz"
    assert counts.read_text() == "counts" and made.reasons("original") == []
    counts.write_text("of another run")
    (reason,) = made.reasons("original")
    assert (reason.kind, reason.text) == ("changed", "counts.npz was changed after it was made")
    counts.unlink()
    (reason,) = made.reasons("original")
    assert (reason.kind, reason.text) == ("changed", "counts.npz is missing")


def test_charts_and_tables_of_older_records_rerun_nothing(chain):
    """Older versions wrote curves with the model and had their hashes beside its own."""
    made = chain.stage("dataset")
    record = dict(artifacts.read_record(chain.models_dir, "original"))
    record["beside"] = {"original_training.csv": "ab" * 32, "original_training.png": "cd" * 32}
    artifacts.write_record(artifacts.record_path(chain.models_dir, "original"), record)
    assert made.reasons("original") == []


def test_failing_writer_leaves_the_old_artifact_and_its_companion(chain):
    made = chain.stage("dataset")
    with_companion(made)
    before = {path: path.read_bytes() for path in chain.models_dir.glob("*.*")}
    with (
        pytest.raises(OSError, match="full"),
        made.new_artifact("original", {}, companions=("counts.npz",)) as (path, _),
    ):
        path.write_text("other weights")
        raise OSError(errno.ENOSPC, "full")
    assert {path: path.read_bytes() for path in chain.models_dir.glob("*.*")} == before


def test_what_belonged_to_an_artifact_goes_with_it(chain):
    """Else the curves of a fine-tuning lie beside a model that had none; a user's files stay."""
    made, folder = chain.stage("dataset"), chain.models_dir
    with_companion(made, counts="first")
    for name in ("curves.csv", "notes.txt", "other.csv"):
        (folder / name).write_text("first")
    outside = folder.parent / "outside.csv"
    outside.write_text("first")
    digest = sha256(outside)
    record = dict(artifacts.read_record(folder, "original"))
    files = dict.fromkeys(("curves.csv", "notes.txt", "../outside.csv"), digest)
    record["drawn"] = {"files": files, "code": {}}
    artifacts.write_record(artifacts.record_path(folder, "original"), record)
    (folder / "notes.txt").write_text("mine now")
    with pytest.raises(OSError, match="full"), made.new_artifact("original", {}) as (path,):
        raise OSError(errno.ENOSPC, "full")
    assert (folder / "curves.csv").exists() and (folder / "counts.npz").exists()
    with made.new_artifact("original", {}) as (path,):
        path.write_text("second")
    left = {path.name: path.read_text() for path in folder.glob("[!d]*.???")}
    assert left == {"notes.txt": "mine now", "other.csv": "first"}
    assert outside.exists()


def test_artifact_edited_after_it_was_made_is_stale(chain):
    (chain.models_dir / "original_model.h5").write_text("edited")
    reason = artifacts.stale_reason(chain.models_dir, "original")
    assert "was changed after it was made" in reason
    # What was made from it is as suspect: the chain leads through the edited file.
    reason = artifacts.stale_reason(chain.models_dir, "pruned")
    assert "original_model.h5 was changed" in reason


@pytest.mark.parametrize(
    ("name", "file", "script"),
    [
        ("original", "original_model.h5", "training.py"),
        ("dataset", "dataset/dataset.json", "data_preparation.py"),
    ],
)
def test_missing_input_names_the_command_that_makes_it(chain, name, file, script):
    (chain.models_dir / file).unlink()
    with pytest.raises(UserError) as caught:
        chain.stage(name)
    path, models_dir = chain.models_dir / file, chain.models_dir
    command = f"{commands.python()} {script} --models-dir {models_dir}"
    assert str(caught.value) == f"{path} is missing; make it with: {command}"


def test_command_is_plain_for_the_default_folder_and_quoted_for_odd_ones(tmp_path):
    plain = f"{commands.python()} pruning.py"
    assert artifacts.command("pruned", artifacts.MODELS_DIR) == plain
    odd = tmp_path / "my models"
    assert artifacts.command("pruned", odd) == f"{plain} --models-dir '{odd}'"


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '"text"', "\xff\xfe", '{"sha256": "a"}', *OTHERS]
)
def test_record_that_is_none_of_ours_is_reported_with_the_command(chain, content):
    record = chain.models_dir / "original_model.h5.json"
    record.write_bytes(content.encode("latin-1"))
    fault = r"original_model\.h5\.json is (damaged|of another version of this pipeline)"
    with pytest.raises(UserError, match=fault + "; make it anew with: .*python training"):
        artifacts.read_record(chain.models_dir, "original")


@pytest.mark.parametrize("place", range(0, 100, 7))
def test_record_with_one_bit_turned_over_is_not_believed(chain, place):
    """Wherever it is: a digit of a setting looks as good as any other."""
    record = chain.models_dir / "original_model.h5.json"
    content = bytearray(record.read_bytes())
    content[len(content) * place // 100] ^= 1
    record.write_bytes(content)
    with pytest.raises(UserError, match=r"is (damaged|of another version).* make it anew with"):
        artifacts.read_record(chain.models_dir, "original")


def test_record_without_a_seal_is_an_older_one(chain):
    record = chain.models_dir / "original_model.h5.json"
    content = json.loads(record.read_text())
    assert content.pop("seal")
    write_json(record, content)
    assert artifacts.read_record(chain.models_dir, "original") == content


# --- atomic files -------------------------------------------------------------------------


def test_atomic_replaces_the_file_and_keeps_its_suffix(tmp_path):
    path = tmp_path / "new" / "model.h5"
    with atomic(path) as temporary:
        assert temporary.suffix == ".h5" and temporary.parent == path.parent
        assert not path.exists()
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["model.h5"]


def test_table_has_the_columns_of_all_rows_and_gaps_where_one_lacks_them(tmp_path):
    """As the history of a training that an older version began."""
    write_csv(tmp_path / "table.csv", [{"epoch": 1}, {"epoch": 2, "part": 1}])
    assert (tmp_path / "table.csv").read_text().splitlines() == ["epoch,part", "1,", "2,1"]


NOISE = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("array.npy", lambda path: np.save(path, NOISE)),
        ("state.npz", lambda path: np.savez(path, noise=NOISE)),
        ("picture.png", lambda path: Image.fromarray(NOISE).save(path)),
        ("table.csv", lambda path: path.write_bytes(NOISE.tobytes())),
    ],
)
def test_disk_that_fills_is_a_fault_with_a_name_whoever_writes(full_disk, tmp_path, name, write):
    """Some libraries raise an OSError that does not say what the system said."""
    with pytest.raises((OSError, UserError)) as caught, atomic(tmp_path / name) as path:
        write(path)
    assert getattr(caught.value, "strerror", None) or f"{name} cannot be" in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt])
def test_failing_writer_leaves_the_old_file_and_no_temporary_one(tmp_path, fault):
    path = tmp_path / "model.h5"
    path.write_text("old")
    with pytest.raises(fault), atomic(path) as temporary:
        temporary.write_text("half of the n")
        raise fault
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["model.h5"]


def test_failing_stage_leaves_the_old_artifact_and_its_record(chain):
    before = (chain.models_dir / "original_model.h5.json").read_text()
    with (
        pytest.raises(ZeroDivisionError),
        chain.stage("dataset").new_artifact("original", {}) as (path,),
    ):
        path.write_text("half")
        1 / 0  # noqa: B018
    assert (chain.models_dir / "original_model.h5").read_text() == "first original"
    assert (chain.models_dir / "original_model.h5.json").read_text() == before
    assert artifacts.stale_reason(chain.models_dir, "pruned") is None


def test_killed_writer_leaves_the_old_file_whole_and_the_next_one_cleans_up(tmp_path):
    path = tmp_path / "model.h5"
    path.write_text("old")
    program = """
import os, pathlib, signal, sys
from pipeline.base.files import atomic
with atomic(pathlib.Path(sys.argv[1])) as temporary:
    with temporary.open("w") as file:
        file.write("half of the n")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program, path], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old" and len(os.listdir(tmp_path)) == 2
    with atomic(path) as temporary:
        temporary.write_text("new")
    assert os.listdir(tmp_path) == ["model.h5"]


def test_stage_that_begins_removes_what_killed_ones_left(tmp_path):
    """Of any file, if its process is dead; nothing else that is hidden."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    ends = f".unfinished-{dead.pid}"
    for name in (f".original_training{ends}.csv", f"dataset/.train_images{ends}.npy", f".a{ends}"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("half of the n")
    kept = (
        *(".original_training_state.npz", f".model.unfinished-{os.getppid()}.h5", ".my.notes.txt"),
        *(f".backup.{dead.pid}.tar", f".notes.{dead.pid}.txt", ".my.unfinished-novel.txt"),
    )
    for name in kept:
        (tmp_path / name).write_text("")
    with system.lock(tmp_path, "training.py"):
        left = {path.name for path in tmp_path.rglob(".*")}
    assert left == {*kept, ".lock"}


def test_temporary_file_of_a_living_writer_is_left_alone(tmp_path):
    """Two runs in one folder: the second must not delete what the first is writing."""
    writer = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        theirs = tmp_path / f".model.unfinished-{writer.pid}.h5"
        theirs.write_text("half of the n")
        with atomic(tmp_path / "model.h5") as temporary:
            temporary.write_text("new")
        assert theirs.exists()
    finally:
        writer.kill()
        writer.communicate()


def test_kill_between_artifact_and_record_is_found(chain, monkeypatch):
    def killed(*_):
        raise SystemExit

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr("pipeline.base.artifacts.write_record", killed)
        chain.make("original", "second original")
    reason = artifacts.stale_reason(chain.models_dir, "original")
    assert "was changed after it was made" in reason
