"""The training loop: steps, validation after each epoch, and the choice of the best epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pipeline.base.console import UserError, progress, say
from pipeline.base.identity import NOT_RESUMED, Resumption
from pipeline.base.lazy import keras, tf
from pipeline.base.stage import Stage
from pipeline.base.system import is_first_worker
from pipeline.data.classes import Classes
from pipeline.data.dataset import load_classes, load_split
from pipeline.inference.iou import mean_iou, split_iou
from pipeline.inference.keras_files import KerasModel
from pipeline.training import duration
from pipeline.training.checkpoints import TrainingState
from pipeline.training.epoch_rows import Row, best_epoch, epoch_line, rounded
from pipeline.training.hardware import say_where
from pipeline.training.input_pipeline import epoch_batches, steps_per_epoch
from pipeline.training.losses import Loss, Objective
from pipeline.training.optimizers import ema_weights
from pipeline.training.random_layers import seeded_layers


@dataclass(frozen=True)
class Phase:
    """One phase of a training: what is trained, for how long, and what is kept of it."""

    name: str  # of its checkpoint, see `checkpoints.state_path`
    epochs: int  # number of the last epoch; the epochs of the phases before count
    batch_size: int  # images per step, over all devices
    seed: int  # of order and augmentation
    resume: bool  # continue from the checkpoint, if there is one of the same run
    objective: Objective
    # Trained in the model's place: another network on the weights of the model, such as the
    # student of `views.distillation_pair`. None: the model itself.
    student: keras.Model | None = None
    # Called before each validation, when the weights to validate are in the model.
    before_validation: Callable[[], None] | None = None
    first_choice: int = 0  # first epoch, counted from 0, that may be chosen as the best
    history: Sequence[Row] = ()  # of the phases before, which left their best weights in the model
    resumption: Resumption = NOT_RESUMED  # of the phases before
    # Weight of the weights that the model has now in the mean that is validated beside the EMA
    # weights, see `optimizers.ema_weights`. 0: EMA weights alone.
    wise_ft_weight: float = 0.0
    total_epochs: int | None = None  # of all phases, for progress and duration; None: `epochs`


class Trained(NamedTuple):
    """The result of a training phase."""

    # A row per epoch, those of the phases before first: epoch (from 1), part (1, or 2 if there
    # were phases before), wise_ft_weight (of the weights kept; only where the phase asks for one),
    # loss (mean over the steps), mean_iou, iou_CLASS of each class (None for a class that is
    # neither in the validation split nor predicted), learning_rate, images_per_second.
    history: list[Row]
    resumption: Resumption  # for the record: accepted edits, other numbers of threads before


def make_train_step(
    network: keras.Model,
    optimizer: Any,
    strategy: tf.distribute.Strategy,
    objective: Loss,
) -> Callable[..., tf.Tensor]:
    """Compile a training step over all devices of a strategy.

    The losses of the network's own regularisers are added.

    Args:
        network: the model that is called and whose trainable weights are updated.
        optimizer: built for these weights.
        objective: as in `Phase`.

    Returns:
        A function of a batch of float32 images in 0..1 and int32 masks, as the strategy
        distributes them, to the float32 loss, averaged over the devices.
    """

    def step(images: tf.Tensor, masks: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            value = objective(images, masks, network(images, training=True))
            if network.losses:  # regularisers of its layers
                value += tf.add_n(network.losses)
            share = value / strategy.num_replicas_in_sync  # gradients are summed over devices
        gradients = tape.gradient(share, network.trainable_variables)
        optimizer.apply_gradients(zip(gradients, network.trainable_variables))
        return value

    def step_on_all_devices(images: Any, masks: Any) -> tf.Tensor:
        return strategy.reduce("MEAN", strategy.run(step, (images, masks)), axis=None)

    return tf.function(step_on_all_devices)


def fit(
    stage: Stage,
    model: keras.Model,
    optimizer: Any,
    phase: Phase,
    strategy: tf.distribute.Strategy | None = None,
) -> Trained:
    """Train a model and leave it with the weights of its best epoch by validation mean IoU.

    With an optimizer that keeps an average of the weights, this average is what is validated and
    kept. The checkpoint stays until the caller has put the model in place and calls
    `checkpoints.forget`.

    Args:
        stage: names the models folder and identifies the run in the checkpoint.
        model: from float32 images (batch, height, width, 3) in 0..1 to float32 logits (batch,
            height, width, classes); built in the scope of the strategy.
        optimizer: see `optimizers.make_optimizer`.
        strategy: None: the default one, which uses one device.

    Raises:
        UserError: there are fewer images than a batch has, or the loss is not finite.
    """
    train, validation = (load_split(stage.models_dir, name) for name in ("train", "validation"))
    classes = load_classes(stage.models_dir)
    steps = steps_per_epoch(len(train[0]), phase.batch_size)
    strategy, network = strategy or tf.distribute.get_strategy(), phase.student or model
    with strategy.scope():
        optimizer.build(model.trainable_variables)
    step = make_train_step(network, optimizer, strategy, phase.objective)
    state = TrainingState(stage, phase.name, model, optimizer, phase.resumption)
    start = model.get_weights()
    state.history, state.best = list(phase.history), start
    state.restore(phase.resume, strategy)
    if not phase.history and len(state.history) < phase.epochs:
        say_where(strategy)
    total, predictor = phase.total_epochs or phase.epochs, KerasModel(model)

    with seeded_layers(network, phase.seed, strategy) as begin_epoch:
        if not state.history:
            begin_epoch(0)
            batches = distributed_batches(train, phase, 0, classes.ignored, strategy)
            seconds = duration.seconds_per_step(step, batches, state.variables)
            size = steps, phase.batch_size, len(validation[0])
            duration.say_how_long(stage, phase.epochs, duration.minutes_of(total, *size, seconds))
        for epoch in range(len(state.history), phase.epochs):
            begin_epoch(epoch)
            started = time.monotonic()
            batches = distributed_batches(train, phase, epoch, classes.ignored, strategy)
            with progress(f"epoch {epoch + 1}/{total}", steps, "steps") as bar:
                loss = mean_loss(step, batches, bar)
            rate = steps * phase.batch_size / (time.monotonic() - started)
            if not np.isfinite(loss):
                raise UserError(
                    f"the loss of epoch {epoch + 1} is not finite; nothing was written. "
                    "Train with a lower --learning-rate"
                )
            validated = best_candidate(model, optimizer, phase, start, predictor, validation)
            figures = {"loss": loss, "learning_rate": optimizer.learning_rate.numpy()}
            figures["images_per_second"] = rate
            state.history.append(history_row(epoch, phase, classes, validated, figures))
            if best_epoch(state.history, phase.first_choice) == epoch:
                state.best = validated.weights
            state.save(is_first_worker())
            minutes = (total - epoch - 1) * (time.monotonic() - started) / 60
            say(epoch_line(state.history[-1], classes, total, minutes))
    model.set_weights(state.best)
    return Trained(state.history, state.resumption)


def distributed_batches(
    split: tuple[Any, Any],
    phase: Phase,
    epoch: int,
    ignored: bool,
    strategy: tf.distribute.Strategy,
) -> Iterable[Any]:
    """The batches of an epoch, each as `make_train_step` takes it.

    Args:
        split: images and masks, see `input_pipeline.epoch_batches`.
        epoch: counted from 0.
        ignored: whether masks may hold IGNORED.
    """

    def batches_of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        workers = context.num_input_pipelines
        devices = strategy.num_replicas_in_sync // workers
        layout = (context.input_pipeline_id, workers, devices, ignored)
        mirror = phase.objective.mirror
        return epoch_batches(*split, phase.batch_size, phase.seed, epoch, *layout, mirror)

    return strategy.distribute_datasets_from_function(batches_of_worker)


def mean_loss(step: Callable[..., tf.Tensor], batches: Iterable[Any], bar: Any) -> float:
    """Steps through the batches of an epoch; returns the mean of the losses.

    Args:
        step: see `make_train_step`.
        bar: moves on after each step.
    """
    losses = []
    for batch in batches:
        losses.append(step(*batch))
        bar.update()
    return float(np.mean([float(value) for value in losses]))


class Candidate(NamedTuple):
    """A set of weights that was validated after an epoch."""

    wise_ft_weight: float  # see `Phase`
    iou: np.ndarray  # float64 (classes,), see `split_iou`
    weights: list[np.ndarray]  # as `get_weights` orders them


def best_candidate(
    model: keras.Model,
    optimizer: Any,
    phase: Phase,
    start: list[np.ndarray],
    predictor: KerasModel,
    validation: tuple[Any, Any],
) -> Candidate:
    """Validates the EMA weights and, if the phase asks for it, their mean with those of before.

    Args:
        start: the weights before the phase.
        validation: images and masks of the split.

    Returns:
        The candidate of the higher mean IoU. The model has the weights of the last step, as before.
    """
    candidates = []
    for weight in sorted({phase.wise_ft_weight, 0.0}, reverse=True):
        with ema_weights(model, optimizer, start, weight):
            if phase.before_validation:
                phase.before_validation()
            iou = split_iou(predictor, *validation)
            candidates.append(Candidate(weight, iou, model.get_weights()))
    return max(candidates, key=lambda candidate: mean_iou(candidate.iou))


def history_row(
    epoch: int, phase: Phase, classes: Classes, validated: Candidate, figures: dict[str, float]
) -> Row:
    """The row of an epoch, see `Trained`.

    Args:
        epoch: counted from 0.
        figures: loss, learning_rate, images_per_second.
    """
    row: Row = {"wise_ft_weight": validated.wise_ft_weight} if phase.wise_ft_weight else {}
    row |= {"loss": figures["loss"], "mean_iou": mean_iou(validated.iou)}
    row |= {f"iou_{name}": value for name, value in zip(classes.names, validated.iou)}
    row |= figures
    part = 2 if phase.history else 1
    return {"epoch": epoch + 1, "part": part, **{key: rounded(row[key]) for key in row}}
