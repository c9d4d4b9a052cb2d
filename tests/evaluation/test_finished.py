"""The evaluation that a new one replaces is kept, whoever stops it; another folder's is read."""

import argparse
import json
import os
import shutil

import numpy as np
import pytest

from pipeline.base.artifacts import artifact_path, record_path, write_record
from pipeline.base.console import UserError
from pipeline.base.files import sha256
from pipeline.base.identity import Identity
from pipeline.base.stage import Stage
from pipeline.evaluation import finished
from pipeline.evaluation.finished import COUNTS_FILE, NUMBERS_FILE, PREVIOUS_FILES


def stage_of(folder, model):
    """A run of evaluation.py that measures a model of this SHA-256."""
    arguments = argparse.Namespace(models_dir=folder, seed=7)
    identity = Identity({"seed": 7}, {"int8": model}, {"evaluation.py": "1"}, {})
    return Stage(folder / "evaluation.py", arguments, identity, {}, 0.0)


def evaluate(folder, model, number):
    """Finishes an evaluation whose numbers and counts are `number`."""
    content = finished.Finished({"number": number}, {"int8": np.full((4, 3, 2), number, np.int32)})
    stage = stage_of(folder, model)
    finished.put(stage, content, finished.keep(stage))


def number_in(folder, names):
    """The number of the evaluation in two files; None if they are of two evaluations."""
    numbers, counts = (folder / name for name in names)
    number = json.loads(numbers.read_text())["number"]
    with np.load(counts) as arrays:
        return number if (arrays["int8"] == number).all() else None


PRESENT = (NUMBERS_FILE, COUNTS_FILE)


def test_evaluation_that_is_replaced_is_kept(tmp_path):
    evaluate(tmp_path, "a", 1)
    assert not any((tmp_path / name).exists() for name in PREVIOUS_FILES)
    for model, number in (("b", 2), ("c", 3)):
        evaluate(tmp_path, model, number)
        assert number_in(tmp_path, PRESENT) == number
        assert number_in(tmp_path, PREVIOUS_FILES) == number - 1


def test_another_measurement_of_the_same_files_keeps_the_one_before(tmp_path):
    """As after "THE MACHINE WAS BUSY": what changed is still what was changed by hand."""
    for model, number in (("a", 1), ("b", 2), ("b", 3), ("b", 4)):
        evaluate(tmp_path, model, number)
    assert number_in(tmp_path, PREVIOUS_FILES) == 1
    assert finished.keep(stage_of(tmp_path, "b")).evaluation.numbers == {"number": 1}


@pytest.mark.parametrize("killed_before", range(5))
def test_stop_at_any_moment_loses_neither(tmp_path, monkeypatch, killed_before):
    """Two copies, the counts, the numbers, the record: the kill is before one of them."""
    evaluate(tmp_path, "a", 1)
    evaluate(tmp_path, "b", 2)
    replace, done = os.replace, []

    def counted(*paths):
        if len(done) == killed_before:
            raise SystemExit
        done.append(paths)
        replace(*paths)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(os, "replace", counted)
        evaluate(tmp_path, "c", 3)
    kept = finished.keep(stage_of(tmp_path, "c")).evaluation
    assert kept.numbers == {"number": 2} and (kept.counts["int8"] == 2).all()
    evaluate(tmp_path, "c", 3)
    assert number_in(tmp_path, PRESENT) == 3 and number_in(tmp_path, PREVIOUS_FILES) == 2


@pytest.mark.parametrize("name", PREVIOUS_FILES)
def test_copy_that_cannot_be_written_is_a_note(tmp_path, capsys, name):
    evaluate(tmp_path, "a", 1)
    (tmp_path / name / "in the way").mkdir(parents=True)
    evaluate(tmp_path, "b", 2)
    assert number_in(tmp_path, PRESENT) == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("note: nothing is compared with the evaluation before: ")


@pytest.mark.parametrize("name", PRESENT)
@pytest.mark.parametrize("damage", [b"", b"{}", b"[" * 100_000])
def test_damaged_evaluation_is_a_note(tmp_path, capsys, name, damage):
    evaluate(tmp_path, "a", 1)
    (tmp_path / name).write_bytes(damage)
    assert finished.keep(stage_of(tmp_path, "b")) == finished.Kept()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("note: ") and f"{name} is damaged" in line.replace(NUMBERS_FILE, name)


@pytest.mark.parametrize("name", PREVIOUS_FILES)
@pytest.mark.parametrize("missing", [True, False])
def test_damaged_copy_makes_no_evaluation_stale(tmp_path, name, missing):
    evaluate(tmp_path, "a", 1)
    evaluate(tmp_path, "b", 2)
    (tmp_path / name).unlink() if missing else (tmp_path / name).write_bytes(b"x")
    record = finished.read_record(tmp_path, "evaluation")
    assert record.fault() is None
    evaluate(tmp_path, "c", 3)
    assert number_in(tmp_path, PREVIOUS_FILES) == 2


def test_first_evaluation_says_nothing(tmp_path, capsys):
    assert finished.keep(stage_of(tmp_path, "a")) == finished.Kept()
    assert capsys.readouterr().out == ""


# --- how often a test split was read --------------------------------------------------------


def test_reads_are_counted_by_split_and_survive_reruns(tmp_path):
    expected = ({"one": 1}, {"one": 2}, {"one": 2, "two": 1}, {"one": 3, "two": 1})
    for pictures, reads in zip(("one", "one", "two", "one"), expected):
        assert finished.reads(tmp_path, pictures, "data") == reads
        (tmp_path / NUMBERS_FILE).write_text(json.dumps({"test_reads": reads}))
    shutil.move(tmp_path / NUMBERS_FILE, tmp_path / PREVIOUS_FILES[0])
    assert finished.reads(tmp_path, "one", "data") == {"one": 4, "two": 1}


@pytest.mark.parametrize(
    "content", ["", "[", "[]", '{"test_reads": 3}', '{"test_reads": {"a": []}}']
)
def test_damaged_counter_begins_anew(tmp_path, content):
    (tmp_path / NUMBERS_FILE).write_text(content)
    assert finished.reads(tmp_path, "a", "data") == {"a": 1}


def test_evaluation_that_did_not_count_is_one_read_of_its_own_data(tmp_path):
    (tmp_path / NUMBERS_FILE).write_text(json.dumps({"dataset": {"fingerprint": "data"}}))
    assert finished.reads(tmp_path, "a", "data") == {"a": 2}
    assert finished.reads(tmp_path, "a", "other data") == {"a": 1}


def test_test_pictures_do_not_depend_on_the_other_splits(tmp_path):
    digests = {}
    for train, test in (("a", "b"), ("c", "b"), ("a", "d")):
        files = {
            f"{split}_{kind}": [["x.npy", digest + kind]]
            for split, digest in (("train", train), ("test", test))
            for kind in ("images", "masks")
        }
        common = {key: {} for key in ("inputs", "settings", "code", "versions", "metrics")}
        path = record_path(tmp_path, "dataset")
        path.parent.mkdir(exist_ok=True)
        write_record(path, {"sha256": "s", "wall_seconds": 1, "files": files, **common})
        digests[train, test] = finished.test_pictures(tmp_path)
    assert digests["a", "b"] == digests["c", "b"] != digests["a", "d"]


# --- another folder -------------------------------------------------------------------------


def write_data_set(folder, classes):
    common = {key: {} for key in ("inputs", "settings", "code", "versions", "metrics")}
    path = record_path(folder, "dataset")
    path.parent.mkdir(parents=True)
    write_record(path, {"sha256": "s", "wall_seconds": 1, "class_names": classes, **common})


@pytest.fixture
def here(tmp_path):
    write_data_set(tmp_path / "here", ["pet", "sky"])
    return tmp_path / "here"


@pytest.fixture
def there(tmp_path):
    """A folder whose int8 file was evaluated."""
    folder = tmp_path / "there"
    write_data_set(folder, ["pet", "sky"])
    artifact_path(folder, "int8").write_bytes(b"model")
    stage = stage_of(folder, sha256(artifact_path(folder, "int8")))
    numbers = {"dataset": {"class_names": ["pet", "sky"]}}
    finished.put(stage, finished.Finished(numbers, {"int8": np.zeros((4, 3, 2))}), finished.Kept())
    return folder


def test_other_folder_is_read(there, here):
    found = finished.of_folder(there, here)
    assert found.numbers["dataset"]["class_names"] == ["pet", "sky"]
    assert found.counts["int8"].shape == (4, 3, 2)


MADE_AGAIN = r".*python .*evaluation\.py --models-dir .*there"


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("missing", r"--against .*there: there is no such folder$"),
        ("a file", r"--against .*there: there is no such folder$"),
        ("empty", r"--against .*there is no models folder: "),
        ("itself", r"--against .*here is the models folder itself; .*cp -r models models_before"),
        ("unfinished", rf"there/evaluation\.json is missing; make it with: {MADE_AGAIN}"),
        ("record", rf"evaluation\.json\.json is damaged.*: {MADE_AGAIN}"),
        ("numbers", rf"evaluation\.json was changed after it was made; measure it.*: {MADE_AGAIN}"),
        ("counts", rf"counts_per_image\.npz is missing; measure it again with: {MADE_AGAIN}"),
        ("model", rf"int8.*tflite was changed after it was measured; measure it.*: {MADE_AGAIN}"),
        ("classes", r"its classes are pet, sky, and here they are cat, sky; such models cannot be"),
    ],
)
def test_other_folder_that_cannot_be_compared_is_refused_in_one_line(there, here, what, words):
    folder = there
    if what in ("missing", "a file", "empty"):
        shutil.rmtree(there)
        if what == "a file":
            there.write_bytes(b"")
        elif what == "empty":
            there.mkdir()
    elif what == "itself":
        folder = here / ".." / "here"
    elif what == "unfinished":
        (there / NUMBERS_FILE).unlink()
    elif what == "record":
        record_path(there, "evaluation").write_text("{")
    elif what == "numbers":
        (there / NUMBERS_FILE).write_text("{}")
    elif what == "counts":
        (there / COUNTS_FILE).unlink()
    elif what == "model":
        artifact_path(there, "int8").write_bytes(b"other")
    elif what == "classes":
        shutil.rmtree(here)
        write_data_set(here, ["cat", "sky"])
    with pytest.raises(UserError, match=words) as refused:
        finished.of_folder(folder, here)
    assert "\n" not in str(refused.value)
