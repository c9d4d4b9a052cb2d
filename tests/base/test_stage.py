"""When a stage runs again, and why: every reason, and the flag that says an edit did not matter."""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import shlex

import pytest

from pipeline.base import artifacts, fingerprints, identity, lazy
from pipeline.base.console import Terminated, UserError
from pipeline.base.files import sha256
from pipeline.base.identity import Resumption
from pipeline.base.stage import Stage

SETTINGS = {"epochs": 3, "learning_rate": 0.1}


@pytest.fixture
def begin(tmp_path):
    """Begins a stage of a toy script that makes the original model of a toy data set."""
    models_dir, script = tmp_path / "models", tmp_path / "training.py"
    script.write_text("RATE = 1\n")
    usual = {"models_dir": models_dir, "if_needed": True, "accept_edits": False, "resume": False}

    def call(defaults=None, **settings):
        fingerprints.read.cache_clear()
        arguments = argparse.Namespace(**usual | SETTINGS | settings)
        if defaults is not None:
            defaults = argparse.Namespace(**usual | defaults)
        return Stage.begin(script, arguments, defaults)

    write_data_set(call(), "first data")
    with call().require("dataset").new_artifact("original", {}) as (path,):
        path.write_text("weights")
    call.script, call.models_dir = script, models_dir
    yield call
    fingerprints.read.cache_clear()


def write_data_set(made, digest):
    """A record of a data set; nothing reads its arrays here."""
    path = artifacts.artifact_path(made.models_dir, "dataset")
    artifacts.write_record(path, made.record(digest, {}))


def texts(made):
    return [reason.text for reason in made.require("dataset").reasons("original")]


# --- the reasons ----------------------------------------------------------------------------


def test_nothing_changed(begin, capsys):
    assert begin().require("dataset").nothing_to_do("original")
    assert capsys.readouterr().out == "training.py: up to date, nothing to do\n"


def test_comment_is_no_edit_and_a_number_is_one(begin, capsys):
    begin.script.write_text("# The rate.\nRATE = (\n    1\n)\n")
    assert texts(begin()) == []
    begin.script.write_text("RATE = 2\n")
    assert not begin().require("dataset").nothing_to_do("original")
    assert capsys.readouterr().out == "training.py: runs, because training.py was edited\n"


def test_setting_is_named(begin):
    assert texts(begin(learning_rate=0.01)) == ["--learning-rate is 0.01, was 0.1"]


def test_flag_that_is_newer_than_a_record_had_its_default(begin):
    """Else a new flag would make every model stale, though it changes nothing at its default."""
    defaults = SETTINGS | {"weight_decay": 0.02}
    assert texts(begin(defaults, weight_decay=0.02)) == []
    assert texts(begin(defaults, weight_decay=0.5)) == ["--weight-decay is 0.5, was 0.02"]
    assert texts(begin(weight_decay=0.02)) == ["--weight-decay is new"], "without known defaults"


def test_flag_that_is_gone_is_named(begin):
    assert texts(begin(SETTINGS)) == []
    record = artifacts.read_record(begin.models_dir, "original")
    record["settings"]["momentum"] = 0.9
    artifacts.write_record(artifacts.record_path(begin.models_dir, "original"), record)
    assert texts(begin()) == ["--momentum is gone"]


def test_input_is_named(begin):
    write_data_set(begin(), "other data")
    assert texts(begin()) == ["dataset changed"]


def test_package_version_is_named(begin):
    path = artifacts.record_path(begin.models_dir, "original")
    record = artifacts.read_record(begin.models_dir, "original")
    now, record["versions"]["python"] = record["versions"]["python"], "3.0"
    artifacts.write_record(path, record)
    assert texts(begin()) == [f"python is {now}, was 3.0"]


def test_missing_and_damaged_artifacts_are_named(begin):
    artifacts.record_path(begin.models_dir, "original").write_text("{")
    assert "original_model.h5.json is damaged" in texts(begin())[0]
    artifacts.artifact_path(begin.models_dir, "original").unlink()
    assert "original_model.h5 is missing" in texts(begin())[0]


def test_artifact_changed_after_it_was_made_is_made_again(begin):
    artifacts.artifact_path(begin.models_dir, "original").write_text("other weights")
    assert texts(begin()) == ["original_model.h5 was changed after it was made"]


def test_artifact_of_a_part_of_the_inputs_and_settings_is_made_again_for_these_alone(begin):
    """What else its stage reads, and flags of the stage's other artifacts, are no reason."""
    part = begin().require("dataset").with_part("original", ignoring=("epochs",))
    with part.new_artifact("original", {}) as (path,):
        path.write_text("weights")
    record = artifacts.read_record(begin.models_dir, "original")
    assert record["inputs"] == {} and record["settings"] == {"learning_rate": 0.1}
    other = begin(epochs=4).require("dataset").with_part("original", ignoring=("epochs",))
    assert other.reasons("original") == []
    assert [reason.text for reason in begin(epochs=4).require("dataset").reasons("original")] == [
        "--epochs is new",
        "dataset is new",
    ]
    begin.script.write_text("RATE = 2 / 2\n")
    accepting = (
        begin(accept_edits=True).require("dataset").with_part("original", ignoring=("epochs",))
    )
    assert accepting.nothing_to_do("original")
    assert artifacts.read_record(begin.models_dir, "original")["inputs"] == {}


# --- a user knows that an edit did not matter -----------------------------------------------


def test_accepted_edit_makes_nothing_and_is_in_the_record(begin, capsys):
    begin.script.write_text("RATE = 2 / 2\n")
    before = sha256(artifacts.artifact_path(begin.models_dir, "original"))
    accepting = begin(accept_edits=True).require("dataset")
    assert accepting.nothing_to_do("original")
    assert "accepted as changing nothing: training.py was edited" in capsys.readouterr().out
    record = artifacts.read_record(begin.models_dir, "original")
    assert record["accepted"] == ["training.py was edited"]
    assert sha256(artifacts.artifact_path(begin.models_dir, "original")) == before
    assert texts(begin()) == []


def test_new_flag_and_its_code_are_one_accepted_edit(begin):
    begin.script.write_text("RATE, DECAY = 1, 2\n")
    defaults = SETTINGS | {"weight_decay": 0.02}
    accepting = begin(defaults, accept_edits=True, weight_decay=0.02).require("dataset")
    assert accepting.nothing_to_do("original")
    assert texts(begin(defaults, weight_decay=0.02)) == []


def test_setting_cannot_be_accepted(begin):
    """A setting or an input decides what is in an artifact: nobody can know otherwise."""
    accepting = begin(accept_edits=True, epochs=4).require("dataset")
    with pytest.raises(UserError, match=r"code and packages only, .*--epochs is 4, was 3"):
        accepting.nothing_to_do("original")


# --- --resume costs no work -------------------------------------------------------------------


@pytest.fixture
def resume(begin):
    """Asks with --resume alone, as a user does, after what the given runs left; prints nothing."""

    def call(*left, defaults=None, **settings):
        asked = begin(defaults, if_needed=False, resume=True, **settings).require("dataset")
        return asked.nothing_to_do("original", left=[asked.left_by(run) for run in left])

    return call


def left_by(made):
    """What a checkpoint of a run holds of it."""
    identity = made.require("dataset").identity.as_dict()
    return {"identity": identity, "settings": dict(identity["settings"])}


def test_finished_run_is_not_begun_again_by_resume(resume, capsys):
    assert resume()
    said = capsys.readouterr().out
    assert said == "training.py: up to date, this run is finished, nothing to go on with\n"


def test_finished_run_of_other_settings_is_not_replaced_by_resume(resume, begin):
    """A longer training was wanted: one that began anew would cost the finished one."""
    words = r"finished one is another \(--epochs is 4, was 3\); begin anew with: "
    with pytest.raises(UserError, match=words) as refused:
        resume(epochs=4)
    command = str(refused.value).split("begin anew with: ")[1]
    where = ["--models-dir", str(begin.models_dir)]
    assert shlex.split(command)[2:] == [*where, "--epochs", "4", "--learning-rate", "0.1"]


def test_unfinished_run_of_these_settings_goes_on(resume, begin, capsys):
    other = left_by(begin(epochs=5))
    assert not resume(other, left_by(begin(epochs=4)), epochs=4)
    assert capsys.readouterr().out == ""


def test_unfinished_run_of_other_settings_is_named_with_two_commands(resume, begin):
    """A flag mistyped: neither the right run nor the wrong one begins without being asked for."""
    left = left_by(begin(epochs=9, learning_rate=0.5))
    with pytest.raises(UserError, match=r"another one \(--epochs is 4, was 9\); go on") as refused:
        resume(left, epochs=4, learning_rate=0.5, defaults=SETTINGS)
    old, anew = re.search(
        r"with that: (.*); or begin anew with: (.*)$", str(refused.value)
    ).groups()
    where = ["--models-dir", str(begin.models_dir)]
    assert shlex.split(old)[2:] == [*where, "--epochs", "9", "--learning-rate", "0.5", "--resume"]
    assert shlex.split(anew)[2:] == [*where, "--epochs", "4", "--learning-rate", "0.5"]


def test_unfinished_run_of_other_code_is_named_with_the_flag_that_accepts_it(resume, begin):
    left = left_by(begin(epochs=4))
    begin.script.write_text("RATE = 2 / 2\n")
    with pytest.raises(UserError, match=r"training\.py was edited.* --resume --accept-edits; or"):
        resume(left, epochs=4)
    assert not resume(left, epochs=4, accept_edits=True), "and with it, it goes on"


def test_unfinished_run_on_other_data_cannot_go_on(resume, begin):
    left = left_by(begin(epochs=4))
    write_data_set(begin(), "other data")
    words = r"unfinished run cannot go on \(dataset changed\); begin anew with: (?!.*--resume)"
    with pytest.raises(UserError, match=words):
        resume(left, epochs=4)


def test_make_begins_anew_where_resume_alone_would_not(begin):
    """--if-needed says that what is out of date is made again."""
    asked = begin(resume=True, epochs=4).require("dataset")
    assert not asked.nothing_to_do("original", left=[asked.left_by(left_by(begin(epochs=9)))])


@pytest.mark.parametrize("stopped", [KeyboardInterrupt, Terminated])
def test_run_that_is_stopped_in_its_first_epoch_can_be_resumed(resume, begin, stopped):
    """There is no checkpoint yet; the line after Ctrl-C names a command with --resume."""
    with pytest.raises(stopped), begin(epochs=4).require("dataset").working():
        raise stopped
    assert not resume(epochs=4)
    with pytest.raises(UserError, match="the unfinished run is another one"):
        resume(epochs=5)


def test_mark_of_a_run_goes_with_its_end(begin):
    with begin(epochs=4).working():
        assert begin().mark.exists()
    assert not begin().mark.exists()
    with pytest.raises(UserError, match="too few"), begin(epochs=4).working():
        raise UserError("too few steps")
    assert not begin().mark.exists()


def test_mark_that_was_left_by_a_finished_run_is_removed(begin):
    with pytest.raises(KeyboardInterrupt), begin().require("dataset").working():
        raise KeyboardInterrupt
    assert begin().require("dataset").nothing_to_do("original")
    assert not begin().mark.exists()


def test_damaged_mark_is_no_run(resume, begin):
    begin().mark.write_bytes(b"\xff{")
    with pytest.raises(UserError, match="no run is unfinished"):
        resume(epochs=4)


# --- identities -------------------------------------------------------------------------------


def test_stage_does_not_change(begin):
    """Narrower and wider identities are new stages: none of them changes another one."""
    plain = begin()
    before = plain.identity.as_dict()
    required = plain.require("dataset")
    assert plain.identity.as_dict() == before
    assert dict(required.identity.inputs) == {"dataset": "first data"}
    wider = required.with_inputs({"photos": "ab"})
    assert set(wider.identity.inputs) == {"dataset", "photos"}
    parted = wider.with_part("original", "photos", ignoring=("epochs",))
    assert parted.identity == wider.identity
    assert dict(parted.part("original").identity.inputs) == {"photos": "ab"}
    assert dict(parted.part("original").identity.settings) == {"learning_rate": 0.1}
    assert parted.part("pruned").identity == wider.identity
    assert dict(plain.ignoring("epochs").identity.settings) == {"learning_rate": 0.1}
    assert plain.identity.as_dict() == before
    with pytest.raises(AttributeError):
        plain.started = 0


def test_flags_of_where_and_whether_are_no_settings(begin):
    one, two = begin(resume=True), begin(resume=False, if_needed=False)
    assert one.identity == two.identity


def test_identity_of_a_stopped_run(begin, capsys):
    """The same: it goes on. Other code: only if that is accepted. Other settings: never."""
    then = begin().identity.as_dict()
    assert begin().may_resume(then) == Resumption()
    begin.script.write_text("RATE = 2 / 2\n")
    assert begin().may_resume(then) is None
    said = capsys.readouterr().out
    assert said == ("the unfinished run was another one (training.py was edited); beginning anew\n")
    accepted = Resumption(accepted=("training.py was edited",))
    assert begin(accept_edits=True).may_resume(then) == accepted
    assert begin(accept_edits=True, epochs=9).may_resume(then) is None
    assert begin(accept_edits=True).record("", {}, accepted)["accepted"] == [
        "training.py was edited"
    ]


@pytest.mark.parametrize("foreign", [None, [], "text", {"settings": None, "code": [1]}])
def test_identity_that_is_none_of_ours_is_another_one(foreign):
    now = {"settings": {"epochs": 3}, "inputs": {}, "code": {"a.py": "1"}, "versions": {}}
    texts = [reason.text for reason in identity.differences(foreign, now)]
    assert texts == ["--epochs is new", "a.py is new"]
    assert identity.differences(now, now) == []


def test_versions_are_those_that_are_installed():
    versions = lazy.versions({"numpy", "PIL"})
    assert versions["numpy"] == importlib.metadata.version("numpy")
    assert versions["pillow"] == importlib.metadata.version("pillow") and len(versions) == 3


def test_lock_of_a_stage_names_its_script(begin):
    with begin().lock(), pytest.raises(UserError, match=r"^training\.py \(process \d+\) works in"):
        begin().lock().__enter__()
