"""What reading and augmenting batches costs a training: real batches against one cached batch.

    python tests/benchmarks/input_pipeline.py --models-dir models

Both train the same network; their steps take turns, so that a noisy machine hits both alike.
The share is the time by which a step on real batches is longer. Writes nothing.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import training
from pipeline.base import console
from pipeline.base.artifacts import MODELS_DIR
from pipeline.base.cli import SEED
from pipeline.base.lazy import keras, tf
from pipeline.data.dataset import load_classes, load_split
from pipeline.training import input_pipeline, loop, losses, networks, optimizers

IN_TURN = 10  # steps of one kind, before those of the other
PREFETCHED = 3  # batches that were made meanwhile


def real_batches(
    images: np.ndarray, masks: np.ndarray, batch_size: int
) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """The batches of one epoch after the other, without end."""
    for epoch in itertools.count():
        yield from input_pipeline.epoch_batches(images, masks, batch_size, SEED, epoch)


def train_step(model: keras.Model) -> Callable[..., tf.Tensor]:
    """What trains a model for one step, as training.py does."""
    optimizer = optimizers.make_optimizer(10_000, training.LEARNING_RATE, training.WARM_UP_STEPS)
    optimizer.build(model.trainable_variables)
    return loop.make_train_step(
        model,
        optimizer,
        tf.distribute.get_strategy(),
        losses.Objective(),
    )


def main() -> None:
    """Prints the time of a step of either kind, and the difference."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models-dir", type=Path, default=MODELS_DIR)
    parser.add_argument("--architecture", choices=tuple(networks.NETWORKS), default="compact")
    parser.add_argument("--batch-size", type=int, default=training.BATCH_SIZE)
    parser.add_argument(
        "--steps", type=int, default=100, help="timed steps of each kind (default: %(default)s)"
    )
    arguments = parser.parse_args()
    images, masks = load_split(arguments.models_dir, "train")
    classes = len(load_classes(arguments.models_dir))
    model = networks.NETWORKS[arguments.architecture](images.shape[1:3], classes)
    step = train_step(model)
    real = real_batches(images, masks, arguments.batch_size)
    cached = next(real)
    for _ in range(3):  # tracing and warm-up
        float(step(*cached))

    # Turns of several steps: prefetched batches must not be had for nothing while the other kind
    # runs.
    times = {"real batches": [], "one cached batch": []}
    for _ in range(-(-arguments.steps // IN_TURN)):
        for _ in range(PREFETCHED):
            next(real)
        for name, source in (
            ("real batches", real),
            ("one cached batch", itertools.repeat(cached)),
        ):
            started = time.perf_counter()
            for batch in itertools.islice(source, IN_TURN):
                float(step(*batch))
            times[name].append((time.perf_counter() - started) / IN_TURN)
    medians = {name: float(np.median(values)) for name, values in times.items()}
    for name, seconds in medians.items():
        rate = arguments.batch_size / seconds
        console.say(f"{name:18}{1e3 * seconds:9.1f} ms per step{rate:9.1f} images/s")
    share = 1 - medians["one cached batch"] / medians["real batches"]
    console.say(f"the input pipeline costs {share:.1%} of a step")


if __name__ == "__main__":
    console.run(main)
