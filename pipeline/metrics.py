"""The one metric, mean IoU from a confusion matrix over a whole split, and how sure it is."""

from __future__ import annotations

import numpy as np

BOOTSTRAP_SAMPLES = 2000


def confusion_matrix(masks: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Pixel counts per image, int64 (n, classes, classes): a row per true class.

    Args:
        masks, predictions: class indices (n, height, width). Sum over n for a whole split.
        classes: how many there are.
    """
    cells = classes**2
    pairs = classes * masks.astype(np.int64) + predictions
    pairs += cells * np.arange(len(masks))[:, None, None]
    counts = np.bincount(pairs.ravel(), minlength=cells * len(masks))
    return counts.reshape(-1, classes, classes)


def iou_per_class(confusion: np.ndarray) -> np.ndarray:
    """Intersection over union of each class, float64 in 0..1; their mean is the mean IoU.

    The one metric: from a confusion matrix over a whole split, not averaged over images. A class
    that is neither in the truth nor predicted counts as 1.
    """
    shared = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    either = confusion.sum(axis=-1) + confusion.sum(axis=-2) - shared
    return np.where(either > 0, shared / np.maximum(either, 1), 1.0)


def bootstrap_mean_iou(confusion: np.ndarray, seed: int) -> np.ndarray:
    """Mean IoU of BOOTSTRAP_SAMPLES resamples of the images (Efron 1979), in no order of size.

    With one seed the resamples are the same for every model, so that differences are paired.

    Args:
        confusion: per-image confusion matrices (n, classes, classes).
    """
    random = np.random.default_rng(seed)
    number = len(confusion)
    counts = random.multinomial(number, np.full(number, 1 / number), BOOTSTRAP_SAMPLES)
    resampled = counts @ confusion.reshape(number, -1)
    return iou_per_class(resampled.reshape(-1, *confusion.shape[1:])).mean(axis=-1)


def interval(samples: np.ndarray) -> list[float]:
    """The middle 95 % of bootstrap samples."""
    return [round(float(value), 5) for value in np.percentile(samples, (2.5, 97.5))]
