"""The training loop: steps, progress, and going on after a kill."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts import DAMAGED, atomic
from pipeline.batches import epoch_batches, steps_per_epoch
from pipeline.classes import Classes
from pipeline.console import UserError, progress, say
from pipeline.dataset import load_classes, load_split
from pipeline.keras_models import validation_iou
from pipeline.metrics import mean_iou
from pipeline.optimizers import averaged
from pipeline.packages import keras, tf
from pipeline.processes import is_first_worker, tensorflow_threads
from pipeline.stages import Stage, differences

LINE = 100  # columns of the line that is printed after each epoch

# --- going on after a kill ----------------------------------------------------------------


def state_path(models_dir: Path, name: str) -> Path:
    """Where the state of an unfinished training lies, until its model and record are in place."""
    return models_dir / f".{name}_training_state.npz"


class TrainingState:
    """All that a killed run needs to go on: one file, written after each epoch and renamed."""

    def __init__(self, stage: Stage, name: str, model: keras.Model, optimizer: Any) -> None:
        self.stage, self.path = stage, state_path(stage.models_dir, name)
        self.variables = [*model.variables, *optimizer.variables]
        self.history: list[dict[str, float]] = []
        self.best: list[np.ndarray] = []  # the model's weights at the best epoch

    def save(self, chief: bool = True) -> None:
        """Writes everything after a finished epoch.

        All workers call it: to read a variable they may have to average what each of them
        holds. Only the chief writes.
        """
        values = {f"now{k}": v.numpy() for k, v in enumerate(self.variables)}
        if not chief:
            return
        values |= {f"best{k}": v for k, v in enumerate(self.best)}
        threads = [*self.stage.threads_before, tensorflow_threads()]
        kept = {"identity": self.stage.identity(), "history": self.history, "threads": threads}
        about = json.dumps(kept)
        with atomic(self.path) as temporary:
            np.savez(temporary, about=about, **values)

    def restore(self) -> None:
        """Goes back to the last finished epoch of this very run; else says why it begins anew.

        Nothing is assigned before all of the file was read and found to fit.
        """
        if not self.path.exists():
            return
        try:
            with np.load(self.path) as file:
                values = {name: file[name] for name in file.files}
            about = json.loads(str(values["about"]))
            identity, history = dict(about["identity"]), about["history"]
            threads = [int(number) for number in about["threads"]]
        except DAMAGED:
            say(f"{self.path} is damaged; beginning anew")
            return
        if not self.stage.may_resume(identity):
            return
        now = [values.get(f"now{k}") for k in range(len(self.variables))]
        more = f"now{len(now)}" in values
        if more or any(v is None or v.shape != each.shape for v, each in zip(now, self.variables)):
            say(f"{self.path} is of another network; beginning anew")
            return
        for variable, value in zip(self.variables, now):
            variable.assign(value)
        self.best = [values[f"best{k}"] for k in range(sum(key[:4] == "best" for key in values))]
        self.history = history
        say(f"going on after epoch {len(self.history)}")
        self.stage.threads_before = [n for n in threads if n != tensorflow_threads()]
        if self.stage.threads_before:
            say(
                f"on {tensorflow_threads()} threads, after epochs on {threads[-1]}: the weights "
                "will not be, bit for bit, those of a run that went through"
            )


# --- training -----------------------------------------------------------------------------


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
    batch_size: int,
    seed: int,
    strategy: tf.distribute.Strategy | None = None,
    loss: Callable[..., tf.Tensor],
    through: keras.Model | None = None,
    after_epoch: Callable[[], None] = lambda: None,
    choose_from: int = 0,
    resume: bool = False,
    earlier: list[dict[str, float]] | None = None,
    start_share: float = 0.0,
    of: int | None = None,
) -> list[dict[str, float]]:
    """Trains a model and leaves it with the weights of its best epoch by validation mean IoU.

    With an averaging optimizer it is averaged weights that are validated and kept. The state
    stays until whoever called has put the model in place and calls `forget`.

    Args:
        epochs: how many there are after this, earlier ones counted.
        loss: takes float32 images, int32 masks and float32 logits, gives a scalar.
        through: the model to train in its place, on its weights (`networks.on_smaller_image`).
        after_epoch: called after the last step of each epoch, before validation.
        choose_from: the first epoch, counted from 0, that may be the best.
        resume: go on from an unfinished run of the same identity (see stages.py).
        earlier: what another part of the training returned, which left the model as it is.
        start_share: of the weights that the model has now, in the average (see `averaged`).
        of: how many epochs all parts have together, for what is printed.

    Returns:
        A row per epoch, earlier ones first: epoch, part, loss, mean_iou, iou_CLASS of each class
        (None for one that is neither in the validation split nor predicted), learning_rate,
        images_per_second.

    Raises:
        UserError: the data do not fill a batch, or the loss is not finite.
    """
    images, masks = load_split(stage.models_dir, "train")
    validation, classes = load_split(stage.models_dir, "validation"), load_classes(stage.models_dir)
    steps = steps_per_epoch(len(images), batch_size)
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        optimizer.build(model.trainable_variables)
    step = make_train_step(through or model, optimizer, strategy, loss)
    state = TrainingState(stage, name, model, optimizer)
    start = model.get_weights()
    state.history, state.best = list(earlier or []), start
    if resume:
        state.restore()
    of, part = of or epochs, 2 if earlier else 1
    chief, history = is_first_worker(), state.history
    average = averaged if optimizer.use_ema else (lambda *_: contextlib.nullcontext())

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
        after_epoch()
        rate = steps * batch_size / (time.time() - started)
        mean_loss = np.mean([float(value) for value in losses])
        if not np.isfinite(mean_loss):
            raise UserError(
                f"the loss of epoch {epoch + 1} is not finite; nothing was written. "
                "Train with a lower --learning-rate"
            )
        with average(model, optimizer, start, start_share):
            iou = validation_iou(model, *validation)
            row = {"loss": mean_loss, "mean_iou": mean_iou(iou)}
            row |= {f"iou_{key}": value for key, value in zip(classes.names, iou)}
            row |= {"learning_rate": optimizer.learning_rate.numpy(), "images_per_second": rate}
            row = {key: rounded(value) for key, value in row.items()}
            history.append({"epoch": epoch + 1, "part": part, **row})
            if best_epoch(history, choose_from) == epoch:
                state.best = model.get_weights()
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


def forget(stage: Stage, name: str, ours_only: bool = False) -> None:
    """Removes the state of a training whose model and record are in place.

    With `ours_only` only if it is of this very run, which was killed right before it forgot.
    """
    path = state_path(stage.models_dir, name)
    if ours_only and path.exists():
        try:
            with np.load(path) as file:
                identity = json.loads(str(file["about"]))["identity"]
        except DAMAGED:
            return
        if differences(identity, stage.identity()):
            return
    if path.exists():  # on a read-only disk even what is not there cannot be removed
        path.unlink()
