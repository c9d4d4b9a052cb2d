"""Bootstrap intervals of the mean IoU, and the mean IoU of a constant prediction."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipeline.inference.iou import iou_per_class, mean_iou

BOOTSTRAP_SAMPLES = 2000
BLOCK_DRAWS = 4_000_000  # draws (bootstrap samples x images) in memory at a time


def constant_baseline(truth: np.ndarray) -> tuple[int, float]:
    """The best mean IoU of a model that predicts the same class for every pixel.

    Args:
        truth: pixels of each class in the masks of a split, integers (classes,).

    Returns:
        Index of that class, and the mean IoU: the class's share of the pixels, divided by the
        number of classes that occur.
    """
    best = int(np.argmax(truth))
    return best, float(truth[best] / max(1, truth.sum()) / max(1, np.count_nonzero(truth)))


def bootstrap_mean_iou(counts: Mapping[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Mean IoU of bootstrap resamples of the images, see `bootstrap_iou`.

    Returns:
        By model, float64 (BOOTSTRAP_SAMPLES,) in 0..1, not sorted.
    """
    return {name: mean_iou(iou) for name, iou in bootstrap_iou(counts, seed).items()}


def bootstrap_iou(counts: Mapping[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """IoU of each class in bootstrap resamples of the images.

    Efron 1979, *Another Look at the Jackknife*. The resamples are drawn once and are those of every
    model, so that differences between models are paired.

    Args:
        counts: by model, integers (n, 3, classes) as from `class_counts`, of the same n images.

    Returns:
        By model, float64 (BOOTSTRAP_SAMPLES, classes) in 0..1, not sorted; NaN as `iou_per_class`.
    """
    (images,) = {len(of_model) for of_model in counts.values()}
    random, probabilities = np.random.default_rng(seed), np.full(images, 1 / images)
    flat = {name: array.reshape(images, -1).astype(np.float64) for name, array in counts.items()}
    samples: dict[str, list[np.ndarray]] = {name: [] for name in counts}
    block = max(1, BLOCK_DRAWS // images)
    for start in range(0, BOOTSTRAP_SAMPLES, block):
        # How often each image is drawn.
        number = min(block, BOOTSTRAP_SAMPLES - start)
        drawn = random.multinomial(images, probabilities, number).astype(np.float64)
        for name, array in flat.items():
            resampled = (drawn @ array).reshape(-1, *counts[name].shape[1:])
            samples[name].append(iou_per_class(resampled))
    return {name: np.concatenate(blocks) for name, blocks in samples.items()}


def interval(samples: np.ndarray) -> list[float]:
    """The 95 % interval of bootstrap samples: their percentiles 2.5 and 97.5, 5 decimals."""
    return [round(float(value), 5) for value in np.percentile(samples, (2.5, 97.5))]
