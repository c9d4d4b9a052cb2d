"""What a model made elsewhere does not say: the values that its input wants, its order of classes.

Both are found out on pictures whose masks are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.base import commands
from pipeline.base.console import UserError
from pipeline.data.classes import IGNORED

# Input ranges: scale and offset of each, of values 0 to 1. ImageNet's are the mean and standard
# deviation of its red, green and blue (PyTorch's torchvision divides by them).
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
RANGES: dict[str, tuple[Any, Any]] = {
    "0..1": (1.0, 0.0),
    "-1..1": (2.0, -1.0),
    "0..255": (255.0, 0.0),
    "imagenet": ((1 / DEVIATION).tolist(), (-MEAN / DEVIATION).tolist()),
}
TRIED = 64  # validation pictures that ranges are tried on
CLEARLY = 0.1  # mean IoU by which another order of classes must be better to be proposed


class Match(NamedTuple):
    """How the classes of predictions and of masks overlap."""

    mean_iou: float  # over the classes in the masks, each class with itself
    order: list[int]  # by output of the network, the class of the masks that it matches best
    reordered: float  # mean IoU in that order


def match(masks: np.ndarray, predicted: np.ndarray, classes: int) -> Match:
    """Compares predictions with masks, also in the order of classes that fits them best.

    The best pair is taken first, then the best of those that are left.

    Args:
        masks: integers (n, height, width), class indices or IGNORED.
        predicted: class indices (n, height, width).
    """
    labelled = masks != IGNORED
    pairs = predicted[labelled].astype(np.int64) * classes + masks[labelled]
    both = np.bincount(pairs, minlength=classes**2).reshape(classes, classes).astype(np.float64)
    union = both.sum(axis=1)[:, None] + both.sum(axis=0)[None] - both
    iou = both / np.maximum(union, 1)  # of output p and class t
    present = both.sum(axis=0) > 0
    left, order = iou.copy(), [-1] * classes
    for _ in range(classes):
        output, true = map(int, np.unravel_index(np.argmax(left), left.shape))
        order[output] = true
        left[output], left[:, true] = -1, -1
    reordered = iou[np.arange(classes), order]
    return Match(
        float(np.diagonal(iou)[present].mean()), order, float(reordered[present[order]].mean())
    )


def order_of(text: str, names: Sequence[str]) -> list[int]:
    """The class of each output, from --class-order.

    Raises:
        UserError: it does not name each class once.
    """
    asked = text.split(",")
    if sorted(asked) != sorted(names):
        raise UserError(f"--class-order {text}: name each class once: {','.join(names)}")
    return [names.index(name) for name in asked]


def proposed_order(found: Match, names: Sequence[str]) -> list[str]:
    """A note if the classes of a model clearly stand in another order than the data set's."""
    if found.reordered <= found.mean_iou + CLEARLY:
        return []
    flag = commands.line("--class-order", ",".join(names[true] for true in found.order))
    return [
        f"its classes seem to stand in another order than the data set's: with {flag} mean IoU is "
        f"{found.reordered:.3f} instead of {found.mean_iou:.3f}"
    ]
