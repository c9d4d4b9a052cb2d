"""Short trainings that differ in one thing: decoders and recipes, side by side on validation.

    python tests/benchmarks/recipe_variants.py --epochs 5              (all, one after the other)
    python tests/benchmarks/recipe_variants.py --epochs 5 half light   (these alone)
    python tests/benchmarks/recipe_variants.py --epochs 40 --preset small stronger cutmix
    python tests/benchmarks/recipe_variants.py --epochs 5 --table      (times what was trained)

Each variant trains as `training.py` does, with the default settings but for what it changes, and
leaves its curve, its int8 file, row.json and the pixel counts of each validation picture in
models/variants/PRESET_NAME_EPOCHS_SEED/ (default_NAME ... is NAME ...). One that was trained
already is left alone, one that was killed goes on. The table has the difference to the default of
the same preset, epochs and seed, with the 95 % interval of a paired bootstrap over pictures; what
two seeds differ in comes on top. Never reads the test split.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from compare_files import time_files

import quantization
import training
from pipeline.base import console
from pipeline.base.artifacts import MODELS_DIR, artifact_path, read_record
from pipeline.base.cli import SEED
from pipeline.base.files import write_json
from pipeline.base.lazy import keras, tf
from pipeline.data.dataset import load_split
from pipeline.evaluation import accuracy
from pipeline.evaluation.bootstrap import bootstrap_mean_iou, interval
from pipeline.inference import keras_files
from pipeline.quantization.convert import calibration_sample, convert
from pipeline.training import input_pipeline, losses, networks, optimizers, views

LATENCY_RUNS = 300


def rectangles(images: tf.Tensor, draws: tf.Tensor, least: float, more: float) -> tf.Tensor:
    """Of half of the images, the pixels of a random rectangle: bool (batch, size, size).

    Its sides are `least` to `least + more` of the image's. The random numbers are those of
    `input_pipeline.augment`, scrambled, so that they have nothing to do with its changes.
    """
    dice = tf.math.floormod(draws[:, :5] * 997.0, 1.0)
    height, width = (least + more * dice[:, k, None, None] for k in (0, 1))
    top, left = (1 - height) * dice[:, 2, None, None], (1 - width) * dice[:, 3, None, None]
    place = tf.linspace(0.0, 1.0, tf.shape(images)[1])
    rows, columns = place[None, :, None], place[None, None, :]
    inside = (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)
    return inside & (dice[:, 4, None, None] < 0.5)


def after_augmentation(more: Callable[..., tuple[tf.Tensor, tf.Tensor]]) -> None:
    """Lets `more` change what augmentation gives; it takes images, masks and random numbers."""
    plain = input_pipeline.augment

    def augment(
        images: tf.Tensor, masks: tf.Tensor, draws: tf.Tensor, ignored: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        return more(*plain(images, masks, draws, ignored), draws)

    input_pipeline.augment = augment


def cutmix() -> None:
    """Half of the images get a rectangle of the next one of the batch, mask and all.

    Yun et al. 2019.
    """

    def mix(images: tf.Tensor, masks: tf.Tensor, draws: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        inside = rectangles(images, draws, 0.2, 0.4)
        other_images, other_masks = tf.roll(images, 1, 0), tf.roll(masks, 1, 0)
        images = tf.where(inside[..., None], other_images, images)
        return images, tf.where(inside, other_masks, masks)

    after_augmentation(mix)


def cutout() -> None:
    """Half of the images lose a rectangle, which becomes grey; the mask stays.

    DeVries and Taylor 2017.
    """

    def cut(images: tf.Tensor, masks: tf.Tensor, draws: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        inside = rectangles(images, draws, 0.1, 0.25)
        return tf.where(inside[..., None], 0.5, images), masks

    after_augmentation(cut)


def lovasz() -> None:
    """Lovasz-softmax (Berman et al. 2018) instead of the soft Jaccard term."""

    def loss(masks: tf.Tensor, logits: tf.Tensor, _: Any = None) -> tf.Tensor:
        entropies = tf.nn.sparse_softmax_cross_entropy_with_logits(masks, logits)
        classes = logits.shape[-1]
        probabilities = tf.reshape(tf.nn.softmax(logits), (-1, classes))
        labels, terms = tf.reshape(masks, (-1,)), []
        for index in range(classes):
            truth = tf.cast(labels == index, tf.float32)
            wrong = tf.abs(truth - probabilities[:, index])
            errors, order = tf.math.top_k(wrong, k=tf.size(labels))
            truth = tf.gather(truth, order)
            shared = tf.reduce_sum(truth) - tf.cumsum(truth)
            either = tf.reduce_sum(truth) + tf.cumsum(1 - truth)
            jaccard = 1 - shared / either
            steps = tf.concat([jaccard[:1], jaccard[1:] - jaccard[:-1]], 0)
            terms.append(tf.reduce_sum(errors * tf.stop_gradient(steps)))
        return tf.reduce_mean(entropies) + tf.add_n(terms) / len(terms)

    losses.segmentation_loss = loss  # where `Objective` looks it up


def soft_edges() -> None:
    """Cross-entropy against masks blurred by 3 x 3 pixels: an edge may lie a pixel off."""

    def loss(masks: tf.Tensor, logits: tf.Tensor, _: Any = None) -> tf.Tensor:
        truth = tf.one_hot(masks, logits.shape[-1])
        ring = tf.pad(truth, ((0, 0), (1, 1), (1, 1), (0, 0)), "SYMMETRIC")
        rows = (ring[:, :-2] + 2 * ring[:, 1:-1] + ring[:, 2:]) / 4
        soft = (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 4
        entropy = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(soft, logits))
        return entropy + losses.JACCARD_WEIGHT * soft_jaccard(truth, tf.nn.softmax(logits))

    losses.segmentation_loss = loss


def heavy_edges() -> None:
    """Cross-entropy in which a pixel beside one of another class counts three times."""

    def loss(masks: tf.Tensor, logits: tf.Tensor, _: Any = None) -> tf.Tensor:
        classes = tf.cast(masks[..., None], tf.float32)
        high = tf.nn.max_pool2d(classes, 3, 1, "SAME")
        low = -tf.nn.max_pool2d(-classes, 3, 1, "SAME")
        weight = tf.where(high[..., 0] > low[..., 0], 3.0, 1.0)
        each = tf.nn.sparse_softmax_cross_entropy_with_logits(masks, logits)
        entropy = tf.reduce_sum(weight * each) / tf.reduce_sum(weight)
        truth = tf.one_hot(masks, logits.shape[-1])
        return entropy + losses.JACCARD_WEIGHT * soft_jaccard(truth, tf.nn.softmax(logits))

    losses.segmentation_loss = loss


def plain_probabilities(model: Any, images: tf.Tensor) -> tf.Tensor:
    """In the place of `losses.mirrored_probabilities`."""
    return tf.nn.softmax(model(images, training=False))


def soft_jaccard(truth: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
    """The soft Jaccard distance of `losses.segmentation_loss`."""
    shared = tf.reduce_sum(truth * probabilities, axis=(0, 1, 2))
    either = tf.reduce_sum(truth + probabilities, axis=(0, 1, 2)) - shared
    return tf.reduce_mean(1 - (shared + 1) / (either + 1))


def high_rate() -> None:
    """The rate decays to 0.3 of its peak, and the average reaches back a tenth of all steps.

    After stochastic weight averaging (Izmailov et al. 2018).
    """
    schedules = keras.optimizers.schedules
    schedules.CosineDecay = functools.partial(schedules.CosineDecay, alpha=0.3)
    optimizers.EMA_WINDOW = 0.1


def nothing() -> None:
    """Leaves all as it is."""


def setting(module: ModuleType, **values: Any) -> Callable[[], None]:
    """Other values for a module's constants."""
    unknown = [name for name in values if not hasattr(module, name)]
    assert not unknown, unknown  # a variant that changes nothing would be no variant

    def change() -> None:
        for name, value in values.items():
            setattr(module, name, value)

    return change


def decoder(*filters: int) -> Callable[[], None]:
    """Another decoder in every preset."""
    presets = {name: each._replace(decoder=filters) for name, each in networks.PRESETS.items()}
    return setting(networks, PRESETS=presets)


# EfficientNet-Lite0, nothing cut off.
WHOLE_ENCODER = (*networks.ENCODER_STAGES[:-1], (5, 2, 6, 192, 4), (3, 1, 6, 320, 1))

FIRST = ["--batch-size", "32", "--learning-rate", "2e-3"]  # of the first recipe that was tried

# name: (what differs from the default, how, further flags of training.py)
VARIANTS: dict[str, tuple[str, Callable[[], None], list[str]]] = {
    "default": (
        "decoder 144-96-72, a 5x5 and a 3x3 at each scale; image enlarged 1.25 times; "
        "encoder at 0.3 of the rate",
        nothing,
        [],
    ),
    "enlarge_1": ("image not enlarged", nothing, ["--enlarge", "1"]),
    "enlarge_1.5": ("image enlarged 1.5 times", nothing, ["--enlarge", "1.5"]),
    "before": (
        "the default before: decoder 96-64-48, image not enlarged",
        decoder(96, 64, 48),
        ["--enlarge", "1"],
    ),
    "narrow": ("decoder 96-64-48", decoder(96, 64, 48), []),
    "light": ("decoder 64-48-32", decoder(64, 48, 32), []),
    "half": (
        "decoder 144-96-72-48: one scale more, logits 2x2 at half resolution",
        decoder(144, 96, 72, 48),
        [],
    ),
    "eighth": (
        "decoder 144-96: one scale less, logits 8x8 at an eighth",
        decoder(144, 96),
        [],
    ),
    "one_block": (
        "one 5x5 at each scale of the decoder",
        setting(networks, DECODER_KERNELS=(5,)),
        [],
    ),
    "three_blocks": (
        "7x7, 5x5 and 3x3 at each scale of the decoder",
        setting(networks, DECODER_KERNELS=(7, 5, 3)),
        [],
    ),
    "large": (
        "image enlarged 1.5 times; all of the encoder",
        setting(networks, ENCODER_STAGES=WHOLE_ENCODER),
        ["--enlarge", "1.5"],
    ),
    "small": ("the small preset", nothing, ["--preset", "small"]),
    "large_preset": ("the large preset", nothing, ["--preset", "large"]),
    "one_rate": ("one learning rate for all", setting(training, ENCODER_SHARE=1.0), []),
    "batch_32": (
        "batch 32, peak learning rate 2e-3, one rate for all",
        setting(training, ENCODER_SHARE=1.0),
        FIRST,
    ),
    "batch_8": (
        "batch 8, peak learning rate 1e-3",
        nothing,
        ["--batch-size", "8", "--learning-rate", "1e-3"],
    ),
    "rate_4e-3": ("peak learning rate 4e-3", nothing, ["--learning-rate", "4e-3"]),
    "rate_1e-3": ("peak learning rate 1e-3", nothing, ["--learning-rate", "1e-3"]),
    "cross_entropy": ("cross-entropy alone", setting(losses, JACCARD_WEIGHT=0.0), []),
    "jaccard_3": (
        "soft Jaccard term three times as heavy",
        setting(losses, JACCARD_WEIGHT=3.0),
        [],
    ),
    "lovasz": ("Lovasz-softmax instead of soft Jaccard", lovasz, []),
    "soft_edges": ("cross-entropy against blurred masks", soft_edges, []),
    "heavy_edges": ("pixels at edges count three times in cross-entropy", heavy_edges, []),
    "cutmix": ("CutMix on half of the images", cutmix, []),
    "cutout": ("cutout on half of the images", cutout, []),
    "milder": (
        "crops from 0.8 of the side, 6 degrees, colours 0.15",
        setting(input_pipeline, SMALLEST_CROP=0.8, ROTATION=6.0, COLOUR_CHANGE=0.15),
        [],
    ),
    "no_rotation": ("no rotation", setting(input_pipeline, ROTATION=0.0), []),
    "stronger": (
        "crops from 0.5 of the side, 20 degrees, colours 0.4",
        setting(input_pipeline, SMALLEST_CROP=0.5, ROTATION=20.0, COLOUR_CHANGE=0.4),
        [],
    ),
    "masks_alone": ("never its own teacher", nothing, ["--taught-epochs", "0"]),
    "same_size": (
        "its own teacher on images of the same size",
        setting(views, STUDENT_RESOLUTION=1.0),
        [],
    ),
    "not_mirrored": (
        "a teacher that does not see the mirror image",
        setting(losses, mirrored_probabilities=plain_probabilities),
        [],
    ),
    "weights_after": (
        "no share of the weights before the taught epochs",
        setting(training, WISE_FT_WEIGHT=0.0),
        [],
    ),
    "high_rate": ("rate ends at 0.3 of its peak, average over a tenth", high_rate, []),
    "decay_0.2": ("weight decay 0.2 instead of 0.02", setting(optimizers, WEIGHT_DECAY=0.2), []),
}


def folder_of(arguments: argparse.Namespace, name: str) -> Path:
    """Where a variant's files lie."""
    preset = "" if arguments.preset == "default" else f"{arguments.preset}_"
    where = f"{preset}{name}_{arguments.epochs}_{arguments.seed}"
    return arguments.models_dir / "variants" / where


def train(arguments: argparse.Namespace) -> None:
    """Trains one variant, in a process of its own: variants change modules."""
    (name,) = arguments.names
    about, change, flags = VARIANTS[name]
    models_dir = folder_of(arguments, name)
    models_dir.mkdir(parents=True, exist_ok=True)
    if not (models_dir / "dataset").exists():
        (models_dir / "dataset").symlink_to((arguments.models_dir / "dataset").resolve())
    change()
    common = {
        "models-dir": models_dir,
        "preset": arguments.preset,
        "epochs": arguments.epochs,
        "seed": arguments.seed,
    }
    settings = [f"--{key}={value}" for key, value in common.items()]
    training.main([*settings, *flags, "--resume"])
    metrics = read_record(models_dir, "original")["metrics"]
    model = keras_files.load_model(models_dir, "original")
    _, calibration = calibration_sample(models_dir, quantization.CALIBRATION_IMAGES, SEED)
    artifact_path(models_dir, "int8").write_bytes(convert(model, "int8", calibration))
    images, masks = load_split(models_dir, "validation")
    classes = model.output_shape[-1]
    counts = accuracy.measure(models_dir, "original", images, masks, classes).per_image
    np.save(models_dir / "counts.npy", counts)
    row = {"name": name, "about": about, "epochs": arguments.epochs, "seed": arguments.seed}
    write_json(models_dir / "row.json", row | metrics)


def table(folders: list[Path]) -> None:
    """Prints a Markdown table of the trained variants; their int8 files take turns."""
    if not folders:
        raise console.UserError(
            "no variant of these epochs and seed has been trained yet; run this without --table"
        )
    rows = [json.loads((folder / "row.json").read_text()) for folder in folders]
    counts = {row["name"]: np.load(folder / "counts.npy") for row, folder in zip(rows, folders)}
    samples = bootstrap_mean_iou(counts, rows[0]["seed"])  # all rows are of one seed
    means = {row["name"]: row["validation_mean_iou"] for row in rows}
    files = {row["name"]: artifact_path(folder, "int8") for row, folder in zip(rows, folders)}
    times = time_files(files, 1, LATENCY_RUNS)
    heads = ("variant", "what differs", "epochs", "seed", "parameters", "int8 ms")
    console.say(f"| {' | '.join(heads)} | validation mean IoU | against default (95 % interval) |")
    console.say("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        name, against = row["name"], ""
        if name != "default" and "default" in samples:
            low, high = interval(samples[name] - samples["default"])
            against = f"{means[name] - means['default']:+.4f} ({low:+.4f} to {high:+.4f})"
        cells = [
            name,
            row["about"],
            str(row["epochs"]),
            str(row["seed"]),
            f"{row['parameters']:,}",
            f"{np.median(times[name][0]):.2f}",
            f"{means[name]:.4f}",
            against,
        ]
        console.say(f"| {' | '.join(cells)} |")


def main() -> None:
    """Trains variants that were not trained yet, or prints the table of those that were."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join(VARIANTS)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {names} (default: all)")
    parser.add_argument("--models-dir", type=Path, default=MODELS_DIR)
    parser.add_argument("--preset", choices=tuple(networks.PRESETS), default="default")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--table", action="store_true", help="print the table of what was trained")
    # Trains it in this process.
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.names = arguments.names or list(VARIANTS)
    if unknown := set(arguments.names) - set(VARIANTS):
        raise console.UserError(f"there is no variant {', '.join(unknown)}; choose from {names}")
    folders = {name: folder_of(arguments, name) for name in arguments.names}
    if arguments.one:
        train(arguments)
        return
    if arguments.table:
        table([folder for folder in folders.values() if (folder / "row.json").exists()])
        return
    same = ("models_dir", "preset", "epochs", "seed")
    common = {key: getattr(arguments, key) for key in same}
    settings = [f"--{key.replace('_', '-')}={value}" for key, value in common.items()]
    for name, folder in folders.items():
        if not (folder / "row.json").exists():
            console.say(f"--- {name}: {VARIANTS[name][0]}")
            subprocess.run([sys.executable, __file__, "--one", *settings, name], check=True)


if __name__ == "__main__":
    console.run(main)
