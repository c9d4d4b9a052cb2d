"""Few images get more epochs; how long a training takes is said before it, and changes no bit."""

import shutil

import numpy as np
import pytest

from pipeline.base.lazy import keras, layers
from pipeline.training import duration, loop
from tests.helpers.tiny_trainings import tiny, train


@pytest.mark.parametrize(
    "images, batch_size, epochs",
    [
        (3312, 16, 40),  # the pets: 207 steps an epoch
        (600, 16, 41),  # 37 steps an epoch, and 40 epochs would make 1480
        (50, 8, 250),
        (17, 16, 1500),
        (5, 16, 40),  # not one batch: the training refuses that itself
    ],
)
def test_few_images_get_more_epochs(monkeypatch, tmp_path, images, batch_size, epochs):
    record = {"splits": {"train": {"examples": images}}}
    monkeypatch.setattr(duration, "read_record", lambda *_: record)
    assert duration.default_epochs(tmp_path, batch_size, 40, 1500) == epochs


def test_without_a_data_set_the_usual_epochs_are_the_default(tmp_path):
    assert duration.default_epochs(tmp_path, 16, 40, 1500) == 40


@pytest.mark.parametrize("script", ["training", "pruning"])
def test_epochs_of_few_images_as_the_scripts_take_them(small_data, tmp_path, script):
    """Typed epochs stay; the command that messages print leaves out what is the default there."""
    module = __import__(script)
    shutil.copytree(small_data, tmp_path, dirs_exist_ok=True)
    where = ["--models-dir", str(tmp_path), "--batch-size", "16"]
    automatic, typed = module.parse(where), module.parse([*where, "--epochs", "40"])
    assert typed.epochs == 40
    images = loop.load_split(tmp_path, "train")[0]
    steps = automatic.epochs * (len(images) // 16)
    assert module.LEAST_STEPS <= steps < module.LEAST_STEPS + len(images) // 16
    assert module.dependent_defaults(typed)["epochs"] == automatic.epochs
    if script == "training":
        assert automatic.taught_epochs == automatic.epochs // 2
        assert typed.taught_epochs == 20


def test_the_timed_steps_change_no_bit(make_stage, monkeypatch):
    """With a layer that draws, statistics that move, the EMA and the moments of AdamW."""
    weights, rows = [], []
    for timed in (True, False):
        if not timed:
            monkeypatch.setattr(duration, "seconds_per_step", lambda *_: 1.0)
        model, optimizer = tiny(layers.BatchNormalization(), layers.Dropout(0.5))
        trained = train(make_stage(), model, optimizer, 2)
        weights.append([value.numpy() for value in (*model.variables, *optimizer.variables)])
        rows.append([row["loss"] for row in trained.history])
    assert rows[0] == rows[1]
    for first, second in zip(*weights):
        np.testing.assert_array_equal(first, second)


def test_steps_are_timed_and_undone():
    variable = keras.backend.variable([1.0])
    taken = []

    def step(batch: int) -> float:
        taken.append(batch)
        variable.assign_add([1.0])
        return 0.0

    assert duration.seconds_per_step(step, [(k,) for k in range(10)], [variable]) >= 0
    assert taken == [0, 1, 2, 3]
    assert float(variable[0]) == 1
    assert duration.seconds_per_step(step, [(0,)], [variable]) >= 0, "an epoch of one step"


def test_minutes_of_a_training():
    """30 epochs of 10 steps of a batch of 8, 2 s each; 48 images are validated in 2 steps' time."""
    assert duration.minutes_of(30, 10, 8, 48, 2.0) == pytest.approx(12)


def test_a_long_training_names_a_shorter_one_first(make_stage, capsys):
    stage = make_stage("--epochs", "40", "--taught-epochs", "20")
    duration.say_how_long(stage, 40, 120.0)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("shorter, about 60 min, and less accurate: ")
    assert "training.py" in first
    assert " --epochs 20 " in first
    assert " --taught-epochs 10" in first
    assert second == "this training takes about 2.0 h on this machine"
    duration.say_how_long(stage, 40, 40.4)
    assert capsys.readouterr().out == "this training takes about 40 min on this machine\n"
    duration.say_how_long(stage, 40, 0.4)
    assert capsys.readouterr().out == "this training takes about 24 s on this machine\n"
