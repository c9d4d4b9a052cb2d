"""The training loop: it learns, keeps the best epoch, and goes on only from what is its own."""

import errno
from pathlib import Path

import numpy as np
import pytest
from conftest import blobs

import training
from pipeline import fitting, stages, training_states
from pipeline.batches import epoch_batches
from pipeline.classes import make_classes
from pipeline.console import UserError
from pipeline.losses import segmentation_loss
from pipeline.optimizers import make_optimizer
from pipeline.packages import keras, layers, tf
from pipeline.stages import Stage


def tiny(*more):
    """A network of one convolution and then the layers in `more`, with its optimizer."""
    keras.utils.set_random_seed(0)
    convolution = layers.Conv2D(3, 3, padding="same")
    model = keras.Sequential([layers.Input((32, 32, 3)), convolution, *more])
    optimizer = make_optimizer(100, 1e-2, 5)
    optimizer.build(model.trainable_variables)
    return model, optimizer


@pytest.fixture
def make_stage(data_copy):
    def make(*arguments):
        return Stage(
            training.__file__, training.parse(["--models-dir", str(data_copy), *arguments])
        )

    return make


@pytest.fixture
def stage(make_stage):
    return make_stage()


@pytest.fixture
def state_file(stage):
    return training_states.state_path(stage.models_dir, "tiny")


def plain_loss(images, masks, logits):
    return segmentation_loss(masks, logits)


def fit(stage, model, optimizer, epochs=1, resume=False, **more):
    """36 training images in batches of 8: four steps an epoch."""
    vars(stage.arguments).update(batch_size=8, seed=7, resume=resume)
    how = {"epochs": epochs, "loss": plain_loss} | more
    return fitting.fit(model, optimizer, stage, "tiny", **how)


# --- training -----------------------------------------------------------------------------


def test_training_learns():
    images, masks = blobs(32, 32)
    model, optimizer = tiny()
    step = fitting.make_train_step(
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

        monkeypatch.setattr(fitting, "validation_iou", validation_iou)
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
    assert fitting.best_epoch(history, choose_from) == best
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
    assert fitting.best_epoch(history) == 1


@pytest.mark.parametrize("number", [2, 3, 150])
def test_line_of_an_epoch_fits_a_terminal_and_names_the_worst_classes(number):
    names = tuple(f"class{k}" for k in range(number))
    row = {"epoch": 12, "loss": 1.0, "mean_iou": 0.5, "images_per_second": 99.0}
    row |= {f"iou_{name}": 0.9 - 0.005 * k for k, name in enumerate(names)}
    row["iou_class0"] = None  # neither in the validation split nor predicted
    line = fitting.epoch_line(row, make_classes(names), 100, 12.0)
    assert len(line) <= 100 and "class0" not in line and "mIoU 0.5000" in line
    assert f"class{number - 1} {0.9 - 0.005 * (number - 1):.2f}" in line


# --- a loss that is not finite ------------------------------------------------------------


def breaks_after(optimizer, steps):
    """A loss that is NaN from this step on, as after too large a step."""

    def loss(images, masks, logits):
        broken = tf.where(optimizer.iterations >= steps, np.nan, 0.0)
        return segmentation_loss(masks, logits) + broken

    return loss


def test_loss_that_is_no_number_stops_the_training_and_says_what_to_do(stage, state_file):
    model, optimizer = tiny()
    with pytest.raises(UserError, match=r"loss of epoch 1 is not finite.*lower --learning-rate"):
        fit(stage, model, optimizer, 2, loss=breaks_after(optimizer, 3))
    assert not state_file.exists(), "a resumed run would go on with weights that are no numbers"


def test_epochs_before_a_loss_that_is_no_number_are_kept(stage, state_file, capsys):
    model, optimizer = tiny()
    with pytest.raises(UserError, match="loss of epoch 2 is not finite"):
        fit(stage, model, optimizer, 2, loss=breaks_after(optimizer, 6))
    model, optimizer = tiny()
    history = fit(stage, model, optimizer, 2, resume=True)
    assert "going on after epoch 1" in capsys.readouterr().out
    assert np.isfinite([row["loss"] for row in history]).all()
    assert all(np.isfinite(value).all() for value in model.get_weights())


# --- going on -----------------------------------------------------------------------------


def saved_state(stage, model, optimizer):
    state = training_states.TrainingState(stage, "tiny", model, optimizer)
    state.history, state.best = [{"mean_iou": 0.5}], model.get_weights()
    state.save()


def test_resume_after_other_settings_begins_anew(make_stage, capsys):
    model, optimizer = tiny()
    saved_state(make_stage("--epochs", "3"), model, optimizer)
    model.set_weights([np.zeros_like(value) for value in model.get_weights()])
    other = training_states.TrainingState(make_stage("--epochs", "4"), "tiny", model, optimizer)
    other.restore()
    assert other.history == []
    assert "(--epochs is 4, was 3); beginning anew" in capsys.readouterr().out
    assert all((now == 0).all() for now in model.get_weights())
    same = training_states.TrainingState(make_stage("--epochs", "3"), "tiny", model, optimizer)
    same.restore()
    assert same.history == [{"mean_iou": 0.5}]
    assert any((now != 0).any() for now in model.get_weights())


def test_resume_on_another_number_of_threads_says_so_and_goes_on(stage, monkeypatch, capsys):
    """Sums over other threads are other bits; the record says on how many each part ran."""
    monkeypatch.setattr(training_states, "tensorflow_threads", lambda: 2)
    monkeypatch.setattr(stages.processes, "tensorflow_threads", lambda: 2)
    saved_state(stage, *tiny())
    training_states.TrainingState(stage, "tiny", *tiny()).restore()
    assert "threads" not in capsys.readouterr().out
    assert "threads_before" not in stage.record("0", {}) and stage.record("0", {})["threads"] == 2
    monkeypatch.setattr(training_states, "tensorflow_threads", lambda: 1)
    monkeypatch.setattr(stages.processes, "tensorflow_threads", lambda: 1)
    state = training_states.TrainingState(stage, "tiny", *tiny())
    state.restore()
    assert len(state.history) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "going on after epoch 1"
    assert said[1].startswith("on 1 threads, after epochs on 2: the weights will not be")
    record = stage.record("0", {})
    assert (record["threads"], record["threads_before"]) == (1, [2])
    state.save()  # and a second kill forgets none of it
    training_states.TrainingState(stage, "tiny", *tiny()).restore()
    assert stage.record("0", {})["threads_before"] == [2]


DAMAGES = {
    "cut short": lambda content: content[: len(content) // 2],
    "empty": lambda _: b"",
    "garbage": lambda content: bytes(len(content)),
    "other bytes within": lambda content: content[:2000] + b"\xff" * 40 + content[2040:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_state_is_one_line_and_a_new_beginning(stage, state_file, capsys, damage):
    first = fit(stage, *tiny())
    state_file.write_bytes(DAMAGES[damage](state_file.read_bytes()))
    capsys.readouterr()
    again = fit(stage, *tiny(), resume=True)
    said = [line for line in capsys.readouterr().out.splitlines() if "epoch " not in line]
    assert said == [f"{state_file} is damaged; beginning anew"]
    assert again[0]["loss"] == first[0]["loss"]
    assert fit(stage, *tiny(), resume=True) == again, "the new state can be read"


@pytest.mark.parametrize("more", [0, 1], ids=["none", "a layer"])
def test_state_of_another_network_is_not_assigned(stage, capsys, more):
    """Not even the weights that would fit: half of one network in another is neither."""
    saved_state(stage, *tiny(layers.Conv2D(3, 3, padding="same"), layers.Conv2D(3, 1)))
    model, optimizer = tiny(*[layers.Conv2D(3, 5, padding="same")] * more)
    before = [np.zeros_like(value) for value in model.get_weights()]
    model.set_weights(before)
    state = training_states.TrainingState(stage, "tiny", model, optimizer)
    state.restore()
    assert "is of another network; beginning anew" in capsys.readouterr().out
    assert state.history == [] and state.best == []
    assert all((now == 0).all() for now in model.get_weights())


def test_state_stays_until_it_is_forgotten(stage, state_file, capsys, monkeypatch):
    """A kill between the last epoch and the finished model costs no training."""
    model, optimizer = tiny()
    history = fit(stage, model, optimizer, 2)
    assert state_file.exists()
    later, optimizer = tiny()
    capsys.readouterr()
    assert fit(stage, later, optimizer, 2, resume=True) == history
    assert capsys.readouterr().out == "going on after epoch 2\n"
    assert all((a == b).all() for a, b in zip(later.get_weights(), model.get_weights()))
    training_states.forget(stage, "other")
    assert state_file.exists()
    training_states.forget(stage, "tiny")
    assert not state_file.exists()
    unlink = errno.EROFS, "Read-only file system"  # said of what is not there, too
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(OSError(*unlink)))
    training_states.forget(stage, "tiny")  # and a second time is no fault


def test_state_that_outlived_its_run_goes_and_another_ones_stays(make_stage):
    """A kill right before the state was forgotten; or an unfinished run of other settings."""
    stage = make_stage("--epochs", "3")
    saved_state(stage, *tiny())
    path = training_states.state_path(stage.models_dir, "tiny")
    training_states.forget(make_stage("--epochs", "4"), "tiny", ours_only=True)
    assert path.exists()
    training_states.forget(stage, "tiny", ours_only=True)
    assert not path.exists()
    path.write_bytes(b"damaged")
    training_states.forget(stage, "tiny", ours_only=True)
    assert path.exists()


def test_state_of_a_run_that_is_not_resumed_is_replaced(stage, state_file):
    fit(stage, *tiny(), 2)
    assert len(fit(stage, *tiny(), 1)) == 1
    assert len(fit(stage, *tiny(), 1, resume=True)) == 1
