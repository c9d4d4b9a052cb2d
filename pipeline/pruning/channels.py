"""Channel pruning (structured): chooses the channels to keep, and keeps the choice."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.base import unfinished
from pipeline.base.console import UserError, progress, say
from pipeline.base.identity import NOT_RESUMED, Resumption
from pipeline.base.lazy import keras, tf
from pipeline.base.stage import Stage
from pipeline.data.dataset import load_classes, load_split
from pipeline.pruning.channel_removal import mask_channels, weight_at
from pipeline.pruning.dependency_graph import ChannelGroup, Place, tied_sentence
from pipeline.training.input_pipeline import epoch_batches
from pipeline.training.losses import Loss, Objective

ROUNDS = 8  # importance is measured anew in each round
ROUND_BATCHES = 16  # training batches per round
BLOCK = 8  # channels that are removed together: kernels compute 8 or 16 at a time


def choose_channels(
    model: keras.Model,
    groups: list[ChannelGroup],
    share: float,
    batches: Iterable[tuple[tf.Tensor, tf.Tensor]],
    objective: Loss,
) -> list[np.ndarray]:
    """Choose the channels to keep, so that a fraction of all channels is removed.

    The criterion is the first-order Taylor expansion of the loss (Molchanov et al., *Importance
    Estimation for Neural Network Pruning*, 2019). A gate on a channel scales the weights that read
    the channel, so its gradient is the sum of weight times gradient over these weights. Importance
    is the square of it, summed over batches. In each round, the blocks of BLOCK channels with the
    least importance per cost (`ChannelGroup.cost`) are removed.

    Args:
        model: masked in place, see `mask_channels`.
        share: fraction of the channels of all groups to remove, 0 to 1.
        batches: at least ROUNDS * ROUND_BATCHES pairs of float32 images (batch, height, width, 3)
            in 0..1 and int32 masks (batch, height, width).
        objective: what the network was trained for, see `losses.Objective`.

    Returns:
        For each group the channels to keep, ascending.
    """
    kept = [np.arange(group.channels) for group in groups]
    # Each weight that reads channels once, though it may read those of several groups.
    read = {place[:2]: weight_at(model, place) for group in groups for place in group.read}

    @tf.function
    def gradients(images: tf.Tensor, masks: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            value = objective(images, masks, model(images, training=True))
        return tape.gradient(value, list(read.values()))

    total, left = sum(group.channels for group in groups), iter(batches)
    with progress("choosing channels", ROUNDS, "rounds") as bar:
        for number in range(ROUNDS):
            importance = [np.zeros(group.channels) for group in groups]
            for batch in itertools.islice(left, ROUND_BATCHES):
                by_weight = dict(zip(read, gradients(*batch)))
                for values, group in zip(importance, groups):
                    values += gate_gradients(group, read, by_weight) ** 2
            most_removed = share * total * (number + 1) / ROUNDS
            kept = without_least_important(groups, kept, importance, most_removed)
            mask_channels(model, groups, kept)
            bar.update()
    return kept


def without_least_important(
    groups: list[ChannelGroup],
    kept: list[np.ndarray],
    importance: list[np.ndarray],
    most_removed: float,
) -> list[np.ndarray]:
    """The channels to keep without the blocks of the least importance per cost.

    Each block has the least important channels that are left in its group; one block of each group
    stays.

    Args:
        kept: for each group the channels that are left, ascending.
        importance: for each group, of all its channels.
        most_removed: channels that may be gone afterwards, of all groups together.

    Returns:
        As `kept`, with fewer channels.
    """
    kept = list(kept)
    removed = sum(group.channels - len(channels) for group, channels in zip(groups, kept))
    blocks = []  # those that can go: (importance per cost, index of the group)
    for index, (group, channels, values) in enumerate(zip(groups, kept, importance)):
        ranked = np.sort(values[channels])
        for start in range(0, len(ranked) - BLOCK, BLOCK):
            blocks.append((ranked[start : start + BLOCK].sum() / group.cost, index))
    for _, index in sorted(blocks):
        if removed + BLOCK > most_removed:
            break
        ranking = np.argsort(importance[index][kept[index]], kind="stable")
        kept[index] = np.sort(kept[index][ranking[BLOCK:]])
        removed += BLOCK
    return kept


def gate_gradients(
    group: ChannelGroup, read: Mapping[Any, tf.Variable], gradients: Mapping[Any, tf.Tensor]
) -> np.ndarray:
    """The gradient of gates on the channels of a group, over all weights that read them.

    Args:
        read: the weights that read channels, by layer and attribute.
        gradients: of the loss by each of them.

    Returns:
        float64 (channels,).
    """
    total = np.zeros(group.channels)
    for place in group.read:
        weight, gradient = read[place[:2]], gradients[place[:2]]
        total += gate_gradient(place, weight, gradient, group.channels)
    return total


def gate_gradient(
    place: Place, weight: tf.Variable, gradient: tf.Tensor, channels: int
) -> np.ndarray:
    """The gradient of gates on the channels of a group, float64 (channels,).

    Args:
        gradient: of the loss by the weight.
        channels: how many the group has.
    """
    other = [axis for axis in range(len(weight.shape)) if axis != place.axis]
    sums = tf.reduce_sum(weight * gradient, other).numpy()
    own = place.channels >= 0
    return np.bincount(place.channels[own], sums[own], channels)


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


def most_sentence(model: keras.Model, most: float) -> str:
    """How many channels of a model can go, and which layers tie the others."""
    tied = tied_sentence(model)
    which = (f"at most {most:.0%} of the" if most else "no") + f" channels of {model.name} can go"
    return f"{which}, blocks of {BLOCK} at a time and one of each kind staying" + (
        f" ({tied})" if tied else ""
    )


def share_to_use(most: float) -> str:
    """What to type instead of a share of channels that is too large."""
    largest = int(100 * most) / 100
    return f"use --channels {largest} or less" if largest else "prune without --channels"


def planned_channels(
    stage: Stage,
    model: keras.Model,
    groups: list[ChannelGroup],
    share: float,
    batch_size: int,
    objective: Objective,
) -> ChannelPlan:
    """Choose the channels to keep on training images, or take over the choice of a stopped run.

    The choice is written to `plan_path`. With `--resume`, that of the same run is taken: importance
    is a sum of floats, so a second choice might differ, and the weights of the checkpoint would
    not fit it.

    Args:
        model: masked in place where channels are chosen, see `choose_channels`.
        share: fraction of the channels of all groups to remove, 0 to 1.
        batch_size: images per batch; fewer if the training split has fewer.
        objective: what the network was trained for, see `losses.Objective`.

    Raises:
        UserError: so many channels cannot be removed.
    """
    most = removable_share(groups)
    if share > most:
        raise UserError(f"{most_sentence(model, most)}; {share_to_use(most)}")
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
    kept = choose_on_training_images(stage, model, groups, share, batch_size, objective)
    lists = [channels.tolist() for channels in kept]
    unfinished.write(path, stage.identity.as_dict(), {"kept": lists})
    return ChannelPlan(kept, NOT_RESUMED)


def choose_on_training_images(
    stage: Stage,
    model: keras.Model,
    groups: list[ChannelGroup],
    share: float,
    batch_size: int,
    objective: Objective,
) -> list[np.ndarray]:
    """`choose_channels` by the training split of a models folder; arguments: `planned_channels`."""
    images, masks = load_split(stage.models_dir, "train")
    classes = load_classes(stage.models_dir)
    size, seed = min(batch_size, len(images)), stage.arguments.seed
    epochs = range(-(-ROUNDS * ROUND_BATCHES // (len(images) // size)))
    batches = (
        batch
        for epoch in epochs
        for batch in epoch_batches(
            images, masks, size, seed, epoch, ignored=classes.ignored, mirror=objective.mirror
        )
    )
    return choose_channels(model, groups, share, batches, objective)


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
