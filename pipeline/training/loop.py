"""The training loop: steps, progress, what is validated and kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.base.console import UserError, progress, say
from pipeline.base.lazy import keras, tf
from pipeline.base.stage import Stage
from pipeline.base.system import is_first_worker
from pipeline.data.classes import Classes
from pipeline.data.dataset import load_classes, load_split
from pipeline.inference.iou import mean_iou
from pipeline.inference.keras_files import validation_iou
from pipeline.training.checkpoints import TrainingState
from pipeline.training.input_pipeline import epoch_batches, steps_per_epoch
from pipeline.training.optimizers import averaged

LINE = 100  # columns of the line that is printed after each epoch


def make_train_step(
    through: keras.Model,
    optimizer: Any,
    strategy: tf.distribute.Strategy,
    loss: Callable[..., tf.Tensor],
) -> Callable[..., tf.Tensor]:
    """A compiled step over all devices: (images, masks) -> loss."""

    def step(images: tf.Tensor, masks: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            value = loss(images, masks, through(images, training=True))
            share = value / strategy.num_replicas_in_sync  # gradients are summed over devices
        gradients = tape.gradient(share, through.trainable_variables)
        optimizer.apply_gradients(zip(gradients, through.trainable_variables))
        return value

    def everywhere(images: Any, masks: Any) -> tf.Tensor:
        return strategy.reduce("MEAN", strategy.run(step, (images, masks)), axis=None)

    return tf.function(everywhere)


def fit(
    model: keras.Model,
    optimizer: Any,
    stage: Stage,
    name: str,
    *,
    epochs: int,
    loss: Callable[..., tf.Tensor],
    strategy: tf.distribute.Strategy | None = None,
    through: keras.Model | None = None,
    prepare: Callable[[], None] = lambda: None,
    choose_from: int = 0,
    earlier: list[dict[str, float]] | None = None,
    start_share: float = 0.0,
    of: int | None = None,
) -> list[dict[str, float]]:
    """Trains a model and leaves it with the weights of its best epoch by validation mean IoU.

    The stage's arguments say in what batches, with which seed, and whether to go on from an
    unfinished run of the same identity (see stages.py). With an averaging optimizer it is averaged
    weights that are validated and kept. The state stays until whoever called has put the model in
    place and calls `training_states.forget`.

    Args:
        epochs: how many there are after this, earlier ones counted.
        loss: takes float32 images, int32 masks and float32 logits, gives a scalar.
        through: the model to train in its place, on its weights (`networks.teaching_views`).
        prepare: called when the weights that are to be validated are in the model.
        choose_from: the first epoch, counted from 0, that may be the best.
        earlier: what another part of the training returned, which left the model as it is.
        start_share: of the weights that the model has now, in the average (see `averaged`), where
            that is better than the average alone.
        of: how many epochs all parts have together, for what is printed.

    Returns:
        A row per epoch, earlier ones first: epoch, part, start_share (as kept, where one was
        given), loss, mean_iou, iou_CLASS of each class (None for one that is neither in the
        validation split nor predicted), learning_rate, images_per_second.

    Raises:
        UserError: the data do not fill a batch, or the loss is not finite.
    """
    images, masks = load_split(stage.models_dir, "train")
    validation, classes = load_split(stage.models_dir, "validation"), load_classes(stage.models_dir)
    batch_size, seed = stage.arguments.batch_size, stage.arguments.seed
    steps = steps_per_epoch(len(images), batch_size)
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        optimizer.build(model.trainable_variables)
    step = make_train_step(through or model, optimizer, strategy, loss)
    state = TrainingState(stage, name, model, optimizer)
    start = model.get_weights()
    state.history, state.best = list(earlier or []), start
    if stage.arguments.resume:
        state.restore()
    of, part = of or epochs, 2 if earlier else 1
    chief, history = is_first_worker(), state.history

    for epoch in range(len(history), epochs):

        def share(context: tf.distribute.InputContext, epoch: int = epoch) -> tf.data.Dataset:
            workers = context.num_input_pipelines
            devices = strategy.num_replicas_in_sync // workers
            place = context.input_pipeline_id
            where = (place, workers, devices, classes.ignored)
            return epoch_batches(images, masks, batch_size, seed, epoch, *where)

        started, losses = time.time(), []
        with progress(f"epoch {epoch + 1}/{of}", steps, "steps") as bar:
            for batch in strategy.distribute_datasets_from_function(share):
                losses.append(step(*batch))
                bar.update()
        rate = steps * batch_size / (time.time() - started)
        mean_loss = np.mean([float(value) for value in losses])
        if not np.isfinite(mean_loss):
            raise UserError(
                f"the loss of epoch {epoch + 1} is not finite; nothing was written. "
                "Train with a lower --learning-rate"
            )
        tried = []
        for each in sorted({start_share, 0.0}, reverse=True):
            with averaged(model, optimizer, start, each):
                prepare()
                tried.append((each, validation_iou(model, *validation), model.get_weights()))
        kept, iou, weights = max(tried, key=lambda one: mean_iou(one[1]))
        row = {"start_share": kept} if start_share else {}
        row |= {"loss": mean_loss, "mean_iou": mean_iou(iou)}
        row |= {f"iou_{key}": value for key, value in zip(classes.names, iou)}
        row |= {"learning_rate": optimizer.learning_rate.numpy(), "images_per_second": rate}
        row = {key: rounded(value) for key, value in row.items()}
        history.append({"epoch": epoch + 1, "part": part, **row})
        if best_epoch(history, choose_from) == epoch:
            state.best = weights
        state.save(chief)
        minutes = (of - epoch - 1) * (time.time() - started) / 60
        say(epoch_line(history[-1], classes, of, minutes))
    model.set_weights(state.best)
    return history


def best_epoch(history: list[dict[str, float]], choose_from: int = 0) -> int:
    """The place in the history of the highest validation mean IoU; -1 if there is none."""
    places = range(choose_from, len(history))
    return max(places, key=lambda place: history[place]["mean_iou"], default=-1)


def rounded(value: Any) -> float | None:
    """A number to six places; None for one that is not there (NaN)."""
    return round(float(value), 6) if np.isfinite(value) else None


def epoch_line(row: dict[str, float | None], classes: Classes, epochs: int, minutes: float) -> str:
    """An epoch in one line of at most LINE columns: of many classes, those of the lowest IoU."""
    head = f"epoch {row['epoch']:3}/{epochs}  loss {row['loss']:.4f}  mIoU {row['mean_iou']:.4f} ("
    tail = f")  {row['images_per_second']:.0f}/s  {minutes:.0f} min left"
    iou = {name: row[f"iou_{name}"] for name in classes.names if row[f"iou_{name}"] is not None}
    shown = [f"{name} {value:.2f}" for name, value in iou.items()]
    if len(head + ", ".join(shown) + tail) > LINE:
        shown = [f"{name} {iou[name]:.2f}" for name in sorted(iou, key=iou.get)]
    while len(head + ", ".join(shown) + tail) > LINE:
        shown.pop()
    return head + ", ".join(shown) + tail
