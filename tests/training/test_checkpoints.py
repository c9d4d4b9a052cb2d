"""What a killed training goes on from: only its own state, and only one that is whole."""

import errno
from pathlib import Path

import numpy as np
import pytest

from pipeline.base.lazy import layers
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


def test_resume_on_another_number_of_threads_says_so_and_goes_on(stage, monkeypatch, capsys):
    """Sums over other threads are other bits; the record says on how many each part ran."""
    monkeypatch.setattr(checkpoints, "tensorflow_threads", lambda: 2)
    monkeypatch.setattr(stage.processes, "tensorflow_threads", lambda: 2)
    saved_state(stage, *tiny())
    checkpoints.TrainingState(stage, "tiny", *tiny()).restore()
    assert "threads" not in capsys.readouterr().out
    assert "threads_before" not in stage.record("0", {}) and stage.record("0", {})["threads"] == 2
    monkeypatch.setattr(checkpoints, "tensorflow_threads", lambda: 1)
    monkeypatch.setattr(stage.processes, "tensorflow_threads", lambda: 1)
    state = checkpoints.TrainingState(stage, "tiny", *tiny())
    state.restore()
    assert len(state.history) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "going on after epoch 1"
    assert said[1].startswith("on 1 threads, after epochs on 2: the weights will not be")
    record = stage.record("0", {})
    assert (record["threads"], record["threads_before"]) == (1, [2])
    state.save()  # and a second kill forgets none of it
    checkpoints.TrainingState(stage, "tiny", *tiny()).restore()
    assert stage.record("0", {})["threads_before"] == [2]


DAMAGES = {
    "cut short": lambda content: content[: len(content) // 2],
    "empty": lambda _: b"",
    "garbage": lambda content: bytes(len(content)),
    "other bytes within": lambda content: content[:2000] + b"\xff" * 40 + content[2040:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_state_is_one_line_and_a_new_beginning(stage, capsys, damage):
    first = fit(stage, *tiny())
    path = state_file(stage)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    capsys.readouterr()
    again = fit(stage, *tiny(), resume=True)
    said = [line for line in capsys.readouterr().out.splitlines() if "epoch " not in line]
    assert said == [f"{path} is damaged; beginning anew"]
    assert again[0]["loss"] == first[0]["loss"]
    assert fit(stage, *tiny(), resume=True) == again, "the new state can be read"


@pytest.mark.parametrize("more", [0, 1], ids=["none", "a layer"])
def test_state_of_another_network_is_not_assigned(stage, capsys, more):
    """Not even the weights that would fit: half of one network in another is neither."""
    saved_state(stage, *tiny(layers.Conv2D(3, 3, padding="same"), layers.Conv2D(3, 1)))
    model, optimizer = tiny(*[layers.Conv2D(3, 5, padding="same")] * more)
    before = [np.zeros_like(value) for value in model.get_weights()]
    model.set_weights(before)
    state = checkpoints.TrainingState(stage, "tiny", model, optimizer)
    state.restore()
    assert "is of another network; beginning anew" in capsys.readouterr().out
    assert state.history == [] and state.best == []
    assert all((now == 0).all() for now in model.get_weights())


def test_state_stays_until_it_is_forgotten(stage, capsys, monkeypatch):
    """A kill between the last epoch and the finished model costs no training."""
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
    unlink = errno.EROFS, "Read-only file system"  # said of what is not there, too
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(OSError(*unlink)))
    checkpoints.forget(stage, "tiny")  # and a second time is no fault


def test_state_that_outlived_its_run_goes_and_another_ones_stays(make_stage):
    """A kill right before the state was forgotten; or an unfinished run of other settings."""
    stage = make_stage("--epochs", "3")
    saved_state(stage, *tiny())
    path = state_file(stage)
    checkpoints.forget(make_stage("--epochs", "4"), "tiny", ours_only=True)
    assert path.exists()
    checkpoints.forget(stage, "tiny", ours_only=True)
    assert not path.exists()
    path.write_bytes(b"damaged")
    checkpoints.forget(stage, "tiny", ours_only=True)
    assert path.exists()


def test_state_of_a_run_that_is_not_resumed_is_replaced(stage):
    fit(stage, *tiny(), 2)
    assert len(fit(stage, *tiny(), 1)) == 1
    assert len(fit(stage, *tiny(), 1, resume=True)) == 1
