"""Channel pruning (structured): chooses channels and builds the network without them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.base import unfinished
from pipeline.base.console import UserError, progress, say
from pipeline.base.identity import NOT_RESUMED, Resumption
from pipeline.base.lazy import keras, layers, tf
from pipeline.base.stage import Stage
from pipeline.data.dataset import load_classes, load_split
from pipeline.inference.keras_files import is_convolution
from pipeline.pruning.dependency_graph import ChannelGroup, channel_cost, input_axis
from pipeline.training.input_pipeline import epoch_batches
from pipeline.training.losses import Loss, segmentation_loss

ROUNDS = 8  # importance is measured anew in each round
ROUND_BATCHES = 16  # training batches per round
BLOCK = 8  # channels that are removed together: kernels compute 8 or 16 at a time
# Largest difference of the smaller network's logits from those of the masked network, as a
# fraction of the largest logit.
SAME_OUTPUT = 1e-4


def mask_channels(model: keras.Model, groups: list[ChannelGroup], kept: list[np.ndarray]) -> None:
    """Makes a model, in place, ignore every channel that is not kept.

    It sets the weights to zero by which the consumers of a group read these channels.

    Args:
        kept: for each group the channels to keep, ascending.
    """
    for group, channels in zip(groups, kept):
        for name in group.consumers:
            layer = model.get_layer(name)
            shape = [1] * 4
            shape[input_axis(layer)] = group.channels
            mask = np.isin(np.arange(group.channels), channels).astype(np.float32)
            layer.kernel.assign(layer.kernel * mask.reshape(shape))


def choose_channels(
    model: keras.Model,
    groups: list[ChannelGroup],
    share: float,
    batches: Iterable[tuple[tf.Tensor, tf.Tensor]],
    loss: Loss = segmentation_loss,
) -> list[np.ndarray]:
    """Choose the channels to keep, so that a fraction of all channels is removed.

    The criterion is the first-order Taylor expansion of the loss (Molchanov et al., *Importance
    Estimation for Neural Network Pruning*, 2019). A gate on a channel scales the weights that read
    the channel, so its gradient is the sum of weight times gradient over these weights. Importance
    is the square of it, summed over batches. In each round, the blocks of BLOCK channels with the
    least importance per cost (`channel_cost`) are removed.

    Args:
        model: masked in place, see `mask_channels`.
        share: fraction of the channels of all groups to remove, 0 to 1.
        batches: at least ROUNDS * ROUND_BATCHES pairs of float32 images (batch, height, width, 3)
            in 0..1 and int32 masks (batch, height, width).
        loss: of masks and logits.

    Returns:
        For each group the channels to keep, ascending.
    """
    kept = [np.arange(group.channels) for group in groups]
    costs = [channel_cost(model, group) for group in groups]
    consumers = [[model.get_layer(name) for name in group.consumers] for group in groups]
    variables = [layer.kernel for group_consumers in consumers for layer in group_consumers]

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
                kernel_gradients = iter(gradients(*next(batches)))
                for values, group_consumers in zip(importance, consumers):
                    gate = np.zeros_like(values)
                    for layer in group_consumers:
                        other = [axis for axis in range(4) if axis != input_axis(layer)]
                        gate += tf.reduce_sum(layer.kernel * next(kernel_gradients), other).numpy()
                    values += gate**2
            # Blocks that can be removed, as (importance per cost, group). Each block has the least
            # important channels left in its group, and one block of each group stays.
            blocks = []
            for k, values in enumerate(importance):
                ranked = np.sort(values[kept[k]])
                for start in range(0, len(ranked) - BLOCK, BLOCK):
                    blocks.append((ranked[start : start + BLOCK].sum() / costs[k], k))
            target = share * total * (number + 1) / ROUNDS
            for _, k in sorted(blocks):
                if removed + BLOCK > target:
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
    """Build the network without the channels that are not kept.

    It computes what the model computes with these channels masked, see `mask_channels`.

    Args:
        kept: for each group the channels to keep, ascending.
    """
    # The channels to keep of the outputs of producers, of followers, and of inputs of consumers.
    written: dict[str, np.ndarray] = {}
    passed: dict[str, np.ndarray] = {}
    read: dict[str, np.ndarray] = {}
    for group, channels in zip(groups, kept):
        written |= dict.fromkeys(group.producers, channels)
        passed |= dict.fromkeys(group.followers, channels)
        read |= dict.fromkeys(group.consumers, channels)

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
                channels = written[name]
                values = [
                    values[0].take(channels, 5 - axis),
                    *(bias[channels] for bias in values[1:]),
                ]
        elif name in passed:
            # Depthwise kernels (height, width, channels, 1), or the four vectors of normalisation.
            values = [value.take(passed[name], 2 if value.ndim == 4 else 0) for value in values]
        small.get_layer(name).set_weights(values)
    return small


class ChannelPlan(NamedTuple):
    """The channels to keep, and where the choice comes from."""

    kept: list[np.ndarray]  # int, for each group the channels to keep, ascending
    resumption: Resumption  # for the record: edits accepted since the choice was made


def plan_path(models_dir: Path) -> Path:
    """The file that holds the choice of channels until the pruned model is in place."""
    return models_dir / ".pruned_channels.json"


def removable_share(groups: list[ChannelGroup]) -> float:
    """The largest fraction of channels that can be removed if one block stays in each group."""
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
) -> ChannelPlan:
    """Choose the channels to keep on training images, or take over the choice of a stopped run.

    The choice is written to `plan_path`. With `--resume`, that of the same run is taken: importance
    is a sum of floats, so a second choice might differ, and the weights of the checkpoint would
    not fit it.

    Args:
        model: masked in place where channels are chosen, see `choose_channels`.
        share: fraction of the channels of all groups to remove, 0 to 1.
        batch_size: images per batch; fewer if the training split has fewer.
        loss: of masks and logits.

    Raises:
        UserError: so many channels cannot be removed.
    """
    most = removable_share(groups)
    if share > most:
        raise UserError(
            f"at most {most:.0%} of the channels of {model.name} can go, blocks of {BLOCK} at a "
            f"time and one of each kind staying; use --channels {int(100 * most) / 100} or less"
        )
    path = plan_path(stage.models_dir)
    plans = {copy: unfinished.read_json(copy) for copy in unfinished.copies(path)}
    if stage.arguments.resume and plans:
        reasons = {copy: stage.differences(plan.get("identity")) for copy, plan in plans.items()}
        copy = unfinished.nearest(reasons)
        plan = stopped_plan(stage, groups, copy, plans[copy])
        if plan is not None:
            if reasons[copy]:  # accepted: the next stop finds the plan of this code
                unfinished.write(path, stage.identity.as_dict(), {"kept": plans[copy]["kept"]})
            return plan
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
    lists = [channels.tolist() for channels in kept]
    unfinished.write(path, stage.identity.as_dict(), {"kept": lists})
    return ChannelPlan(kept, NOT_RESUMED)


def stopped_plan(
    stage: Stage, groups: list[ChannelGroup], path: Path, content: dict[str, Any]
) -> ChannelPlan | None:
    """The choice in a plan; None, after a line that says why, if it cannot be taken."""
    kept = parse_kept(content, groups)
    if kept is None:
        say(f"{path} is damaged; beginning anew")
        return None
    resumption = stage.may_resume(content.get("identity"))
    return None if resumption is None else ChannelPlan(kept, resumption)


def parse_kept(content: dict[str, Any], groups: Sequence[ChannelGroup]) -> list[np.ndarray] | None:
    """The channels to keep in the JSON value of a plan; None if it is damaged or of another form.

    It must list, for each group, some of its channels in ascending order.
    """
    kept = content.get("kept")
    if not isinstance(kept, list) or len(kept) != len(groups):
        return None
    for channels, group in zip(kept, groups):
        if not isinstance(channels, list) or any(type(channel) is not int for channel in channels):
            return None
        if channels != sorted(set(channels) & set(range(group.channels))):
            return None
    return [np.array(channels, int) for channels in kept]


def check_smaller(small: keras.Model, masked: keras.Model, images: np.ndarray) -> float:
    """Compare the logits of a smaller network with those of the masked one.

    Args:
        images: a few, uint8 (n, height, width, 3).

    Returns:
        The largest difference, as a fraction of the largest logit.

    Raises:
        UserError: it is larger than SAME_OUTPUT.
    """
    probe = images.astype(np.float32) / 255
    expected = masked(probe, training=False).numpy()
    logits = small(probe, training=False).numpy()
    difference = float(np.abs(logits - expected).max() / np.abs(expected).max())
    if difference > SAME_OUTPUT:
        raise UserError(
            f"the smaller network differs from the masked one by {difference:.1e} of the largest "
            "logit; nothing was written. Teach pipeline/pruning/dependency_graph.py the new layers "
            "of networks.py"
        )
    return difference


def channel_rows(groups: list[ChannelGroup], kept: list[np.ndarray]) -> list[dict[str, Any]]:
    """A table of the groups: their producers ("made by"), channels, and channels kept."""
    return [
        {
            "made by": " + ".join(group.producers),
            "channels": group.channels,
            "kept": len(channels),
        }
        for group, channels in zip(groups, kept)
    ]
