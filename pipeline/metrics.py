"""The one metric, mean IoU from counts over a whole split, and how sure it is."""

from __future__ import annotations

import numpy as np

from pipeline.classes import IGNORED

BOOTSTRAP_SAMPLES = 2000
DRAWN_AT_ONCE = 4_000_000  # numbers: bootstrap samples times images


def class_counts(masks: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Pixels of each class per image: shared by both, in the truth, predicted.

    They hold all that IoU and pixel accuracy need, in 3 numbers a class instead of the square of a
    confusion matrix. Pixels that are IGNORED in the truth are not counted, whatever was predicted.

    Args:
        masks: class indices or IGNORED (n, height, width). predictions: class indices, same shape.
        classes: how many there are.

    Returns:
        int32 (n, 3, classes). Sum over n for a whole split.
    """
    known = masks != IGNORED
    places = classes * np.arange(len(masks))[:, None, None] + np.zeros(masks.shape, np.int64)
    truth = (places + masks)[known]
    predicted = (places + predictions)[known]

    def count(values: np.ndarray) -> np.ndarray:
        return np.bincount(values, minlength=classes * len(masks)).reshape(-1, classes)

    shared = truth[truth == predicted]
    return np.stack([count(shared), count(truth), count(predicted)], axis=1).astype(np.int32)


def iou_per_class(counts: np.ndarray) -> np.ndarray:
    """Intersection over union of each class, float64 in 0..1; see `mean_iou`.

    From counts over a whole split, not averaged over images. NaN for a class that is neither in
    the truth nor predicted: there is nothing to be right or wrong about.

    Args:
        counts: (..., 3, classes), as `class_counts` gives them, summed over images.
    """
    shared, truth, predicted = np.moveaxis(np.asarray(counts, np.float64), -2, 0)
    either = truth + predicted - shared
    return np.where(either > 0, shared / np.maximum(either, 1), np.nan)


def mean_iou(iou: np.ndarray) -> np.ndarray:
    """The mean over classes (the last axis); one that is NaN counts for nothing."""
    there = np.isfinite(iou)
    return np.where(there, iou, 0).sum(axis=-1) / np.maximum(there.sum(axis=-1), 1)


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
