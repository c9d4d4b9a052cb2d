"""Accuracy of Keras and .tflite models over a split."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.artifacts import KERAS_MODELS, artifact_path
from pipeline.base.console import progress
from pipeline.base.system import cores
from pipeline.data.dataset import Rows
from pipeline.evaluation.bootstrap import interval
from pipeline.inference.iou import iou_per_class, mean_iou, pixel_counts
from pipeline.inference.models import open_model


def counts_per_image(
    models_dir: Path, name: str, images: Rows, masks: Rows, classes: int
) -> np.ndarray:
    """Runs a model over a split, on all cores; result and arguments as `pixel_counts`.

    Args:
        name: the model, one of MODELS.
    """
    path = artifact_path(models_dir, name)
    with progress(f"accuracy {name}", len(images), "images") as bar:
        if name in KERAS_MODELS:
            return pixel_counts(open_model(path), images, masks, classes, bar.update)

        def measure(rows: np.ndarray) -> list[np.ndarray]:
            model, counts = open_model(path), []
            for row in rows:  # one image at a time in memory
                part = slice(row, row + 1)
                counts.append(pixel_counts(model, images[part], masks[part], classes, bar.update))
            return counts

        # One interpreter per core, each with one thread and a part of the images, is faster than
        # one interpreter with all threads.
        workers = cores()
        with ThreadPoolExecutor(workers) as pool:
            parts = pool.map(measure, np.array_split(np.arange(len(images)), workers))
            return np.concatenate([counts for part in parts for counts in part])


def fields(
    name: str,
    counts: Mapping[str, np.ndarray],
    samples: Mapping[str, np.ndarray],
    classes: tuple[str, ...],
) -> dict[str, Any]:
    """The fields of evaluation.json on a model's accuracy and its drop against the original model.

    Args:
        name: the model.
        counts: by model, int (n, 3, classes) as `class_counts`.
        samples: by model, of its mean IoU, as from `bootstrap_mean_iou`.
        classes: names of the classes.

    Returns:
        `mean_iou`, `iou` (by class), `pixel_accuracy`, all in 0..1; `mean_iou_drop` and `iou_drop`
        (by class), original minus model; and 95 % intervals of the mean IoU and of its drop.
    """
    total = counts[name].sum(axis=0)
    iou, original_iou = iou_per_class(total), iou_per_class(counts["original"].sum(axis=0))
    mean, original_mean = mean_iou(iou), mean_iou(original_iou)
    correct, truth, _ = total.sum(axis=-1)
    return {
        "mean_iou": round(float(mean), 5),
        "mean_iou_interval": interval(samples[name]),
        "iou": by_class(classes, iou),
        "pixel_accuracy": round(float(correct / max(1, truth)), 5),
        "mean_iou_drop": round(float(original_mean - mean), 5),
        "mean_iou_drop_interval": interval(samples["original"] - samples[name]),
        "iou_drop": by_class(classes, original_iou - iou),
    }


def by_class(names: tuple[str, ...], values: np.ndarray) -> dict[str, float | None]:
    """Values (classes,) by name of the class, rounded to 5 decimals; None for NaN.

    NaN is the IoU of a class that neither occurs nor is predicted.
    """
    return {
        name: round(float(value), 5) if np.isfinite(value) else None
        for name, value in zip(names, values)
    }
