"""The training loop: it learns, keeps the best epoch, and stops where the loss is no number."""

import numpy as np
import pytest

from pipeline.base.console import UserError
from pipeline.base.lazy import keras, layers, tf
from pipeline.data.classes import make_classes
from pipeline.training import loop
from pipeline.training.input_pipeline import epoch_batches
from pipeline.training.losses import segmentation_loss
from tests.helpers.pictures import blobs
from tests.helpers.tiny_trainings import fit, plain_loss, state_file, tiny

# --- training -----------------------------------------------------------------------------


def test_training_learns():
    images, masks = blobs(32, 32)
    model, optimizer = tiny()
    step = loop.make_train_step(
        model,
        optimizer,
        tf.distribute.get_strategy(),
        plain_loss,
    )
    losses = [
        float(step(*batch))
        for epoch in range(25)
        for batch in epoch_batches(images, masks, 8, 7, epoch)
    ]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])


@pytest.fixture
def scripted(monkeypatch):
    """Validation that gives these values, epoch by epoch, and the weights that it was shown."""
    shown = []

    def script(*values):
        ahead = iter(values)

        def validation_iou(model, *_):
            shown.append(model.get_weights())
            return np.full(3, next(ahead))

        monkeypatch.setattr(loop, "validation_iou", validation_iou)
        return shown

    return script


@pytest.mark.parametrize(("choose_from", "best"), [(0, 1), (2, 3)])
def test_model_is_left_with_the_weights_of_its_best_epoch(stage, scripted, choose_from, best):
    """And of those only that may be chosen: while zeros still spread, a model is better but not
    yet pruned."""
    shown = scripted(0.3, 0.5, 0.35, 0.4)
    model, optimizer = tiny()
    history = fit(stage, model, optimizer, 4, choose_from=choose_from)
    assert [row["mean_iou"] for row in history] == [0.3, 0.5, 0.35, 0.4]
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert loop.best_epoch(history, choose_from) == best
    assert all((now == kept).all() for now, kept in zip(model.get_weights(), shown[best]))
    assert any((now != last).any() for now, last in zip(shown[1], shown[3]))


@pytest.mark.parametrize(("values", "best"), [((0.3, 0.6, 0.4, 0.5), 1), ((0.3, 0.4, 0.2, 0.5), 3)])
def test_second_part_counts_on_and_leaves_the_best_of_both(stage, scripted, values, best):
    shown = scripted(*values)
    model, optimizer = tiny()
    first = fit(stage, model, optimizer, 2, of=4)
    history = fit(stage, model, optimizer, 4, earlier=first)
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert [row["part"] for row in history] == [1, 1, 2, 2]
    assert all((now == kept).all() for now, kept in zip(model.get_weights(), shown[best]))


@pytest.mark.parametrize("better", ["mixed", "plain"])
def test_share_of_the_weights_at_the_start_is_kept_if_it_is_better(stage, scripted, better):
    """And changes no step. The better one of both is kept, epoch by epoch."""
    shown, start = scripted(0.3, 0.4), tiny()[0].get_weights()
    assert not any("start_share" in row for row in fit(stage, *tiny(), 2))
    scripted(*{"mixed": (0.3, 0.2, 0.4, 0.2), "plain": (0.2, 0.3, 0.2, 0.4)}[better])
    model, optimizer = tiny()
    history = fit(stage, model, optimizer, 2, start_share=0.25)
    assert [row["mean_iou"] for row in history] == [0.3, 0.4]
    assert {row["start_share"] for row in history} == {0.25 if better == "mixed" else 0.0}
    for before, mixed, same in zip(shown[:2], shown[2::2], shown[3::2], strict=True):
        for old, new, now, again in zip(start, before, mixed, same, strict=True):
            np.testing.assert_allclose(now, 0.25 * old + 0.75 * new, rtol=1e-5, atol=1e-7)
            assert (again == new).all()
    kept = shown[4 if better == "mixed" else 5]
    assert all((now == each).all() for now, each in zip(model.get_weights(), kept, strict=True))


def test_weights_are_prepared_before_they_are_validated_and_kept_so(stage, scripted):
    """As zeros are set again in an average, which the next step knows nothing of."""
    shown = scripted(0.3, 0.4)
    fit(stage, *tiny(), 2)
    scripted(0.3, 0.4)
    model, optimizer = tiny()
    kernel = model.layers[0].kernel

    def prepare():
        kernel.assign(tf.zeros_like(kernel))

    fit(stage, model, optimizer, 2, prepare=prepare)
    for before, after in zip(shown[:2], shown[2:], strict=True):
        assert (after[0] == 0).all() and (before[0] != 0).any()
        assert (after[1] == before[1]).all()
    assert (model.get_weights()[0] == 0).all()


def test_model_is_trained_through_another_on_its_weights(stage, scripted):
    """Here one that sees black pictures: so the kernel only decays, and the bias is learned."""
    scripted(0.3, 0.4)
    model, optimizer = tiny()
    kernel, bias = (each.copy() for each in model.get_weights())
    image = layers.Input((32, 32, 3))
    blind = keras.Model(image, model.layers[0](0.0 * image))
    fit(stage, model, optimizer, 2, through=blind)
    after = model.get_weights()
    shares = after[0] / kernel
    assert shares.min() > 0.9 and shares.max() < 1 and np.ptp(shares) < 1e-5
    assert np.abs(after[1] - bias).max() > 1e-3


def test_of_equal_epochs_the_first_is_the_best():
    history = [{"mean_iou": value} for value in (0.3, 0.5, 0.5)]
    assert loop.best_epoch(history) == 1


@pytest.mark.parametrize("number", [2, 3, 150])
def test_line_of_an_epoch_fits_a_terminal_and_names_the_worst_classes(number):
    names = tuple(f"class{k}" for k in range(number))
    row = {"epoch": 12, "loss": 1.0, "mean_iou": 0.5, "images_per_second": 99.0}
    row |= {f"iou_{name}": 0.9 - 0.005 * k for k, name in enumerate(names)}
    row["iou_class0"] = None  # neither in the validation split nor predicted
    line = loop.epoch_line(row, make_classes(names), 100, 12.0)
    assert len(line) <= 100 and "class0" not in line and "mIoU 0.5000" in line
    assert f"class{number - 1} {0.9 - 0.005 * (number - 1):.2f}" in line


# --- a loss that is not finite ------------------------------------------------------------


def breaks_after(optimizer, steps):
    """A loss that is NaN from this step on, as after too large a step."""

    def loss(images, masks, logits):
        broken = tf.where(optimizer.iterations >= steps, np.nan, 0.0)
        return segmentation_loss(masks, logits) + broken

    return loss


def test_loss_that_is_no_number_stops_the_training_and_says_what_to_do(stage):
    model, optimizer = tiny()
    with pytest.raises(UserError, match=r"loss of epoch 1 is not finite.*lower --learning-rate"):
        fit(stage, model, optimizer, 2, loss=breaks_after(optimizer, 3))
    left = state_file(stage).exists()
    assert not left, "a resumed run would go on with weights that are no numbers"


def test_epochs_before_a_loss_that_is_no_number_are_kept(stage, capsys):
    model, optimizer = tiny()
    with pytest.raises(UserError, match="loss of epoch 2 is not finite"):
        fit(stage, model, optimizer, 2, loss=breaks_after(optimizer, 6))
    model, optimizer = tiny()
    history = fit(stage, model, optimizer, 2, resume=True)
    assert "going on after epoch 1" in capsys.readouterr().out
    assert np.isfinite([row["loss"] for row in history]).all()
    assert all(np.isfinite(value).all() for value in model.get_weights())
