"""The row of figures that a training keeps of each epoch: the best one, and the line printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.data.classes import Classes

LINE = 100  # columns of the line that is printed after each epoch

Row = dict[str, Any]  # an epoch: its figures by name, see `loop.Trained`


def best_epoch(history: Sequence[Row], first_choice: int = 0) -> int:
    """Index in the history of the highest validation mean IoU, the first of equal ones.

    Args:
        first_choice: the first index that may be chosen.

    Returns:
        -1 if there is none to choose from.
    """
    indices = range(first_choice, len(history))
    return max(indices, key=lambda index: history[index]["mean_iou"], default=-1)


def rounded(value: Any) -> float | None:
    """A number rounded to 6 places; None for NaN and infinity."""
    return round(float(value), 6) if np.isfinite(value) else None


def epoch_line(row: Row, classes: Classes, epochs: int, minutes: float) -> str:
    """The line that is printed after an epoch, of at most LINE columns.

    If not all classes fit, it names those of the lowest IoU.

    Args:
        row: of the epoch, see `loop.Trained`.
        epochs: total number.
        minutes: estimated time that is left.
    """
    head = f"epoch {row['epoch']:3}/{epochs}  loss {row['loss']:.4f}  mIoU {row['mean_iou']:.4f} ("
    tail = f")  {row['images_per_second']:.0f}/s  {minutes:.0f} min left"
    iou = {name: row[f"iou_{name}"] for name in classes.names if row[f"iou_{name}"] is not None}
    shown = [f"{name} {value:.2f}" for name, value in iou.items()]
    if len(head + ", ".join(shown) + tail) > LINE:
        shown = [f"{name} {iou[name]:.2f}" for name in sorted(iou, key=lambda name: iou[name])]
    while len(head + ", ".join(shown) + tail) > LINE:
        shown.pop()
    return head + ", ".join(shown) + tail
