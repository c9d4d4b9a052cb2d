"""A stopped training continues only from its own checkpoint, and only from a whole one."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.base.identity import Resumption
from pipeline.base.lazy import keras, layers
from pipeline.base.stage import Stage
from pipeline.training import checkpoints
from tests.helpers.tiny_trainings import fit, state_file, tiny


def saved_state(stage, model, optimizer):
    state = checkpoints.TrainingState(stage, "tiny", model, optimizer)
    state.history, state.best = [{"mean_iou": 0.5}], model.get_weights()
    state.save()


def test_resume_after_other_settings_begins_anew(make_stage, capsys):
    model, optimizer = tiny()
    saved_state(make_stage("--epochs", "3"), model, optimizer)
    model.set_weights([np.zeros_like(value) for value in model.get_weights()])
    other = checkpoints.TrainingState(make_stage("--epochs", "4"), "tiny", model, optimizer)
    other.restore()
    assert other.history == []
    assert "(--epochs is 4, was 3); beginning anew" in capsys.readouterr().out
    assert all((now == 0).all() for now in model.get_weights())
    same = checkpoints.TrainingState(make_stage("--epochs", "3"), "tiny", model, optimizer)
    same.restore()
    assert same.history == [{"mean_iou": 0.5}]
    assert any((now != 0).any() for now in model.get_weights())


def test_resume_on_another_number_of_threads_prints_it_and_continues(stage, monkeypatch, capsys):
    """Sums over other numbers of threads differ in their last bits; the record tells of it."""

    def on_threads(number):
        monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", str(number))

    def restored():
        state = checkpoints.TrainingState(stage, "tiny", *tiny())
        state.restore()
        return state

    on_threads(2)
    saved_state(stage, *tiny())
    assert restored().resumption == Resumption()
    assert "threads" not in capsys.readouterr().out
    on_threads(1)
    state = restored()
    assert len(state.history) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "going on after epoch 1"
    assert lines[1].startswith("on 1 threads, after epochs on 2: the weights will not be")
    record = stage.record("0", {}, state.resumption)
    assert (record["threads"], record["threads_before"]) == (1, [2])
    state.save()  # after a second stop, all numbers are still known
    assert restored().resumption.threads_before == (2,)


def test_accepted_edits_of_all_phases_are_passed_on(stage, monkeypatch):
    saved_state(stage, *tiny())
    edits = Resumption(("losses.py was edited", "loop.py was edited"))
    monkeypatch.setattr(Stage, "may_resume", lambda *_: edits)
    before = Resumption(("losses.py was edited",), (3,))
    state = checkpoints.TrainingState(stage, "tiny", *tiny(), before)
    state.restore()
    assert state.resumption.accepted == ("losses.py was edited", "loop.py was edited")


def with_header(change):
    """Damage that replaces the header of a checkpoint by another one, in a whole archive."""

    def damage(path):
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        header = change(json.loads(str(arrays["about"])))
        del arrays["about"]
        if header is not None:
            arrays["about"] = np.array(header if isinstance(header, str) else json.dumps(header))
        np.savez(path, **arrays)

    return damage


def with_bytes(change):
    """Damage of the bytes of a file."""
    return lambda path: path.write_bytes(change(path.read_bytes()))


def single_array(path):
    """Replaces the archive by the file of one array."""
    with path.open("wb") as file:
        np.save(file, np.arange(3))


DAMAGES = {
    "cut short": with_bytes(lambda content: content[: len(content) // 2]),
    "empty": with_bytes(lambda _: b""),
    "zeros": with_bytes(lambda content: bytes(len(content))),
    "text, no zip": with_bytes(lambda _: b"not an archive"),
    "other bytes within": with_bytes(
        lambda content: content[:2000] + b"\xff" * 40 + content[2040:]
    ),
    "one array, no archive": single_array,
    "no header": with_header(lambda _: None),
    "header cut short": with_header(lambda header: json.dumps(header)[:-9]),
    "header nested too deeply": with_header(lambda _: "[" * 100_000),
    "header is a list": with_header(lambda header: [header]),
    "history is a number": with_header(lambda header: header | {"history": 3}),
    "history of numbers": with_header(lambda header: header | {"history": [1, 2]}),
    "epoch without its mean IoU": with_header(lambda header: header | {"history": [{"loss": 1}]}),
    "threads are text": with_header(lambda header: header | {"threads": ["two"]}),
    "no threads": with_header(lambda header: header | {"threads": []}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint_is_one_line_and_a_new_beginning(stage, capsys, damage):
    saved_state(stage, *tiny())
    path = state_file(stage)
    DAMAGES[damage](path)
    state = checkpoints.TrainingState(stage, "tiny", *tiny())
    state.restore()
    assert capsys.readouterr().out == f"{path} is damaged; beginning anew\n"
    assert state.history == [] and state.resumption == Resumption()
    checkpoints.forget(stage, "tiny", ours_only=True)
    assert path.exists(), "whose it is cannot be known"


def test_training_after_a_damaged_checkpoint_is_that_of_a_new_run(stage, capsys):
    first = fit(stage, *tiny())
    path = state_file(stage)
    path.write_bytes(path.read_bytes()[:-100])
    again = fit(stage, *tiny(), resume=True)
    assert f"{path} is damaged; beginning anew\n" in capsys.readouterr().out
    assert again[0]["loss"] == first[0]["loss"]
    assert fit(stage, *tiny(), resume=True) == again, "the new checkpoint can be read"


def test_identity_of_another_form_is_another_run(stage, capsys):
    saved_state(stage, *tiny())
    with_header(lambda header: header | {"identity": 3})(state_file(stage))
    checkpoints.TrainingState(stage, "tiny", *tiny()).restore()
    assert "the unfinished run was another one" in capsys.readouterr().out


@pytest.mark.parametrize("error", [TypeError, AttributeError, KeyError, IndexError])
@pytest.mark.parametrize("function", ["parse_header", "numbered", "shapes_agree"])
def test_error_of_our_own_is_not_taken_for_damage(stage, monkeypatch, function, error):
    """It would throw the epochs away that the checkpoint holds."""
    fit(stage, *tiny())
    before = state_file(stage).read_bytes()

    def broken(*_):
        raise error("an error in a program")

    monkeypatch.setattr(checkpoints, function, broken)
    with pytest.raises(error, match="an error in a program"):
        fit(stage, *tiny(), 2, resume=True)
    assert state_file(stage).read_bytes() == before


def test_checkpoint_that_the_system_does_not_open_is_not_taken_for_damaged(stage, monkeypatch):
    fit(stage, *tiny())
    path, opened = state_file(stage), Path.open

    def refuse(self, *arguments, **settings):
        if self == path:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(self, *arguments, **settings)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PermissionError):
        fit(stage, *tiny(), 2, resume=True)


@pytest.mark.parametrize("more", [0, 1], ids=["fewer layers", "another layer"])
def test_checkpoint_of_another_network_is_not_assigned(stage, capsys, more):
    """Not even the weights that would fit."""
    saved_state(stage, *tiny(layers.Conv2D(3, 3, padding="same"), layers.Conv2D(3, 1)))
    model, optimizer = tiny(*[layers.Conv2D(3, 5, padding="same")] * more)
    before = [np.zeros_like(value) for value in model.get_weights()]
    model.set_weights(before)
    state = checkpoints.TrainingState(stage, "tiny", model, optimizer)
    state.restore()
    assert "is of another network; beginning anew" in capsys.readouterr().out
    assert state.history == [] and state.best == []
    assert all((now == 0).all() for now in model.get_weights())


def nested(*inner_layers):
    """A network of these layers, as one layer of another network."""
    return keras.Sequential([layers.Input((32, 32, 3)), *inner_layers])


# Layers that draw random numbers in training, by what a test is called.
RANDOM_LAYERS = {
    "none": lambda: [],
    "Dropout": lambda: [layers.Dropout(0.3)],
    "Dropout with a seed": lambda: [layers.Dropout(0.3, seed=1)],
    "SpatialDropout2D": lambda: [layers.SpatialDropout2D(0.3)],
    "GaussianNoise": lambda: [layers.GaussianNoise(0.3)],
    "GaussianDropout": lambda: [layers.GaussianDropout(0.3)],
    "AlphaDropout": lambda: [layers.AlphaDropout(0.3)],
    "RandomFlip": lambda: [layers.RandomFlip()],
    "RandomBrightness": lambda: [layers.RandomBrightness(0.3, value_range=(-9.0, 9.0))],
    "two of a kind": lambda: [layers.Dropout(0.3), layers.Dropout(0.3)],
    "one used twice": lambda: [layers.Dropout(0.3)] * 2,
    "in a network inside": lambda: [nested(layers.Conv2D(3, 1), nested(layers.Dropout(0.3)))],
}
QUICK = ("none", "Dropout")
RARE = sorted(RANDOM_LAYERS.keys() - set(QUICK))  # in `make test-slow`


@pytest.mark.parametrize("kind", [*QUICK, *(pytest.param(k, marks=pytest.mark.slow) for k in RARE)])
def test_resumed_training_ends_with_the_same_bits(stage, monkeypatch, kind):
    """Stopped after each epoch, as by a kill. Whole scripts: tests/scripts/test_training.py."""
    make = RANDOM_LAYERS[kind]
    whole, optimizer = tiny(*make())
    history = fit(stage, whole, optimizer, 3)
    checkpoints.forget(stage, "tiny")
    save = checkpoints.TrainingState.save

    def save_and_stop(state, *arguments):
        save(state, *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.TrainingState, "save", save_and_stop)
        for resume in (False, True):
            with pytest.raises(KeyboardInterrupt):
                fit(stage, *tiny(*make()), 3, resume=resume)
    resumed, optimizer = tiny(*make())
    rows = fit(stage, resumed, optimizer, 3, resume=True)
    assert [row["loss"] for row in rows] == [row["loss"] for row in history]
    for now, before in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        assert (now == before).all()


def test_checkpoint_stays_until_it_is_forgotten(stage, capsys, monkeypatch):
    """After a kill between the last epoch and the finished model, nothing is trained again."""
    model, optimizer = tiny()
    history = fit(stage, model, optimizer, 2)
    assert state_file(stage).exists()
    later, optimizer = tiny()
    capsys.readouterr()
    assert fit(stage, later, optimizer, 2, resume=True) == history
    assert capsys.readouterr().out == "going on after epoch 2\n"
    assert all((a == b).all() for a, b in zip(later.get_weights(), model.get_weights()))
    checkpoints.forget(stage, "other")
    assert state_file(stage).exists()
    checkpoints.forget(stage, "tiny")
    assert not state_file(stage).exists()

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")  # also for a file that is missing

    monkeypatch.setattr(Path, "unlink", refuse)
    checkpoints.forget(stage, "tiny")


def test_checkpoint_left_by_this_run_is_removed_and_that_of_another_run_stays(make_stage):
    """Left by a kill right before it was removed; or by an unfinished run of other settings."""
    stage = make_stage("--epochs", "3")
    saved_state(stage, *tiny())
    path = state_file(stage)
    checkpoints.forget(make_stage("--epochs", "4"), "tiny", ours_only=True)
    assert path.exists()
    checkpoints.forget(stage, "tiny", ours_only=True)
    assert not path.exists()


def test_checkpoint_of_another_run_stays_until_this_one_is_finished(make_stage):
    """A flag mistyped, with or without --resume, does not cost the epochs of the right command."""
    right, wrong = make_stage("--epochs", "9"), make_stage("--epochs", "8")
    fit(right, *tiny(), 2)
    fit(wrong, *tiny(), 1, resume=True)
    fit(wrong, *tiny(), 1)
    assert len(checkpoints.left_by({"tiny": make_stage("--epochs", "9", "--resume")})) == 2
    state = checkpoints.TrainingState(right, "tiny", *tiny())
    state.restore()
    assert len(state.history) == 2
    state.save()
    state = checkpoints.TrainingState(wrong, "tiny", *tiny())
    state.restore()
    assert len(state.history) == 1, "and the other way round"
    checkpoints.forget(right, "tiny")
    assert list(right.models_dir.glob(".*")) == []


def test_checkpoint_tells_the_command_line_of_its_run(make_stage):
    """Its identity may ignore a setting; the message names the command that goes on."""
    fit(make_stage("--epochs", "9", "--taught-epochs", "1").ignoring("taught_epochs"), *tiny(), 1)
    (run,) = checkpoints.left_by({"tiny": make_stage("--epochs", "8", "--resume")})
    assert (run.settings["epochs"], run.settings["taught_epochs"]) == (9, 1)
    assert next(reason.text for reason in run.reasons if reason.kind == "setting") == (
        "--epochs is 8, was 9"
    )


def test_checkpoint_of_a_run_that_is_not_resumed_is_replaced(stage):
    fit(stage, *tiny(), 2)
    assert len(fit(stage, *tiny(), 1)) == 1
    assert len(fit(stage, *tiny(), 1, resume=True)) == 1
