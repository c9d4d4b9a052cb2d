"""How sure a mean IoU is: bootstrap over images; and what a constant prediction would score."""

from __future__ import annotations

import numpy as np

from pipeline.inference.iou import iou_per_class, mean_iou

BOOTSTRAP_SAMPLES = 2000
DRAWN_AT_ONCE = 4_000_000  # numbers: bootstrap samples times images


def constant_baseline(truth: np.ndarray) -> tuple[int, float]:
    """The best that a model can have which gives every pixel the same class.

    Args:
        truth: pixels of each class in a split (classes,).

    Returns:
        That class and its mean IoU: its share of pixels over the number of classes in the truth.
    """
    best = int(np.argmax(truth))
    return best, float(truth[best] / max(1, truth.sum()) / max(1, np.count_nonzero(truth)))


def bootstrap_mean_iou(counts: np.ndarray, seed: int) -> np.ndarray:
    """Mean IoU of BOOTSTRAP_SAMPLES resamples of the images (Efron 1979), in no order of size.

    With one seed the resamples are the same for every model, so that differences are paired.

    Args:
        counts: of each image (n, 3, classes).
    """
    random, number = np.random.default_rng(seed), len(counts)
    flat, chances = counts.reshape(number, -1).astype(np.float64), np.full(number, 1 / number)
    step, samples = max(1, DRAWN_AT_ONCE // number), []
    for start in range(0, BOOTSTRAP_SAMPLES, step):
        drawn = random.multinomial(number, chances, min(step, BOOTSTRAP_SAMPLES - start))
        resampled = (drawn.astype(np.float64) @ flat).reshape(-1, *counts.shape[1:])
        samples.append(mean_iou(iou_per_class(resampled)))
    return np.concatenate(samples)


def interval(samples: np.ndarray) -> list[float]:
    """The middle 95 % of bootstrap samples."""
    return [round(float(value), 5) for value in np.percentile(samples, (2.5, 97.5))]
