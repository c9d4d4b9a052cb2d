"""The face of a model, whatever its file; and the accuracy metric that is counted with it.

The metric is the mean intersection over union (IoU), from pixel counts over a whole split.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from pipeline.data.classes import IGNORED
from pipeline.data.dataset import Rows


class Predictor(Protocol):
    """What predicts classes: all that counting needs of a model."""

    @property
    def batch(self) -> int:
        """Images that it takes at a time; its memory grows with them."""

    def class_maps(self, images: np.ndarray) -> np.ndarray:
        """The class of each pixel of uint8 (n, height, width, 3), integers (n, height, width)."""


class Model(Protocol):
    """A segmentation model, from an .h5 or a .tflite file (`models.open_model`).

    Images are uint8 (n, height, width, 3), or (height, width, 3) for a single one.
    """

    image_shape: tuple[int, ...]  # (height, width, 3)
    scores_shape: tuple[int, ...]  # (height, width, classes)
    batch: int  # images that it takes at a time; its memory grows with them

    def scores(self, image: np.ndarray) -> np.ndarray:
        """The output for one image (height, width, classes), in the output's own type and scale."""

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Logits of a few images, float32 (n, height, width, classes), as real values."""

    def class_maps(self, images: np.ndarray) -> np.ndarray:
        """The class of the largest logit of each pixel, int64 (n, height, width)."""

    def timed(self, image: np.ndarray) -> Callable[[], Any]:
        """A function that runs the model once on an image, and does nothing else."""


def pixel_counts(
    model: Model,
    images: np.ndarray | Rows,
    masks: np.ndarray | Rows,
    classes: int,
    advance: Callable[[int], Any] = lambda _: None,
) -> np.ndarray:
    """Runs a model over a split and counts pixels, see `class_counts`.

    A batch of images is in memory at a time.

    Args:
        images: uint8 (n, height, width, 3).
        masks: uint8 (n, height, width), class of each pixel, or IGNORED.
        classes: number of classes.
        advance: is called after every batch with the number of its images.

    Returns:
        int32 (n, 3, classes), in the order of the images.
    """
    counts = np.empty((len(images), 3, classes), np.int32)
    for start in range(0, len(images), model.batch):
        rows = slice(start, start + model.batch)
        predictions = model.class_maps(images[rows])
        counts[rows] = class_counts(masks[rows], predictions, classes)
        advance(len(predictions))
    return counts


def split_iou(model: Model, images: np.ndarray | Rows, masks: np.ndarray | Rows) -> np.ndarray:
    """IoU per class of a model over a split, see `iou_per_class`.

    Args:
        images, masks: as for `pixel_counts`.
    """
    return iou_per_class(pixel_counts(model, images, masks, model.scores_shape[-1]).sum(axis=0))


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
