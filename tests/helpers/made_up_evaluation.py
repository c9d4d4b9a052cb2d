"""A made-up evaluation of every model: the names, fields and nesting of evaluation.json."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.base.artifacts import ARTIFACTS, MODELS
from pipeline.evaluation.pixel_measures import Counted
from tests.helpers.runs import CLASSES

PRUNED_LAYERS = {"block0_project": {"weights": 512, "sparsity": 0.7}}


def made_up_times(milliseconds: float) -> dict[str, float]:
    """Latency of one model, in milliseconds, as `latency.measure_latency` returns it."""
    return {
        "median": milliseconds,
        "p90": milliseconds + 0.5,
        "after_another": milliseconds + 1.0,
        "first": 30.0,
        "runs": 100,
    }


def counted(per_image: np.ndarray) -> Counted:
    """What is counted of a model, of which only the counts per image (n, 3, classes) are known."""
    classes = per_image.shape[-1]
    return Counted(per_image, np.zeros((classes, classes), int), np.zeros((3, classes), int))


def made_up_row(name: str, number: int) -> dict[str, Any]:
    """The row of one model; a higher `number` is a smaller and slower model."""
    file = ARTIFACTS[name][0]
    times = made_up_times(2.0 + number)
    return {
        "name": name,
        "file": file,
        "bytes": 4_000_000 - 500_000 * number,
        "gzip_bytes": 3_000_000 - 400_000 * number,
        "parameters": 1_000_000,
        "nonzero_share": 0.4,
        "activation_kb": 768.0 if file.endswith(".tflite") else None,
        "multiply_accumulates": 185_391_200,
        "activation_peak": [["block1_expand", 614_400], ["block1_depthwise", 153_600]],
        "latency_ms": times,
        "latency_ms_all_threads": times,
        "memory_bytes": 10_000_000 + number,
        "mean_iou": 0.76,
        "mean_iou_interval": [0.7512, 0.7688],
        "iou": {"pet": 0.85, "background": 0.92, "border": 0.51},
        "pixel_accuracy": 0.91,
        "precision": {"pet": 0.9, "background": 0.96, "border": 0.7},
        "recall": {"pet": 0.93, "background": 0.95, "border": 0.65},
        "dice": {"pet": 0.92, "background": 0.96, "border": 0.68},
        "boundary_iou": {"pet": 0.7, "background": 0.72, "border": 0.5},
        "mean_dice": 0.853,
        "mean_boundary_iou": 0.64,
        "mean_iou_tail": 0.52,
        "confusion": [[900, 60, 40], [50, 1900, 50], [30, 40, 130]],
        "mean_iou_drop": 0.004,
        "mean_iou_drop_interval": [0.001, 0.007],
        "iou_drop": {"pet": 0.001, "background": 0.001, "border": 0.03},
        "stale": None,
    }


def made_up_evaluation() -> dict[str, Any]:
    """The content of an evaluation.json that no run has written; a new one at each call."""
    pruned_metrics = {"layers": {name: dict(about) for name, about in PRUNED_LAYERS.items()}}
    return {
        "dataset": {
            "source": "Oxford <Pets>",
            "synthetic": False,
            "image_size": [128, 128],
            "fingerprint": "ab" * 32,
            "split": "test",
            "class_names": list(CLASSES),
            "class_colours": [[242, 142, 43], [58, 72, 98], [255, 255, 255]],
            "class_shares": {"pet": 0.3, "background": 0.58, "border": 0.12},
            "class_pictures": {"pet": 3662, "background": 3669, "border": 3669},
            "ignored_share": 0.0,
            "examples": 3669,
            "constant_class": "background",
            "constant_mean_iou": 0.2,
        },
        "environment": {
            "cpu": "A CPU",
            "cores": 2,
            "threads": 1,
            "delegate": "XNNPACK",
            "system": "Linux",
            "versions": {"numpy": "2"},
        },
        "stages": {
            "pruned": {
                "settings": {"seed": 7, "epochs": 10},
                "wall_seconds": 12.0,
                "sha256": "cd" * 32,
                "metrics": pruned_metrics,
            }
        },
        "seed": 7,
        "models": [made_up_row(name, number) for number, name in enumerate(MODELS)],
    }
