"""What is counted of a model's predictions over a split, and the measures that follow from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.data.classes import IGNORED
from pipeline.data.dataset import Rows
from pipeline.evaluation.boundary import boundary_counts
from pipeline.inference.iou import Predictor, iou_per_class, mean_iou

TAIL = 5  # percentile of the pictures, from the worst, whose mean IoU is told beside the mean


class Counted(NamedTuple):
    """Pixel counts of a model over a split."""

    per_image: np.ndarray  # int32 (n, 3, classes), see `iou.class_counts`
    confusion: np.ndarray  # int64 (classes, classes), of the split: mask's class, then predicted
    boundary: np.ndarray  # int64 (3, classes), of the split, see `boundary_counts`


def count(
    model: Predictor,
    images: np.ndarray | Rows,
    masks: np.ndarray | Rows,
    classes: int,
    advance: Callable[[int], Any] = lambda _: None,
    part: range | None = None,
) -> Counted:
    """Runs a model over a split and counts pixels; a batch of images is in memory at a time.

    Args:
        images: uint8 (n, height, width, 3).
        masks: uint8 (n, height, width), class of each pixel, or IGNORED.
        classes: number of classes.
        advance: is called after every batch with the number of its images.
        part: the images to run it on; None: all.
    """
    part = range(len(images)) if part is None else part
    per_image: list[np.ndarray] = [np.zeros((0, 3, classes), np.int32)]
    boundary = np.zeros((3, classes), np.int64)
    confusion = np.zeros((classes, classes), np.int64)
    for start in range(part.start, part.stop, model.batch):
        rows = slice(start, min(start + model.batch, part.stop))
        predictions, truth = model.class_maps(images[rows]), masks[rows]
        confusions = confusion_matrices(truth, predictions, classes)
        of_images = (
            np.diagonal(confusions, axis1=1, axis2=2),
            confusions.sum(2),
            confusions.sum(1),
        )
        per_image.append(np.stack(of_images, axis=1).astype(np.int32))
        confusion += confusions.sum(axis=0)
        boundary += boundary_counts(truth, predictions, classes).sum(axis=0)
        advance(len(predictions))
    return Counted(np.concatenate(per_image), confusion, boundary)


def together(parts: Sequence[Counted]) -> Counted:
    """The counts of parts of a split, in their order, as those of the whole."""
    per_image, confusions, boundaries = zip(*parts)
    return Counted(
        np.concatenate(per_image), np.sum(confusions, axis=0), np.sum(boundaries, axis=0)
    )


def confusion_matrices(masks: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """How many pixels of each class were predicted as which, per image.

    Pixels whose mask is IGNORED are not counted.

    Returns:
        int64 (n, classes, classes): the class of the mask, then the predicted one.
    """
    labelled = masks != IGNORED
    images = np.broadcast_to(np.arange(len(masks))[:, None, None], masks.shape)[labelled]
    pairs = (images * classes + masks[labelled]) * classes + predictions[labelled]
    bins = np.bincount(pairs, minlength=len(masks) * classes**2)
    return bins.reshape(len(masks), classes, classes)


def fields(counted: Counted, names: Sequence[str]) -> dict[str, Any]:
    """Fields of evaluation.json that follow from a model's counts, beside its IoU.

    Returns:
        `precision`, `recall`, `dice` and `boundary_iou` by class, 0..1, None for a class that they
        are not defined for; `mean_dice` and `mean_boundary_iou` over the classes that have one;
        `mean_iou_tail`, the mean IoU that TAIL % of the pictures do not reach; `confusion`, rows of
        pixel counts: a row per class of the masks, a column per predicted class.
    """
    shared, truth, predicted = counted.per_image.sum(axis=0, dtype=np.int64).astype(np.float64)
    dice = ratio(2 * shared, truth + predicted)
    boundary = iou_per_class(counted.boundary)
    per_picture = mean_iou(iou_per_class(counted.per_image))
    by_class = {
        "precision": ratio(shared, predicted),
        "recall": ratio(shared, truth),
        "dice": dice,
        "boundary_iou": boundary,
    }
    return {
        **{key: named(names, values) for key, values in by_class.items()},
        "mean_dice": round(float(mean_iou(dice)), 5),
        "mean_boundary_iou": round(float(mean_iou(boundary)), 5),
        "mean_iou_tail": round(float(np.percentile(per_picture, TAIL)), 5),
        "confusion": counted.confusion.tolist(),
    }


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Part over whole; NaN where the whole is 0."""
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def named(names: Sequence[str], values: np.ndarray) -> dict[str, float | None]:
    """Values (classes,) by name of the class, rounded to 5 decimals; None for NaN."""
    return {
        name: round(float(value), 5) if np.isfinite(value) else None
        for name, value in zip(names, values)
    }
