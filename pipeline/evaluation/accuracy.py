"""Every kind of model over a split, and what it predicts for single pictures."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.artifacts import KERAS_MODELS, artifact_path
from pipeline.base.console import progress
from pipeline.base.system import cores
from pipeline.data.dataset import Rows
from pipeline.evaluation.bootstrap import bootstrap_mean_iou, interval
from pipeline.inference.iou import class_counts, iou_per_class, mean_iou
from pipeline.inference.keras_files import Predictor, load_model
from pipeline.inference.litert import open_interpreter, predict_tflite


def counts_per_image(
    models_dir: Path, name: str, images: Rows, masks: Rows, classes: int
) -> np.ndarray:
    """`class_counts` (n, 3, classes) of a model over a split, on all cores.

    Args:
        images: uint8 (n, height, width, 3). masks: uint8 (n, height, width).
    """
    number = len(images)
    counts = np.empty((number, 3, classes), np.int32)
    with progress(f"accuracy {name}", number, "images") as bar:
        if name in KERAS_MODELS:
            start = 0
            for prediction in Predictor(load_model(models_dir, name))(images):
                rows = slice(start, start + len(prediction))
                counts[rows] = class_counts(masks[rows], prediction, classes)
                start += len(prediction)
                bar.update(len(prediction))
            return counts

        def measure(rows: np.ndarray) -> None:
            interpreter = open_interpreter(artifact_path(models_dir, name))
            pictures = (images[row] for row in rows)  # one at a time in memory
            for row, prediction in zip(rows, predict_tflite(interpreter, pictures)):
                counts[row] = class_counts(masks[row][None], prediction[None], classes)[0]
                bar.update()

        # One single-threaded interpreter per core, each on its share, is quicker than one on all.
        workers = cores()
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(measure, np.array_split(np.arange(number), workers)))
    return counts


def class_maps(models_dir: Path, name: str, images: np.ndarray) -> np.ndarray:
    """Class indices (n, height, width) that a model gives to uint8 images (n, height, width, 3)."""
    if name in KERAS_MODELS:
        return np.concatenate(list(Predictor(load_model(models_dir, name))(images)))
    interpreter = open_interpreter(artifact_path(models_dir, name))
    return np.stack(list(predict_tflite(interpreter, images)))


def fields(
    counts: np.ndarray, original: np.ndarray, names: tuple[str, ...], seed: int
) -> dict[str, Any]:
    """What is said of a model's accuracy, and of what it lost against the original.

    Args:
        counts, original: of each image (n, 3, classes), of both; see `class_counts`.
        names: of the classes. One that is not there has None for its IoU.
    """
    total = counts.sum(axis=0)
    iou, reference = iou_per_class(total), iou_per_class(original.sum(axis=0))
    mean, whole = mean_iou(iou), mean_iou(reference)
    samples = bootstrap_mean_iou(counts, seed)
    drops = bootstrap_mean_iou(original, seed) - samples
    shared, truth, _ = total.sum(axis=-1)
    return {
        "mean_iou": round(float(mean), 5),
        "mean_iou_interval": interval(samples),
        "iou": by_class(names, iou),
        "pixel_accuracy": round(float(shared / max(1, truth)), 5),
        "mean_iou_drop": round(float(whole - mean), 5),
        "mean_iou_drop_interval": interval(drops),
        "iou_drop": by_class(names, reference - iou),
    }


def by_class(names: tuple[str, ...], values: np.ndarray) -> dict[str, float | None]:
    """A value of each class by its name; None where it is NaN."""
    return {
        name: round(float(value), 5) if np.isfinite(value) else None
        for name, value in zip(names, values)
    }
