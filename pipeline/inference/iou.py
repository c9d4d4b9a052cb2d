"""The one metric, mean IoU from counts over a whole split, and how sure it is."""

from __future__ import annotations

import numpy as np

from pipeline.data.classes import IGNORED


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
