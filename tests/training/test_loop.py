"""The training loop: it learns, keeps the best epoch, and stops if the loss is not finite."""

import numpy as np
import pytest

from pipeline.base.console import UserError
from pipeline.base.identity import Resumption
from pipeline.base.lazy import keras, layers, tf, tfmot
from pipeline.data.classes import make_classes
from pipeline.pruning import magnitude
from pipeline.training import loop
from pipeline.training.epoch_rows import best_epoch, epoch_line
from pipeline.training.input_pipeline import epoch_batches
from pipeline.training.losses import Objective, segmentation_loss
from pipeline.training.optimizers import make_optimizer
from tests.helpers.pictures import blobs
from tests.helpers.tiny_trainings import fit, state_file, tiny, train

# --- training -----------------------------------------------------------------------------


@pytest.mark.slow
def test_training_learns():
    images, masks = blobs(32, 32)
    model, optimizer = tiny()
    step = loop.make_train_step(
        model,
        optimizer,
        tf.distribute.get_strategy(),
        Objective(),
    )
    losses = [
        float(step(*batch))
        for epoch in range(25)
        for batch in epoch_batches(images, masks, 8, 7, epoch)
    ]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])


@pytest.mark.parametrize("wrapped", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_regularisers_of_layers_are_part_of_the_loss(wrapped):
    """An L2 of 10 changed no bit. Also where a layer is wrapped to be pruned."""
    images, masks = blobs(8, 32)
    losses, kernels = [], []
    for strength in (0.0, 10.0):
        squares = keras.regularizers.l2(strength) if strength else None
        model, _ = tiny(layers.Conv2D(3, 1, kernel_regularizer=squares, name="regularised"))
        layer = model.layers[-1]
        expected = strength * float(tf.reduce_sum(layer.kernel**2))
        if wrapped:
            model = magnitude.wrap(model, {"regularised": 0.5}, 100)
            callback = tfmot.sparsity.keras.UpdatePruningStep()
            callback.set_model(model)
            callback.on_train_begin()
        optimizer = make_optimizer(100, 1e-2, 0)
        optimizer.build(model.trainable_variables)
        step = loop.make_train_step(model, optimizer, tf.distribute.get_strategy(), Objective())
        losses.append(float(step(*next(iter(epoch_batches(images, masks, 8, 7, 0))))))
        kernels.append(layer.kernel.numpy())
    assert losses[1] - losses[0] == pytest.approx(expected, rel=1e-4)
    assert np.abs(kernels[1] - kernels[0]).max() > 0


@pytest.fixture
def scripted(monkeypatch):
    """Makes validation return given values, one per call; returns the weights that it validated."""
    validated = []

    def script(*values):
        remaining = iter(values)

        def split_iou(predictor, *_):
            validated.append(predictor.model.get_weights())
            return np.full(3, next(remaining))

        monkeypatch.setattr(loop, "split_iou", split_iou)
        return validated

    return script


@pytest.mark.parametrize(("first_choice", "best"), [(0, 1), (2, 3)])
def test_model_is_left_with_the_weights_of_its_best_epoch(stage, scripted, first_choice, best):
    """Of the epochs that may be chosen: before full sparsity, a model is better but not pruned."""
    validated = scripted(0.3, 0.5, 0.35, 0.4)
    model, optimizer = tiny()
    history = fit(stage, model, optimizer, 4, first_choice=first_choice)
    assert [row["mean_iou"] for row in history] == [0.3, 0.5, 0.35, 0.4]
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert best_epoch(history, first_choice) == best
    assert all((now == kept).all() for now, kept in zip(model.get_weights(), validated[best]))
    assert any((now != last).any() for now, last in zip(validated[1], validated[3]))


@pytest.mark.parametrize(("values", "best"), [((0.3, 0.6, 0.4, 0.5), 1), ((0.3, 0.4, 0.2, 0.5), 3)])
def test_second_phase_counts_on_and_leaves_the_best_of_both(stage, scripted, values, best):
    validated = scripted(*values)
    model, optimizer = tiny()
    first = fit(stage, model, optimizer, 2, total_epochs=4)
    history = fit(stage, model, optimizer, 4, history=first)
    assert len(first) == 2, "the history of the first phase is not changed in place"
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert [row["part"] for row in history] == [1, 1, 2, 2]
    assert all((now == kept).all() for now, kept in zip(model.get_weights(), validated[best]))


def test_resumption_of_the_phases_before_is_passed_on(stage):
    before = Resumption(("losses.py was edited",), (3,))
    assert train(stage, *tiny()).resumption == Resumption()
    assert train(stage, *tiny(), resumption=before).resumption == before


def test_validation_is_compiled_once_and_not_once_per_epoch(stage, monkeypatch):
    predictors = []

    class CountedPredictor(loop.KerasModel):
        def __init__(self, model):
            super().__init__(model)
            predictors.append(self)

    monkeypatch.setattr(loop, "KerasModel", CountedPredictor)
    fit(stage, *tiny(), 3, wise_ft_weight=0.25)
    (predictor,) = predictors
    assert predictor._class_maps.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("better", ["mixed", "plain"])
def test_wise_ft_mean_is_kept_in_an_epoch_where_it_is_better(stage, scripted, better):
    """The steps do not depend on it."""
    validated, start = scripted(0.3, 0.4), tiny()[0].get_weights()
    assert not any("wise_ft_weight" in row for row in fit(stage, *tiny(), 2))
    scripted(*{"mixed": (0.3, 0.2, 0.4, 0.2), "plain": (0.2, 0.3, 0.2, 0.4)}[better])
    model, optimizer = tiny()
    history = fit(stage, model, optimizer, 2, wise_ft_weight=0.25)
    assert [row["mean_iou"] for row in history] == [0.3, 0.4]
    assert {row["wise_ft_weight"] for row in history} == {0.25 if better == "mixed" else 0.0}
    without, mixed_and_plain = validated[:2], (validated[2::2], validated[3::2])
    for before, mixed, plain in zip(without, *mixed_and_plain, strict=True):
        for old, new, now, again in zip(start, before, mixed, plain, strict=True):
            np.testing.assert_allclose(now, 0.25 * old + 0.75 * new, rtol=1e-5, atol=1e-7)
            assert (again == new).all()
    best = validated[4 if better == "mixed" else 5]
    assert all((now == kept).all() for now, kept in zip(model.get_weights(), best, strict=True))


def test_hook_changes_the_weights_that_are_validated_and_kept_but_not_those_of_the_next_step(
    stage, scripted
):
    """As pruning sets the zeros in EMA weights."""
    validated = scripted(0.3, 0.4)
    fit(stage, *tiny(), 2)
    scripted(0.3, 0.4)
    model, optimizer = tiny()
    kernel = model.layers[0].kernel

    def set_to_zero():
        kernel.assign(tf.zeros_like(kernel))

    fit(stage, model, optimizer, 2, before_validation=set_to_zero)
    for before, after in zip(validated[:2], validated[2:], strict=True):
        assert (after[0] == 0).all() and (before[0] != 0).any()
        assert (after[1] == before[1]).all()
    assert (model.get_weights()[0] == 0).all()


def test_student_is_trained_in_the_place_of_the_model(stage, scripted):
    """Here it sees black images: so the kernel only decays, and the bias is learned."""
    scripted(0.3, 0.4)
    model, optimizer = tiny()
    kernel, bias = (weight.copy() for weight in model.get_weights())
    image = layers.Input((32, 32, 3))
    student = keras.Model(image, model.layers[0](0.0 * image))
    fit(stage, model, optimizer, 2, student=student)
    after = model.get_weights()
    ratios = after[0] / kernel
    assert ratios.min() > 0.9 and ratios.max() < 1 and np.ptp(ratios) < 1e-5
    assert np.abs(after[1] - bias).max() > 1e-3


def test_of_equal_epochs_the_first_is_the_best():
    history = [{"mean_iou": value} for value in (0.3, 0.5, 0.5)]
    assert best_epoch(history) == 1


@pytest.mark.parametrize("number", [2, 3, 150])
def test_line_of_an_epoch_fits_a_terminal_and_names_the_worst_classes(number):
    names = tuple(f"class{k}" for k in range(number))
    row = {"epoch": 12, "loss": 1.0, "mean_iou": 0.5, "images_per_second": 99.0}
    row |= {f"iou_{name}": 0.9 - 0.005 * k for k, name in enumerate(names)}
    row["iou_class0"] = None  # neither in the validation split nor predicted
    line = epoch_line(row, make_classes(names), 100, 12.0)
    assert len(line) <= 100 and "class0" not in line and "mIoU 0.5000" in line
    assert f"class{number - 1} {0.9 - 0.005 * (number - 1):.2f}" in line


# --- a loss that is not finite ------------------------------------------------------------


def nan_from(optimizer, steps):
    """An objective that is NaN from this step on, as when training diverges."""

    class Diverging(Objective):
        def __call__(self, images, masks, logits):
            nan = tf.where(optimizer.iterations >= steps, np.nan, 0.0)
            return segmentation_loss(masks, logits) + nan

    return Diverging()


def test_loss_that_is_not_finite_stops_the_training_with_a_remedy(stage):
    model, optimizer = tiny()
    with pytest.raises(UserError, match=r"loss of epoch 1 is not finite.*lower --learning-rate"):
        fit(stage, model, optimizer, 2, objective=nan_from(optimizer, 3))
    assert not state_file(stage).exists(), "a resumed run would continue with weights that are NaN"


def test_epochs_before_a_loss_that_is_not_finite_are_kept(stage, capsys):
    model, optimizer = tiny()
    with pytest.raises(UserError, match="loss of epoch 2 is not finite"):
        fit(stage, model, optimizer, 2, objective=nan_from(optimizer, 6))
    model, optimizer = tiny()
    history = fit(stage, model, optimizer, 2, resume=True)
    assert "going on after epoch 1" in capsys.readouterr().out
    assert np.isfinite([row["loss"] for row in history]).all()
    assert all(np.isfinite(value).all() for value in model.get_weights())
