"""What trained networks say together, of the mirror image, and of the image at another size.

    python tests/benchmarks/averaged_views.py models [DIR ...]
    python tests/benchmarks/averaged_views.py models --split train --images 1000
    python tests/benchmarks/averaged_views.py models --enlarge 1.5   (not what it was trained at)

Prints mean IoU and IoU of each class of every folder's original network, alone and averaged with
the mirror image, and, of several, of their average and of one network with the mean of their
weights (of use where one was trained on from the other). The training split shows what was learned
by heart. Never reads the test split.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pipeline.base import cli, console
from pipeline.base.lazy import keras, tf
from pipeline.data.dataset import load_classes, load_split
from pipeline.inference import iou
from pipeline.inference.keras_files import load_model
from pipeline.training import networks

BATCH_SIZE = 32


def enlarging(model: keras.Model, factor: float) -> keras.Model:
    """A compact network's weights in one that enlarges the image by another factor."""
    decoder = tuple(each.filters for each in model.layers if each.name.endswith("_deep"))
    size, classes = model.input_shape[1:3], model.output_shape[-1]
    other = networks.compact_unet(size, classes, factor, decoder)
    other.set_weights(model.get_weights())
    return other


def probabilities(model: keras.Model, images: Any) -> np.ndarray:
    """Of uint8 images and of their mirror images: float32 (2, n, height, width, classes)."""
    found = []
    for start in range(0, len(images), BATCH_SIZE):
        batch = np.asarray(images[start : start + BATCH_SIZE], np.float32) / 255
        plain = tf.nn.softmax(model(batch, training=False))
        mirrored = tf.nn.softmax(model(batch[:, :, ::-1], training=False))[:, :, ::-1]
        found.append(np.stack([plain, mirrored]))
    return np.concatenate(found, axis=1)


def main() -> None:
    """Asks the networks and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="of one data set")
    parser.add_argument("--split", choices=("validation", "train"), default="validation")
    parser.add_argument("--images", type=cli.bounded(int, 1), help="the first ones (default: all)")
    parser.add_argument("--enlarge", type=cli.bounded(float, 0.25, 4.0), metavar="FACTOR")
    arguments = parser.parse_args()
    images, masks = load_split(arguments.folders[0], arguments.split)
    classes = load_classes(arguments.folders[0])
    images, masks = images[: arguments.images], np.asarray(masks[: arguments.images])

    def show(name: str, views: np.ndarray) -> None:
        """Prints what the average of some views (views, n, height, width, classes) is worth."""
        found = views.sum(axis=0).argmax(-1)
        per_class = iou.iou_per_class(iou.class_counts(masks, found, len(classes)).sum(axis=0))
        each = ", ".join(f"{key} {value:.4f}" for key, value in zip(classes.names, iou))
        console.say(f"{iou.mean_iou(per_class):.4f} ({each})  {name}")

    console.say(f"{len(masks)} pictures of {arguments.split}")
    everything, weights = [], []
    for folder in arguments.folders:
        model = load_model(folder, "original")
        model = enlarging(model, arguments.enlarge) if arguments.enlarge else model
        views = probabilities(model, images)
        show(f"{folder}", views[:1])
        show(f"{folder} and mirror image", views)
        everything.append(views)
        weights.append(model.get_weights())
    if len(everything) > 1:
        show("all", np.concatenate([views[:1] for views in everything]))
        show("all and mirror images", np.concatenate(everything))
        shapes = [[each.shape for each in every] for every in weights]
        if all(each == shapes[0] for each in shapes):
            model.set_weights([np.mean(each, axis=0) for each in zip(*weights)])
            show("the mean of their weights", probabilities(model, images)[:1])


if __name__ == "__main__":
    console.run(main)
