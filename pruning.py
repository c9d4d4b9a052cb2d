"""Stage 3 of 5: take out what the network can do without, and train the rest to make up for it.

Reads   models/original_model.h5, models/dataset/
Writes  models/pruned_model.h5            the pruned network
        models/pruned_training.csv, .png  the fine-tuning, epoch by epoch
        models/pruned_sensitivity.csv, .png   with --sparsity auto: which layer breaks first
        models/pruned_channels.csv            with --channels: what was kept, group by group

    python pruning.py                                 (60 % zeros in the large kernels)
    python pruning.py --sparsity auto                 (each layer as many zeros as it bears alone)
    python pruning.py --channels 0.4 --sparsity 0     (a smaller, faster network without zeros)
    python pruning.py --channels 0.4 --sparsity 0.6   (first channels, then zeros)

On one of two CPU cores the default took 19 minutes; validation mean IoU went from 0.7890 to 0.7861.

Two kinds of pruning. *Zeros* (unstructured): the smallest weights of each layer become zero step by step
(Zhu and Gupta, *To prune, or not to prune*, 2017, by TFMOT's `prune_low_magnitude`). They do not shrink the
.h5 file and do not speed up dense kernels; they show after compression (gzip, which app stores and updates
use) and on kernels made for them. *Channels* (structured): whole channels go, and the network that is left is
smaller and faster everywhere. Either way the network learns from the masks and from the original network's
own predictions (distillation: Hinton, Vinyals and Dean 2015).
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pipeline  # first: it sets what TensorFlow reads at import
from data_preparation import load_split
from training import (ENCODER_SHARE, draw_curves, epoch_batches, fit, load_model, make_optimizer, save_model, segmentation_loss,
                      validation_iou, write_csv)  # fmt: skip

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras
from tf_keras import layers

SPARSITY = 0.6  # share of zeros in each pruned layer's kernel
EPOCHS = 10
BATCH_SIZE = 32
LEARNING_RATE = 1e-3
WARM_UP_STEPS = 50
PRUNING_SHARE = 0.5  # of the steps, over which sparsity rises; the rest of them mend
MASK_INTERVAL = 10  # steps between two updates of the masks
DISTILLATION_WEIGHT = 1.0  # of the original network's predictions, beside the masks
SMALLEST_KERNEL = 9000  # weights; the smaller kernels, near the image, hold 6 % of them and break first
KEPT_DENSE = ("stem", "logits", "logits_block")  # the first and last layer: few weights, each needed
TOLERANCE = 0.01  # between asked and achieved sparsity

SCAN_LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)  # sparsities at which each layer is tried alone
SCAN_IMAGES = 128  # validation images for it
SCAN_DROP = 0.004  # of mean IoU, that a layer alone may cost before any fine-tuning

CHANNEL_ROUNDS = 8  # importance is measured anew after each
CHANNEL_BATCHES = 16  # training batches per round
CHANNEL_BLOCK = 8  # channels that go together: kernels compute 8 or 16 at a time
SAME_OUTPUT = 1e-4  # of the largest logit: how far the smaller network may be from the masked one
DEPTHWISE_COST = 2.8  # time of a product in a depthwise convolution over one in another; XNNPACK, float32, measured

# --- zeros --------------------------------------------------------------------------------


def is_convolution(layer: layers.Layer) -> bool:
    """Plain and transposed convolutions; depthwise kernels hold few weights and mix no channels."""
    return isinstance(layer, layers.Conv2D) and not isinstance(layer, layers.DepthwiseConv2D)


def kernels(model: keras.Model, smallest: int) -> dict[str, tf.Variable]:
    """The kernels, by layer, that may get zeros: those of at least `smallest` weights."""
    return {layer.name: layer.kernel for layer in model.layers
            if is_convolution(layer) and layer.name not in KEPT_DENSE
            and layer.kernel.shape.num_elements() >= smallest}  # fmt: skip


def scan_sensitivity(model: keras.Model, images: np.ndarray, masks: np.ndarray) -> list[dict[str, Any]]:
    """The mean IoU that is lost when one layer alone has its smallest weights set to zero, layer by layer.

    The model is left as it was.

    Returns:
        A row per layer, in the order of the network: layer, weights, and for each of SCAN_LEVELS the drop.
    """
    whole, rows = validation_iou(model, images, masks).mean(), []
    every = kernels(model, 0)
    with pipeline.progress("sensitivity", len(every) * len(SCAN_LEVELS), "trials") as bar:
        for name, kernel in every.items():
            values, row = kernel.numpy(), {"layer": name, "weights": kernel.shape.num_elements()}
            sizes = np.sort(np.abs(values), axis=None)
            for level in SCAN_LEVELS:
                kernel.assign(np.where(np.abs(values) >= sizes[int(level * sizes.size)], values, 0))
                row[f"{level:.0%}"] = round(float(whole - validation_iou(model, images, masks).mean()), 5)
                bar.update()
            kernel.assign(values)
            rows.append(row)
    return rows


def choose_sparsity(rows: list[dict[str, Any]]) -> dict[str, float]:
    """For each layer the highest level up to which it loses no more than SCAN_DROP; layers that bear none are left out."""
    chosen = {}
    for row in rows:
        borne = [row[f"{level:.0%}"] <= SCAN_DROP for level in SCAN_LEVELS]
        count = borne.index(False) if False in borne else len(borne)
        if count:
            chosen[row["layer"]] = SCAN_LEVELS[count - 1]
    return chosen


def draw_sensitivity(path: Path, rows: list[dict[str, Any]], chosen: dict[str, float]) -> None:
    """A row per layer, a column per sparsity, the drop of mean IoU in each cell; the chosen ones framed."""
    import matplotlib.figure
    import matplotlib.patches

    drops = 100 * np.array([[row[f"{level:.0%}"] for level in SCAN_LEVELS] for row in rows])
    figure = matplotlib.figure.Figure((6.4, 1.2 + 0.24 * len(rows)), layout="constrained")
    axis = figure.subplots()
    picture = axis.imshow(drops, cmap="YlOrRd", vmin=0, vmax=5, aspect="auto")
    axis.set_xticks(range(len(SCAN_LEVELS)), [f"{level:.0%}" for level in SCAN_LEVELS])
    axis.set_yticks(range(len(rows)), [f"{row['layer']} ({row['weights']:,})" for row in rows], fontsize=8)
    axis.set(xlabel="zeros in this layer alone, before fine-tuning", title="Points of mean IoU lost (framed: chosen)")
    for (y, x), drop in np.ndenumerate(drops):
        axis.text(x, y, f"{drop:.1f}", ha="center", va="center", fontsize=7, color="white" if drop > 3 else "black")
        if chosen.get(rows[y]["layer"]) == SCAN_LEVELS[x]:
            frame = matplotlib.patches.Rectangle((x - 0.47, y - 0.44), 0.94, 0.88, fill=False, edgecolor="#3a4862", linewidth=2)
            axis.add_patch(frame)
    figure.colorbar(picture, label="points of mean IoU", extend="max")
    with pipeline.atomic(path) as temporary:
        figure.savefig(temporary, dpi=110)


def wrap(model: keras.Model, sparsity: dict[str, float], steps: int) -> keras.Model:
    """The model with TFMOT's pruning wrapper around each layer named in `sparsity`.

    Sparsity rises by a cubic polynomial from 0 over the first PRUNING_SHARE of `steps`. The layers are
    the given model's own, not copies.
    """
    updates = max(1, int(steps * PRUNING_SHARE) // MASK_INTERVAL)  # the last one falls on the last step of the rise

    def wrap_layer(layer: layers.Layer) -> layers.Layer:
        if layer.name not in sparsity:
            return layer
        schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, sparsity[layer.name], begin_step=0,
                                                        end_step=updates * MASK_INTERVAL, frequency=MASK_INTERVAL)  # fmt: skip
        return tfmot.sparsity.keras.prune_low_magnitude(layer, pruning_schedule=schedule)

    # One by one: wrapping the whole model refuses the functional depth_to_space call.
    return keras.models.clone_model(model, clone_function=wrap_layer)


def distillation_loss(teacher_logits: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy against the teacher's class probabilities; float32 logits (batch, height, width, classes)."""
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(teacher_logits), logits))


def layer_sparsity(model: keras.Model, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Weights and share of zeros of the kernels of these layers."""
    chosen = {name: model.get_layer(name).kernel for name in names}
    return {name: {"weights": kernel.shape.num_elements(), "sparsity": round(float(np.mean(kernel.numpy() == 0)), 4)}
            for name, kernel in chosen.items()}  # fmt: skip


def total_sparsity(per_layer: dict[str, dict[str, Any]]) -> float:
    """Share of zeros over all these kernels; 0 if there are none."""
    weights = sum(layer["weights"] for layer in per_layer.values())
    return sum(layer["weights"] * layer["sparsity"] for layer in per_layer.values()) / max(1, weights)


# --- channels -----------------------------------------------------------------------------


@dataclass
class ChannelGroup:
    """Channels that can only go together, as the layers that must change with them (by name).

    An expanded channel of an inverted residual is local to its block. Channels that are added up are one
    group: all that write to a residual stream lose the same ones.
    """

    channels: int = 0
    producers: list[str] = field(default_factory=list)  # convolutions that make the channels
    followers: list[str] = field(default_factory=list)  # normalisations and depthwise convolutions on their way
    consumers: list[str] = field(default_factory=list)  # convolutions that read them
    removable: bool = True


def channel_groups(model: keras.Model) -> list[ChannelGroup]:
    """The groups of channels from which some can be removed, found by following the graph.

    (The idea of a dependency graph: Fang et al., *DepGraph*, 2023.) What is concatenated, comes from the image or
    leaves the network stays as it is.
    """
    one_to_one = (layers.BatchNormalization, layers.ReLU, layers.DepthwiseConv2D, layers.UpSampling2D, layers.MaxPool2D,
                  layers.Add)  # fmt: skip
    group_of: dict[str, ChannelGroup] = {}

    def merge(first: ChannelGroup, second: ChannelGroup) -> ChannelGroup:
        if first is not second:
            for part in ("producers", "followers", "consumers"):
                getattr(first, part).extend(getattr(second, part))
            first.removable &= second.removable
            group_of.update({name: first for name, group in group_of.items() if group is second})
        return first

    for layer in model.layers:
        tensors = [] if isinstance(layer, layers.InputLayer) else tf.nest.flatten(layer.input)
        parents = [group_of[tensor._keras_history.layer.name] for tensor in tensors]
        if is_convolution(layer):
            parents[0].consumers.append(layer.name)
            group_of[layer.name] = ChannelGroup(layer.filters, [layer.name])
        elif isinstance(layer, one_to_one):
            group = parents[0]
            for other in parents[1:]:
                group = merge(group, other)
            if layer.weights:
                group.followers.append(layer.name)
            group_of[layer.name] = group
        else:
            group_of[layer.name] = ChannelGroup(removable=False)
            for group in parents:
                group.removable = False
    for tensor in model.outputs:
        group_of[tensor._keras_history.layer.name].removable = False
    unique = {id(group): group for group in group_of.values()}.values()
    return [group for group in unique if group.removable]


def input_axis(layer: layers.Layer) -> int:
    """The axis of a convolution's kernel that reads channels; transposed ones have them last."""
    return 3 if isinstance(layer, layers.Conv2DTranspose) else 2


def channel_cost(model: keras.Model, group: ChannelGroup) -> float:
    """Multiplications that one channel of a group costs per image, weighted by how slow they are."""
    cost = 0.0
    for name in group.producers + group.followers + group.consumers:
        layer = model.get_layer(name)
        if isinstance(layer, layers.BatchNormalization):
            continue  # folded into a convolution on conversion
        pixels = np.prod((layer.input_shape if isinstance(layer, layers.Conv2DTranspose) else layer.output_shape)[1:3])
        if isinstance(layer, layers.DepthwiseConv2D):
            cost += pixels * np.prod(layer.kernel_size) * DEPTHWISE_COST
        else:
            cost += pixels * layer.kernel.shape.num_elements() / group.channels
    return float(cost)


def mask_channels(model: keras.Model, groups: list[ChannelGroup], kept: list[np.ndarray]) -> None:
    """Makes a model, in place, ignore every channel that is not kept."""
    for group, rows in zip(groups, kept):
        for name in group.consumers:
            layer = model.get_layer(name)
            shape = [1] * 4
            shape[input_axis(layer)] = group.channels
            layer.kernel.assign(layer.kernel * np.isin(np.arange(group.channels), rows).astype(np.float32).reshape(shape))


def choose_channels(model: keras.Model, groups: list[ChannelGroup], share: float,
                    batches: Iterable[tuple[tf.Tensor, tf.Tensor]]) -> list[np.ndarray]:  # fmt: skip
    """Which channels of each group to keep, so that `share` of all go; the model is masked on the way.

    Criterion: the first-order Taylor expansion of the loss (Molchanov et al., *Importance Estimation for Neural
    Network Pruning*, 2019). A gate on a channel scales the weights that read it, so the gate's gradient is
    the sum of weight times gradient over them, and importance its square, averaged over batches. It is divided
    by what the channel costs, and the cheapest blocks of CHANNEL_BLOCK channels go, some in each round.
    """
    kept = [np.arange(group.channels) for group in groups]
    costs = [channel_cost(model, group) for group in groups]
    readers = [[model.get_layer(name) for name in group.consumers] for group in groups]
    variables = [layer.kernel for group in readers for layer in group]

    @tf.function
    def gradients(images: tf.Tensor, masks: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = segmentation_loss(masks, model(images, training=True))
        return tape.gradient(loss, variables)

    total, removed, batches = sum(group.channels for group in groups), 0, iter(batches)
    with pipeline.progress("choosing channels", CHANNEL_ROUNDS, "rounds") as bar:
        for number in range(CHANNEL_ROUNDS):
            importance = [np.zeros(group.channels) for group in groups]
            for _ in range(CHANNEL_BATCHES):
                slopes = iter(gradients(*next(batches)))
                for values, consumers in zip(importance, readers):
                    gate = np.zeros_like(values)
                    for layer in consumers:
                        other = [axis for axis in range(4) if axis != input_axis(layer)]
                        gate += tf.reduce_sum(layer.kernel * next(slopes), other).numpy()
                    values += gate**2
            blocks = []  # (importance per cost, group, which block): what could go, a group's least important channels first
            for k, values in enumerate(importance):
                ranked = np.sort(values[kept[k]])
                for start in range(0, len(ranked) - CHANNEL_BLOCK, CHANNEL_BLOCK):  # one block stays
                    blocks.append((ranked[start : start + CHANNEL_BLOCK].sum() / costs[k], k))
            wanted = share * total * (number + 1) / CHANNEL_ROUNDS
            for _, k in sorted(blocks):
                if removed + CHANNEL_BLOCK > wanted:
                    break
                kept[k] = np.sort(kept[k][np.argsort(importance[k][kept[k]], kind="stable")[CHANNEL_BLOCK:]])
                removed += CHANNEL_BLOCK
            mask_channels(model, groups, kept)
            bar.update()
    return kept


def remove_channels(model: keras.Model, groups: list[ChannelGroup], kept: list[np.ndarray]) -> keras.Model:
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
                values = [values[0].take(written[name], 5 - axis), *(bias[written[name]] for bias in values[1:])]
        elif name in passed:  # depthwise kernels (height, width, channels, 1); normalisation's four vectors
            values = [value.take(passed[name], 2 if value.ndim == 4 else 0) for value in values]
        small.get_layer(name).set_weights(values)
    return small


def cut_channels(stage: pipeline.Stage, model: keras.Model,
                 arguments: argparse.Namespace) -> tuple[keras.Model, dict[str, Any]]:  # fmt: skip
    """The model without its least important channels, and what the record says of it.

    Writes `pruned_channels.csv`. A resumed run takes the same channels as the run that it goes on from.

    Raises:
        pipeline.UserError: the smaller network does not compute what the masked one does.
    """
    groups = channel_groups(model)
    path = stage.models_dir / ".pruned_channels.json"
    asked = {**stage.settings, **stage.inputs}
    plan = json.loads(path.read_text()) if arguments.resume and path.exists() else {}
    if plan.get("asked") == asked:
        kept = [np.array(rows) for rows in plan["kept"]]
    else:
        images, masks = load_split(stage.models_dir, "train")
        needed = CHANNEL_ROUNDS * CHANNEL_BATCHES
        size, seed = min(arguments.batch_size, len(images)), arguments.seed
        epochs = range(-(-needed // (len(images) // size)))
        batches = (batch for epoch in epochs for batch in epoch_batches(images, masks, size, seed, epoch))
        kept = choose_channels(load_model(stage.models_dir, "original"), groups, arguments.channels, batches)
        pipeline.write_json(path, {"asked": asked, "kept": [rows.tolist() for rows in kept]})
    rows = [{"made by": " + ".join(group.producers), "channels": group.channels, "kept": len(chosen)}
            for group, chosen in zip(groups, kept)]  # fmt: skip
    write_csv(stage.models_dir / "pruned_channels.csv", rows)
    for row in rows:
        pipeline.say(f"{textwrap.shorten(row['made by'], 60, placeholder=' ...'):62}{row['kept']:5} of {row['channels']}")

    small, masked = remove_channels(model, groups, kept), load_model(stage.models_dir, "original")
    mask_channels(masked, groups, kept)
    probe = load_split(stage.models_dir, "validation")[0][:8].astype(np.float32) / 255
    expected = masked(probe, training=False).numpy()
    difference = float(np.abs(small(probe, training=False).numpy() - expected).max() / np.abs(expected).max())
    if difference > SAME_OUTPUT:
        raise pipeline.UserError(f"the smaller network differs from the masked one by {difference:.1e} of the largest "
                                 "logit; nothing was written. Teach channel_groups the new layers of training.py")  # fmt: skip
    removed = 1 - sum(map(len, kept)) / sum(group.channels for group in groups)
    pipeline.say(f"{removed:.1%} of channels removed: {model.count_params():,} -> {small.count_params():,} parameters")
    return small, {"channels_removed": round(removed, 4), "differs_from_masked": difference}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The settings from the command line (`sys.argv` if `argv` is None)."""

    def sparsity(text: str) -> float | str:
        return text if text == "auto" else pipeline.bounded(float, 0.0, 0.98)(text)

    parser = pipeline.argument_parser(__doc__)
    parser.add_argument("--sparsity", type=sparsity, default=SPARSITY, metavar="SHARE",
                        help='share of zeros in each pruned kernel, 0 to 0.98, or "auto" (default: %(default)s)')  # fmt: skip
    parser.add_argument("--channels", type=pipeline.bounded(float, 0.0, 0.9), default=0.0, metavar="SHARE",
                        help="share of channels to remove first, 0 to 0.9 (default: 0)")  # fmt: skip
    parser.add_argument("--epochs", type=pipeline.bounded(int, 1), default=EPOCHS,
                        help="of fine-tuning (default: %(default)s)")  # fmt: skip
    parser.add_argument("--batch-size", type=pipeline.bounded(int, 1), default=BATCH_SIZE,
                        help="images per step (default: %(default)s)")  # fmt: skip
    parser.add_argument("--learning-rate", type=pipeline.bounded(float, 0), default=LEARNING_RATE,
                        help="peak learning rate of AdamW (default: %(default)s)")  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="go on from an unfinished run of the same settings")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Runs the stage; raises pipeline.UserError for what the user can mend."""
    arguments = parse(argv)
    models_dir = arguments.models_dir
    stage = pipeline.Stage(__file__, arguments)
    stage.require("dataset", "original")
    if arguments.if_needed and stage.up_to_date("pruned"):
        return

    keras.utils.set_random_seed(arguments.seed)
    data_set = pipeline.read_record(models_dir, "dataset")
    steps = arguments.epochs * (data_set["splits"]["train"]["examples"] // arguments.batch_size)
    teacher = load_model(models_dir, "original")
    network, metrics = load_model(models_dir, "original"), {}
    if arguments.channels:
        network, metrics = cut_channels(stage, network, arguments)
    if arguments.sparsity == "auto":
        images, masks = load_split(models_dir, "validation")
        rows = scan_sensitivity(network, images[:SCAN_IMAGES], masks[:SCAN_IMAGES])
        sparsity = choose_sparsity(rows)
        write_csv(models_dir / "pruned_sensitivity.csv", rows)
        draw_sensitivity(models_dir / "pruned_sensitivity.png", rows, sparsity)
        worst = sorted(rows, key=lambda row: -row[f"{SCAN_LEVELS[-1]:.0%}"])[:3]
        pipeline.say("breaks first: " + ", ".join(f"{row['layer']} ({row[f'{SCAN_LEVELS[-1]:.0%}']:+.3f})" for row in worst)
                     + f"; all in {models_dir / 'pruned_sensitivity.png'}")  # fmt: skip
    else:
        sparsity = dict.fromkeys(kernels(network, SMALLEST_KERNEL), arguments.sparsity) if arguments.sparsity else {}

    student = wrap(network, sparsity, steps) if sparsity else network
    # No moving average over zeros: an average of weights pruned at different times is not sparse.
    # An encoder that only gets zeros is spared, as in training; one that lost channels has more to mend (docs/choices.md).
    share = 1.0 if arguments.channels else ENCODER_SHARE
    optimizer = make_optimizer(steps, arguments.learning_rate, WARM_UP_STEPS, average=not sparsity, encoder_share=share)

    def loss(images: tf.Tensor, masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        imitation = distillation_loss(teacher(images, training=False), logits)
        return segmentation_loss(masks, logits) + DISTILLATION_WEIGHT * imitation

    callback = tfmot.sparsity.keras.UpdatePruningStep()  # called where Keras' own fit would call it
    callback.set_model(student)
    callback.on_train_begin()

    rising = int(arguments.epochs * PRUNING_SHARE) if sparsity and arguments.epochs > 1 else 0
    history = fit(student, optimizer, stage, "pruned", epochs=arguments.epochs, batch_size=arguments.batch_size,
                  seed=arguments.seed, loss=loss, resume=arguments.resume,
                  after_epoch=lambda: callback.on_epoch_end(None), choose_from=rising)  # fmt: skip

    pruned = tfmot.sparsity.keras.strip_pruning(student)
    per_layer = layer_sparsity(pruned, sparsity)
    if per_layer:
        pipeline.say(f"\n{'layer':24}{'weights':>10}{'zeros':>9}")
    for name, layer in per_layer.items():
        pipeline.say(f"{name:24}{layer['weights']:>10,}{layer['sparsity']:>9.1%}")
    achieved = total_sparsity(per_layer)
    asked = total_sparsity({name: layer | {"sparsity": sparsity[name]} for name, layer in per_layer.items()})
    if abs(achieved - asked) > TOLERANCE:
        raise pipeline.UserError(f"achieved sparsity {achieved:.3f} misses the {asked:.3f} asked for; "
                                 f"nothing was written. Give it more steps: --epochs {2 * arguments.epochs}")  # fmt: skip

    best = max(history[rising:], key=lambda row: row["mean_iou"])
    metrics |= {"sparsity": round(achieved, 4), "layers": per_layer, "parameters": pruned.count_params(),
                "best_epoch": best["epoch"], "validation_mean_iou": best["mean_iou"]}  # fmt: skip
    with stage.new_artifact("pruned", metrics) as path:
        save_model(pruned, path)
    (models_dir / ".pruned_channels.json").unlink(missing_ok=True)
    draw_curves(models_dir / "pruned_training.png", history,
                f"fine-tuning with {metrics.get('channels_removed', 0):.0%} fewer channels and {achieved:.0%} zeros")  # fmt: skip
    pipeline.say(f"wrote {pipeline.artifact_path(models_dir, 'pruned')}: {pruned.count_params():,} parameters, {achieved:.1%} "
                 f"zeros, validation mean IoU {best['mean_iou']:.4f} (epoch {best['epoch']}) "
                 f"in {stage.seconds() / 60:.1f} min")  # fmt: skip


if __name__ == "__main__":
    pipeline.run(main)
