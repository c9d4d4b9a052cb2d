"""Structured pruning: which channels go, and the smaller network that is left."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.artifacts import DAMAGED, write_json
from pipeline.base.console import UserError, progress, say
from pipeline.base.lazy import keras, layers, tf
from pipeline.base.stage import Stage
from pipeline.data.dataset import load_classes, load_split
from pipeline.inference.keras_files import is_convolution
from pipeline.pruning.dependency_graph import ChannelGroup, channel_cost, input_axis
from pipeline.training.input_pipeline import epoch_batches
from pipeline.training.losses import Loss, segmentation_loss

ROUNDS = 8  # importance is measured anew after each
ROUND_BATCHES = 16  # training batches per round
BLOCK = 8  # channels that go together: kernels compute 8 or 16 at a time
SAME_OUTPUT = 1e-4  # of the largest logit: how far the smaller network may be from the masked one


def mask_channels(model: keras.Model, groups: list[ChannelGroup], kept: list[np.ndarray]) -> None:
    """Makes a model, in place, ignore every channel that is not kept."""
    for group, rows in zip(groups, kept):
        for name in group.consumers:
            layer = model.get_layer(name)
            shape = [1] * 4
            shape[input_axis(layer)] = group.channels
            layer.kernel.assign(
                layer.kernel
                * np.isin(np.arange(group.channels), rows).astype(np.float32).reshape(shape)
            )


def choose_channels(
    model: keras.Model,
    groups: list[ChannelGroup],
    share: float,
    batches: Iterable[tuple[tf.Tensor, tf.Tensor]],
    loss: Loss = segmentation_loss,
) -> list[np.ndarray]:
    """Which channels of each group to keep, so that `share` of all go.

    Criterion: the first-order Taylor expansion of the loss (Molchanov et al., *Importance
    Estimation for Neural Network Pruning*, 2019). A gate on a channel scales the weights that read
    it, so the gate's gradient is the sum of weight times gradient over them, and importance its
    square, averaged over batches. It is divided by what the channel costs, and the cheapest blocks
    of BLOCK channels go, some in each round. The model is masked on the way.
    """
    kept = [np.arange(group.channels) for group in groups]
    costs = [channel_cost(model, group) for group in groups]
    readers = [[model.get_layer(name) for name in group.consumers] for group in groups]
    variables = [layer.kernel for group in readers for layer in group]

    @tf.function
    def gradients(images: tf.Tensor, masks: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            value = loss(masks, model(images, training=True))
        return tape.gradient(value, variables)

    total, removed, batches = sum(group.channels for group in groups), 0, iter(batches)
    with progress("choosing channels", ROUNDS, "rounds") as bar:
        for number in range(ROUNDS):
            importance = [np.zeros(group.channels) for group in groups]
            for _ in range(ROUND_BATCHES):
                slopes = iter(gradients(*next(batches)))
                for values, consumers in zip(importance, readers):
                    gate = np.zeros_like(values)
                    for layer in consumers:
                        other = [axis for axis in range(4) if axis != input_axis(layer)]
                        gate += tf.reduce_sum(layer.kernel * next(slopes), other).numpy()
                    values += gate**2
            # What could go, as (importance per cost, group); of each group the least important
            # channels first, and one block stays.
            blocks = []
            for k, values in enumerate(importance):
                ranked = np.sort(values[kept[k]])
                for start in range(0, len(ranked) - BLOCK, BLOCK):
                    blocks.append((ranked[start : start + BLOCK].sum() / costs[k], k))
            wanted = share * total * (number + 1) / ROUNDS
            for _, k in sorted(blocks):
                if removed + BLOCK > wanted:
                    break
                ranking = np.argsort(importance[k][kept[k]], kind="stable")
                kept[k] = np.sort(kept[k][ranking[BLOCK:]])
                removed += BLOCK
            mask_channels(model, groups, kept)
            bar.update()
    return kept


def remove_channels(
    model: keras.Model, groups: list[ChannelGroup], kept: list[np.ndarray]
) -> keras.Model:
    """A smaller network that computes what `model` would with all other channels masked."""
    written, passed, read = {}, {}, {}
    for group, rows in zip(groups, kept):
        written |= dict.fromkeys(group.producers, rows)
        passed |= dict.fromkeys(group.followers, rows)
        read |= dict.fromkeys(group.consumers, rows)

    def resize(layer: layers.Layer) -> layers.Layer:
        settings = layer.get_config()
        if layer.name in written:
            settings["filters"] = len(written[layer.name])
        return type(layer).from_config(settings)

    small = keras.models.clone_model(model, clone_function=resize)
    for layer in model.layers:
        values, name = layer.get_weights(), layer.name
        if is_convolution(layer):
            axis = input_axis(layer)
            if name in read:
                values[0] = values[0].take(read[name], axis)
            if name in written:
                rows = written[name]
                values = [values[0].take(rows, 5 - axis), *(bias[rows] for bias in values[1:])]
        elif name in passed:
            # Depthwise kernels (height, width, channels, 1), and normalisation's four vectors.
            values = [value.take(passed[name], 2 if value.ndim == 4 else 0) for value in values]
        small.get_layer(name).set_weights(values)
    return small


def plan_path(models_dir: Path) -> Path:
    """Where the choice of channels lies until the pruned model is in place."""
    return models_dir / ".pruned_channels.json"


def removable_share(groups: list[ChannelGroup]) -> float:
    """The largest share of channels that can go, if one block stays in each group."""
    total = sum(group.channels for group in groups)
    blocks = sum(max(0, group.channels - 1) // BLOCK for group in groups)
    return BLOCK * blocks / max(1, total)


def planned_channels(
    stage: Stage,
    model: keras.Model,
    groups: list[ChannelGroup],
    share: float,
    batch_size: int,
    loss: Loss = segmentation_loss,
) -> list[np.ndarray]:
    """The channels to keep, chosen on training images; the model is masked on the way.

    Importance is a sum of floats: chosen again, it might be others, and the weights of a stopped
    fine-tuning would not fit. So with `--resume` those of the run that it goes on from are taken.

    Raises:
        UserError: so many channels cannot go.
    """
    most = removable_share(groups)
    if share > most:
        raise UserError(
            f"at most {most:.0%} of the channels of {model.name} can go, blocks of {BLOCK} at a "
            f"time and one of each kind staying; use --channels {int(100 * most) / 100} or less"
        )
    path = plan_path(stage.models_dir)
    if stage.arguments.resume and path.exists():
        try:
            plan = json.loads(path.read_text(encoding="utf-8"))
            kept = [np.array(rows, int) for rows in plan["kept"]]
            identity = plan["identity"]
        except DAMAGED:
            say(f"{path} is damaged; beginning anew")
        else:
            if stage.may_resume(identity):
                return kept
    images, masks = load_split(stage.models_dir, "train")
    classes = load_classes(stage.models_dir)
    size, seed = min(batch_size, len(images)), stage.arguments.seed
    epochs = range(-(-ROUNDS * ROUND_BATCHES // (len(images) // size)))
    batches = (
        batch
        for epoch in epochs
        for batch in epoch_batches(images, masks, size, seed, epoch, ignored=classes.ignored)
    )
    kept = choose_channels(model, groups, share, batches, loss)
    write_json(path, {"identity": stage.identity(), "kept": [rows.tolist() for rows in kept]})
    return kept


def check_smaller(small: keras.Model, masked: keras.Model, images: np.ndarray) -> float:
    """How far a smaller network is from the masked one, as a share of the largest logit.

    Args:
        images: a few, uint8 (n, height, width, 3).

    Raises:
        UserError: further than SAME_OUTPUT.
    """
    probe = images.astype(np.float32) / 255
    expected = masked(probe, training=False).numpy()
    found = small(probe, training=False).numpy()
    difference = float(np.abs(found - expected).max() / np.abs(expected).max())
    if difference > SAME_OUTPUT:
        raise UserError(
            f"the smaller network differs from the masked one by {difference:.1e} of the largest "
            "logit; nothing was written. Teach channel_groups.py the new layers of networks.py"
        )
    return difference


def channel_rows(groups: list[ChannelGroup], kept: list[np.ndarray]) -> list[dict[str, Any]]:
    """What was kept, group by group, for a table."""
    return [
        {"made by": " + ".join(group.producers), "channels": group.channels, "kept": len(chosen)}
        for group, chosen in zip(groups, kept)
    ]
