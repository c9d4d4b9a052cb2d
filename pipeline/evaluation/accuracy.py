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
from pipeline.evaluation.pixel_measures import Counted, count, named, together
from pipeline.inference.iou import iou_per_class, mean_iou
from pipeline.inference.models import open_model


def measure(models_dir: Path, name: str, images: Rows, masks: Rows, classes: int) -> Counted:
    """Runs a model over a split, on all cores; result and arguments as `pixel_measures.count`.

    Args:
        name: the model, one of MODELS.
    """
    path = artifact_path(models_dir, name)
    with progress(f"accuracy {name}", len(images), "images") as bar:
        if name in KERAS_MODELS:
            return count(open_model(path), images, masks, classes, bar.update)

        def count_part(part: range) -> Counted:
            return count(open_model(path), images, masks, classes, bar.update, part)

        # One interpreter per core, each with one thread and a part of the images, is faster than
        # one interpreter with all threads.
        workers = cores()
        ends = [len(images) * k // workers for k in range(workers + 1)]
        with ThreadPoolExecutor(workers) as pool:
            return together(list(pool.map(count_part, map(range, ends, ends[1:]))))


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
        "iou": named(classes, iou),
        "pixel_accuracy": round(float(correct / max(1, truth)), 5),
        "mean_iou_drop": round(float(original_mean - mean), 5),
        "mean_iou_drop_interval": interval(samples["original"] - samples[name]),
        "iou_drop": named(classes, original_iou - iou),
    }
