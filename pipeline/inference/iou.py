"""The accuracy metric: mean intersection over union (IoU), from pixel counts over a whole split."""

from __future__ import annotations

import numpy as np

from pipeline.data.classes import IGNORED


def class_counts(masks: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Counts per image and class the pixels that are correct, in the mask, and predicted.

    IoU and pixel accuracy need no more than these: 3 numbers per class instead of a confusion
    matrix of classes x classes. Pixels whose mask is IGNORED are not counted at all.

    Args:
        masks: class indices or IGNORED, integers (n, height, width).
        predictions: class indices 0..classes-1, integers (n, height, width).
        classes: number of classes.

    Returns:
        int32 (n, 3, classes): pixels in both, in the mask, in the prediction. Sum over n for a
        whole split.
    """
    labelled = masks != IGNORED
    # One histogram for all images: image i has the bins from i * classes on.
    offsets = classes * np.arange(len(masks))[:, None, None] + np.zeros(masks.shape, np.int64)
    truth = (offsets + masks)[labelled]
    predicted = (offsets + predictions)[labelled]

    def count(bins: np.ndarray) -> np.ndarray:
        return np.bincount(bins, minlength=classes * len(masks)).reshape(-1, classes)

    correct = truth[truth == predicted]
    return np.stack([count(correct), count(truth), count(predicted)], axis=1).astype(np.int32)


def iou_per_class(counts: np.ndarray) -> np.ndarray:
    """Intersection over union of each class.

    Args:
        counts: (..., 3, classes) as from `class_counts`; for a split the sum over its images, not
            one IoU per image averaged afterwards.

    Returns:
        float64 (..., classes) in 0..1; NaN for a class that is neither in the masks nor predicted.
    """
    shared, truth, predicted = np.moveaxis(np.asarray(counts, np.float64), -2, 0)
    union = truth + predicted - shared
    return np.where(union > 0, shared / np.maximum(union, 1), np.nan)


def mean_iou(iou: np.ndarray) -> np.ndarray:
    """Mean over the classes (last axis) of `iou_per_class`, without those that are NaN.

    Returns:
        float64 without the last axis; 0 where every class is NaN.
    """
    defined = np.isfinite(iou)
    return np.where(defined, iou, 0).sum(axis=-1) / np.maximum(defined.sum(axis=-1), 1)
