"""Every kind of model over a split, and what it predicts for single pictures."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pipeline.artifacts import KERAS_MODELS, artifact_path
from pipeline.console import progress
from pipeline.dataset import CLASSES
from pipeline.keras_models import load_model, predict
from pipeline.litert import open_interpreter, predict_tflite
from pipeline.metrics import confusion_matrix


def confusion_per_image(
    models_dir: Path, name: str, images: np.ndarray, masks: np.ndarray
) -> np.ndarray:
    """Confusion matrices (n, classes, classes) of a model over a split, on all cores.

    Args:
        images: uint8 (n, size, size, 3). masks: uint8 (n, size, size).
    """
    number, classes = len(images), len(CLASSES)
    matrices = np.empty((number, classes, classes), np.int64)
    with progress(f"accuracy {name}", number, "images") as bar:
        if name in KERAS_MODELS:
            start = 0
            for prediction in predict(load_model(models_dir, name), images):
                rows = slice(start, start + len(prediction))
                matrices[rows] = confusion_matrix(masks[rows], prediction, classes)
                start += len(prediction)
                bar.update(len(prediction))
            return matrices

        def measure(rows: np.ndarray) -> None:
            interpreter = open_interpreter(artifact_path(models_dir, name))
            for row, prediction in zip(rows, predict_tflite(interpreter, images[rows])):
                truth = masks[row, None]
                matrices[row] = confusion_matrix(truth, prediction[None], classes)[0]
                bar.update()

        # One single-threaded interpreter per core, each on its share, is quicker than one on all.
        workers = os.cpu_count() or 1
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(measure, np.array_split(np.arange(number), workers)))
    return matrices


def class_maps(models_dir: Path, name: str, images: np.ndarray) -> np.ndarray:
    """Class indices (n, size, size) that a model gives to uint8 images (n, size, size, 3)."""
    if name in KERAS_MODELS:
        return np.concatenate(list(predict(load_model(models_dir, name), images)))
    interpreter = open_interpreter(artifact_path(models_dir, name))
    return np.stack(list(predict_tflite(interpreter, images)))
