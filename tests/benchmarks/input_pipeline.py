"""What reading and augmenting batches costs a training: real batches against one cached batch.

    python tests/benchmarks/input_pipeline.py --models-dir models

Both train the same network; their steps take turns, so that a noisy machine hits both alike.
The share is the time by which a step on real batches is longer. Writes nothing.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pipeline  # first: it sets what TensorFlow reads at import
import training
from data_preparation import load_split

import tensorflow as tf


def real_batches(images: np.ndarray, masks: np.ndarray, batch_size: int) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """The batches of one epoch after the other, without end."""
    for epoch in itertools.count():
        yield from training.epoch_batches(images, masks, batch_size, pipeline.SEED, epoch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models-dir", type=Path, default=pipeline.MODELS_DIR)
    parser.add_argument("--architecture", choices=tuple(training.NETWORKS), default="compact")
    parser.add_argument("--batch-size", type=int, default=training.BATCH_SIZE)
    parser.add_argument("--steps", type=int, default=100, help="timed steps of each kind (default: %(default)s)")
    arguments = parser.parse_args()
    images, masks = load_split(arguments.models_dir, "train")
    model = training.NETWORKS[arguments.architecture](images.shape[1])
    optimizer = training.make_optimizer(10_000, training.LEARNING_RATE, training.WARM_UP_STEPS)
    optimizer.build(model.trainable_variables)
    step = training.make_train_step(model, optimizer, tf.distribute.get_strategy(),
                                    lambda images, masks, logits: training.segmentation_loss(masks, logits))  # fmt: skip
    batches = real_batches(images, masks, arguments.batch_size)
    cached = next(batches)
    for _ in range(3):  # tracing and warm-up
        float(step(*cached))

    # Turns of several steps: prefetched batches must not be had for nothing while the other kind runs.
    turn, times = 10, {"real": [], "cached": []}
    for _ in range(-(-arguments.steps // turn)):
        next(batches), next(batches), next(batches)  # what was prefetched during the other's turn
        started = time.perf_counter()
        for _ in range(turn):
            float(step(*next(batches)))
        times["real"].append((time.perf_counter() - started) / turn)
        started = time.perf_counter()
        for _ in range(turn):
            float(step(*cached))
        times["cached"].append((time.perf_counter() - started) / turn)
    real, alone = np.median(times["real"]), np.median(times["cached"])
    for name, seconds in (("real batches", real), ("one cached batch", alone)):
        pipeline.say(f"{name:18}{1e3 * seconds:9.1f} ms per step{arguments.batch_size / seconds:9.1f} images/s")
    pipeline.say(f"the input pipeline costs {1 - alone / real:.1%} of a step")


if __name__ == "__main__":
    main()
