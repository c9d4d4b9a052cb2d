"""Trainings as a user starts them: what they leave, how they resume, what their errors say."""

import csv
import shutil
from dataclasses import replace

import numpy as np
import pytest

import training
from pipeline.base.artifacts import read_record
from pipeline.base.console import Terminated, UserError
from pipeline.base.files import sha256
from pipeline.data.dataset import load_split
from pipeline.inference.iou import split_iou
from pipeline.inference.keras_files import KerasModel, load_model
from pipeline.training import imagenet, networks
from tests.helpers.runs import (
    COMPACT_TRAINING,
    PARTS,
    STOPPED,
    STOPPED_TAUGHT,
    TRAINING,
    run_script,
)
from tests.helpers.small_network import small_network


def test_saved_model_loads_and_predicts_what_was_validated(finished_run):
    model = load_model(finished_run, "original")
    images, masks = (part[:] for part in load_split(finished_run, "validation"))
    assert model(images[:2].astype(np.float32) / 255).shape == (2, 32, 32, 3)
    iou = split_iou(KerasModel(model), images, masks)
    metrics = read_record(finished_run, "original")["metrics"]
    assert iou.mean() == pytest.approx(metrics["validation_mean_iou"], abs=1e-5)


def test_best_epoch_is_kept(finished_run):
    rows = list(csv.DictReader((finished_run / "original_training.csv").open()))
    metrics = read_record(finished_run, "original")["metrics"]
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5]
    assert metrics["validation_mean_iou"] == max(float(row["mean_iou"]) for row in rows)
    best = rows[metrics["best_epoch"] - 1]
    assert float(best["mean_iou"]) == metrics["validation_mean_iou"]


def test_finished_training_leaves_its_curves_and_no_state(finished_run):
    assert (finished_run / "original_training.png").stat().st_size > 10_000
    assert [path.name for path in finished_run.rglob(".*")] == []


@pytest.mark.slow
def test_killed_and_resumed_training_ends_with_the_same_bytes(compact_run, data_copy):
    """The bytes of the run that was not killed: so the seed decides everything, too."""
    state = shutil.copy(compact_run / STOPPED, data_copy / ".original_training_state.npz")
    done = run_script("training.py", "--models-dir", data_copy, *COMPACT_TRAINING, "--resume")
    assert done.returncode == 0, done.stderr
    assert "going on after epoch" in done.stdout and "epoch   1/5" not in done.stdout
    expected = sha256(compact_run / "original_model.h5")
    assert sha256(data_copy / "original_model.h5") == expected
    assert not state.exists()


@pytest.mark.slow
def test_training_killed_during_self_distillation_ends_with_the_same_bytes(compact_run, data_copy):
    states = [data_copy / f".{part}_training_state.npz" for part in PARTS]
    for name, state in zip(STOPPED_TAUGHT, states):
        shutil.copy(compact_run / name, state)
    done = run_script("training.py", "--models-dir", data_copy, *COMPACT_TRAINING, "--resume")
    assert done.returncode == 0, done.stderr
    assert "going on after epoch 4" in done.stdout and "epoch   4/5" not in done.stdout
    expected = sha256(compact_run / "original_model.h5")
    assert sha256(data_copy / "original_model.h5") == expected
    with (data_copy / "original_training.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2", "3", "4", "5"]
    assert not any(state.exists() for state in states)


@pytest.mark.slow
def test_supervised_epochs_are_kept_for_another_number_of_epochs_of_self_distillation(
    compact_run, data_copy
):
    """They take an hour, and do not depend on how many epochs follow."""
    for part, name in zip(PARTS, STOPPED_TAUGHT):
        shutil.copy(compact_run / name, data_copy / f".{part}_training_state.npz")
    other = (*COMPACT_TRAINING, "--taught-epochs", "1", "--resume")
    done = run_script("training.py", "--models-dir", data_copy, *other)
    assert done.returncode == 0, done.stderr
    assert "(--taught-epochs is 1, was 2); beginning anew" in done.stdout
    rows, before = (
        [
            {key: row[key] for key in ("epoch", "part", "loss", "mean_iou")}
            for row in csv.DictReader(f)
        ]
        for f in ((d / "original_training.csv").open() for d in (data_copy, compact_run))
    )
    assert rows[:3] == before[:3] and len(rows) == 4
    assert [line[:9] for line in done.stdout.splitlines() if line[:6] == "epoch "] == ["epoch   4"]
    assert read_record(data_copy, "original")["settings"]["taught_epochs"] == 1


@pytest.mark.slow
def test_preset_sets_resolution_and_decoder_of_the_network():
    """A larger preset has more pixels or filters; --enlarge overrides its resolution alone."""

    def network(*argv):
        arguments = training.parse(list(argv))
        chosen = arguments.architecture, arguments.preset, arguments.enlarge
        return arguments.enlarge, networks.choose(*chosen)((64, 64), 3)

    def inner_side(model):  # as the first convolution halves it
        return 2 * model.get_layer("stem").output_shape[1]

    (_, small), (_, default), (_, large) = (
        network("--preset", name) for name in ("small", "default", "large")
    )
    assert [inner_side(each) for each in (small, default, large)] == [64, 64, 128]
    assert small.count_params() < default.count_params() == large.count_params()
    assert network()[0] == network("--preset", "default")[0] == 1.25
    enlarge, changed = network("--preset", "small", "--enlarge", "2")
    assert (enlarge, inner_side(changed)) == (2, 128)
    assert changed.count_params() == small.count_params()


def test_data_set_smaller_than_a_batch_names_a_batch_size_that_fits(data_copy):
    flags = ["--models-dir", str(data_copy), "--encoder", "scratch", "--batch-size", "64"]
    words = "36 training images do not fill a batch; use --batch-size 36 or less"
    with pytest.raises(UserError, match=words):
        training.main(flags)


def test_failed_stage_leaves_the_old_model(run_copy):
    before = sha256(run_copy / "original_model.h5")
    shutil.rmtree(run_copy / "dataset")
    done = run_script("training.py", "--models-dir", run_copy)
    assert done.returncode == 2
    assert sha256(run_copy / "original_model.h5") == before


def test_resume_of_a_finished_training_with_more_epochs_does_not_replace_it(run_copy, monkeypatch):
    """It would begin with the first epoch, and cost the model."""
    before = sha256(run_copy / "original_model.h5")
    monkeypatch.setattr(training.loop, "fit", lambda *_, **__: pytest.fail("it was trained"))
    more = [*TRAINING, "--epochs", "9", "--resume"]
    with (
        small_network(),
        pytest.raises(UserError, match=r"is another \(--epochs is 9, was 3\); begin anew with"),
    ):
        training.main(["--models-dir", str(run_copy), *more])
    assert sha256(run_copy / "original_model.h5") == before


@pytest.mark.slow
def test_resume_of_an_unfinished_training_with_a_mistyped_flag_stops(data_copy, monkeypatch):
    """Neither is lost: not that of the right command, nor the time of the wrong one."""
    where, fit = ["--models-dir", str(data_copy), *TRAINING], training.loop.fit

    def stopped(stage, model, optimizer, phase, strategy):
        trained = fit(stage, model, optimizer, replace(phase, epochs=2), strategy)
        epochs.append(len(trained.history))
        raise Terminated

    epochs = []
    monkeypatch.setattr(training.loop, "fit", stopped)
    monkeypatch.setattr(training, "check_network", lambda *_: [])  # the same, minutes before
    with small_network():
        with pytest.raises(Terminated):
            training.main(where)
        with pytest.raises(UserError, match=r"--batch-size is 4, was 8\); go on with that: "):
            training.main([*where, "--batch-size", "4", "--resume"])
        with pytest.raises(Terminated):
            training.main([*where, "--resume"])
    assert epochs == [2, 2]


def test_encoder_gets_imagenet_weights_if_asked_for_or_if_the_network_has_one():
    compact, classic = (build((32, 32), 3) for build in networks.NETWORKS.values())
    before = compact.get_weights()
    assert imagenet.fill_encoder(classic, "auto") == []
    assert imagenet.fill_encoder(compact, "scratch") == []
    assert all((now == old).all() for now, old in zip(compact.get_weights(), before))
    filled = imagenet.fill_encoder(compact, "auto")
    assert filled == [  # all of the encoder, and nothing of the decoder
        layer.name
        for layer in compact.layers
        if layer.weights and layer.name.startswith(("stem", "block"))
    ]
    assert any((now != old).any() for now, old in zip(compact.get_weights(), before))
    with pytest.raises(UserError, match=r"classic_unet is missing.*--encoder scratch"):
        imagenet.fill_encoder(classic, "imagenet")


def test_network_of_the_user_is_checked_before_it_is_trained(data_copy, monkeypatch):
    """Else a fault would show after the last epoch, when the network is saved."""
    monkeypatch.setitem(
        networks.NETWORKS, "compact", lambda size, _: networks.classic_unet(size, 4)
    )
    monkeypatch.setattr(training.loop, "fit", lambda *_, **__: pytest.fail("it was trained"))
    with pytest.raises(UserError, match=r"line \d+\) maps .*; correct it"):
        training.main(["--models-dir", str(data_copy)])
