"""Short trainings that differ in one thing: decoders and recipes, side by side on the validation split.

    python tests/benchmarks/recipe_variants.py --epochs 5              (all variants, one after the other)
    python tests/benchmarks/recipe_variants.py --epochs 5 wide light   (these alone)
    python tests/benchmarks/recipe_variants.py --table                 (times what was trained, prints the table)

Each variant trains as `training.py` does, with the default settings but for what it changes, and leaves
its curve, its int8 file and row.json in models/variants/NAME/. One that was trained already is left alone.
Never reads the test split.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import pipeline  # first: it sets what TensorFlow reads at import
import quantization
import training
from compare_files import time_files

import numpy as np
import tensorflow as tf

LATENCY_RUNS = 300


def cutmix() -> None:
    """Half of the images get a rectangle of the next image of the batch, mask and all (Yun et al. 2019)."""
    plain = training.augment

    def augment(images: tf.Tensor, masks: tf.Tensor, draws: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images, masks = plain(images, masks, draws)
        dice = tf.math.floormod(draws[:, :5] * 997.0, 1.0)  # numbers that the other changes do not use
        height, width = (0.2 + 0.4 * dice[:, k, None, None] for k in (0, 1))
        top, left = (1 - height) * dice[:, 2, None, None], (1 - width) * dice[:, 3, None, None]
        place = tf.linspace(0.0, 1.0, tf.shape(images)[1])
        rows, columns = place[None, :, None], place[None, None, :]
        inside = (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)
        inside &= dice[:, 4, None, None] < 0.5
        other_images, other_masks = tf.roll(images, 1, 0), tf.roll(masks, 1, 0)
        return tf.where(inside[..., None], other_images, images), tf.where(inside, other_masks, masks)

    training.augment = augment


def cutout() -> None:
    """Half of the images lose a rectangle, which becomes grey; the mask stays (DeVries and Taylor 2017)."""
    plain = training.augment

    def augment(images: tf.Tensor, masks: tf.Tensor, draws: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images, masks = plain(images, masks, draws)
        dice = tf.math.floormod(draws[:, :5] * 997.0, 1.0)
        height, width = (0.1 + 0.25 * dice[:, k, None, None] for k in (0, 1))
        top, left = (1 - height) * dice[:, 2, None, None], (1 - width) * dice[:, 3, None, None]
        place = tf.linspace(0.0, 1.0, tf.shape(images)[1])
        rows, columns = place[None, :, None], place[None, None, :]
        inside = (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)
        inside &= dice[:, 4, None, None] < 0.5
        return tf.where(inside[..., None], 0.5, images), masks

    training.augment = augment


def lovasz() -> None:
    """Lovasz-softmax (Berman et al. 2018) instead of the soft Jaccard term."""

    def loss(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        cross_entropy = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(masks, logits))
        probabilities = tf.reshape(tf.nn.softmax(logits), (-1, training.NUMBER_OF_CLASSES))
        labels, terms = tf.reshape(masks, (-1,)), []
        for index in range(training.NUMBER_OF_CLASSES):
            truth = tf.cast(labels == index, tf.float32)
            errors, order = tf.math.top_k(tf.abs(truth - probabilities[:, index]), k=tf.size(labels))
            truth = tf.gather(truth, order)
            shared = tf.reduce_sum(truth) - tf.cumsum(truth)
            either = tf.reduce_sum(truth) + tf.cumsum(1 - truth)
            jaccard = 1 - shared / either
            steps = tf.concat([jaccard[:1], jaccard[1:] - jaccard[:-1]], 0)
            terms.append(tf.reduce_sum(errors * tf.stop_gradient(steps)))
        return cross_entropy + tf.add_n(terms) / len(terms)

    training.segmentation_loss = loss


def setting(**values: Any) -> Callable[[], None]:
    """Other values for settings of training.py."""

    def change() -> None:
        for name, value in values.items():
            setattr(training, name, value)

    return change


WHOLE_ENCODER = (*training.ENCODER_STAGES[:-1], (5, 2, 6, 192, 4), (3, 1, 6, 320, 1))  # EfficientNet-Lite0, nothing cut off

FIRST = ["--batch-size", "32", "--learning-rate", "2e-3"]  # of the first recipe that was tried

# name: (what differs from the default, how, further flags of training.py)
VARIANTS: dict[str, tuple[str, Callable[[], None], list[str]]] = {
    "default": ("decoder 144-96-72, a 5x5 and a 3x3 at each scale; image enlarged 1.25 times; encoder at 0.3 of the rate",
                lambda: None, []),
    "enlarge_1": ("image not enlarged", lambda: None, ["--enlarge", "1"]),
    "enlarge_1.5": ("image enlarged 1.5 times", lambda: None, ["--enlarge", "1.5"]),
    "before": ("the default before: decoder 96-64-48, image not enlarged",
               setting(DECODER_FILTERS=(96, 64, 48)), ["--enlarge", "1"]),
    "narrow": ("decoder 96-64-48", setting(DECODER_FILTERS=(96, 64, 48)), []),
    "light": ("decoder 64-48-32", setting(DECODER_FILTERS=(64, 48, 32)), []),
    "half": ("decoder 144-96-72-48: one scale more, logits 2x2 at half resolution",
             setting(DECODER_FILTERS=(144, 96, 72, 48)), []),
    "eighth": ("decoder 144-96: one scale less, logits 8x8 at an eighth", setting(DECODER_FILTERS=(144, 96)), []),
    "one_block": ("one 5x5 at each scale of the decoder", setting(DECODER_KERNELS=(5,)), []),
    "three_blocks": ("7x7, 5x5 and 3x3 at each scale of the decoder", setting(DECODER_KERNELS=(7, 5, 3)), []),
    "large": ("image enlarged 1.5 times; all of the encoder", setting(ENCODER_STAGES=WHOLE_ENCODER), ["--enlarge", "1.5"]),
    "one_rate": ("one learning rate for all", setting(ENCODER_SHARE=1.0), []),
    "batch_32": ("batch 32, peak learning rate 2e-3, one rate for all", setting(ENCODER_SHARE=1.0), FIRST),
    "batch_8": ("batch 8, peak learning rate 1e-3", lambda: None, ["--batch-size", "8", "--learning-rate", "1e-3"]),
    "rate_4e-3": ("peak learning rate 4e-3", lambda: None, ["--learning-rate", "4e-3"]),
    "rate_1e-3": ("peak learning rate 1e-3", lambda: None, ["--learning-rate", "1e-3"]),
    "cross_entropy": ("cross-entropy alone", setting(JACCARD_WEIGHT=0.0), []),
    "jaccard_3": ("soft Jaccard term three times as heavy", setting(JACCARD_WEIGHT=3.0), []),
    "lovasz": ("Lovasz-softmax instead of soft Jaccard", lovasz, []),
    "cutmix": ("CutMix on half of the images", cutmix, []),
    "cutout": ("cutout on half of the images", cutout, []),
    "milder": ("crops from 0.8 of the side, 6 degrees, colours 0.15",
               setting(SMALLEST_CROP=0.8, ROTATION=6.0, COLOUR_CHANGE=0.15), []),
    "no_rotation": ("no rotation", setting(ROTATION=0.0), []),
}  # fmt: skip


def train(arguments: argparse.Namespace) -> None:
    """Trains one variant, in a process of its own: variants change the training module."""
    (name,) = arguments.names
    about, change, flags = VARIANTS[name]
    models_dir = arguments.models_dir / "variants" / name
    models_dir.mkdir(parents=True, exist_ok=True)
    if not (models_dir / "dataset").exists():
        (models_dir / "dataset").symlink_to((arguments.models_dir / "dataset").resolve())
    change()
    training.main(["--models-dir", str(models_dir), "--epochs", str(arguments.epochs), "--seed", str(arguments.seed), *flags])
    metrics = pipeline.read_record(models_dir, "original")["metrics"]
    model = training.load_model(models_dir, "original")
    _, calibration = quantization.calibration_sample(models_dir, quantization.CALIBRATION_IMAGES, pipeline.SEED)
    pipeline.artifact_path(models_dir, "int8").write_bytes(quantization.convert(model, "int8", calibration))
    row = {"name": name, "about": about, "epochs": arguments.epochs, "seed": arguments.seed, **metrics}
    pipeline.write_json(models_dir / "row.json", row)


def table(folders: list[Path]) -> None:
    """Prints a Markdown table of the trained variants; their int8 files take turns on one thread."""
    rows = [json.loads((folder / "row.json").read_text()) for folder in folders]
    files = {row["name"]: pipeline.artifact_path(folder, "int8") for row, folder in zip(rows, folders)}
    milliseconds = {name: np.median(times) for name, (times, _) in time_files(files, 1, LATENCY_RUNS).items()}
    pipeline.say("| variant | what differs | epochs | parameters | int8 ms | validation mean IoU |")
    pipeline.say("| --- | --- | ---: | ---: | ---: | ---: |")
    for row in rows:
        pipeline.say(f"| {row['name']} | {row['about']} | {row['epochs']} | {row['parameters']:,} "
                     f"| {milliseconds[row['name']]:.2f} | {row['validation_mean_iou']:.4f} |")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(VARIANTS)} (default: all)")
    parser.add_argument("--models-dir", type=Path, default=pipeline.MODELS_DIR)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=pipeline.SEED)
    parser.add_argument("--table", action="store_true", help="print the table of what was trained")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # train it in this process
    arguments = parser.parse_args()
    arguments.names = arguments.names or list(VARIANTS)
    if unknown := set(arguments.names) - set(VARIANTS):
        raise pipeline.UserError(f"there is no variant {', '.join(unknown)}; choose from {', '.join(VARIANTS)}")
    folders = {name: arguments.models_dir / "variants" / name for name in arguments.names}
    if arguments.one:
        train(arguments)
    elif arguments.table:
        table([folder for folder in folders.values() if (folder / "row.json").exists()])
    else:
        for name, folder in folders.items():
            if not (folder / "row.json").exists():
                pipeline.say(f"--- {name}: {VARIANTS[name][0]}")
                settings = ["--models-dir", arguments.models_dir, "--epochs", arguments.epochs, "--seed", arguments.seed]
                subprocess.run([sys.executable, __file__, "--one", *map(str, settings), name], check=True)


if __name__ == "__main__":
    pipeline.run(main)
