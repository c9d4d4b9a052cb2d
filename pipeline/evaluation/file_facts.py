"""What can be read in a model's file: size, parameters, activation memory, arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.evaluation import memory_plan
from pipeline.inference.tflite_files import gzip_bytes, weight_counts


def fields(path: Path) -> dict[str, Any]:
    """The fields of evaluation.json on a model's file: size, parameters, needs of a device."""
    parameters, nonzero = weight_counts(path)
    row = {
        "file": path.name,
        "bytes": path.stat().st_size,
        "gzip_bytes": gzip_bytes(path),
        "parameters": parameters,
        "nonzero_share": round(nonzero / parameters, 4),
    }
    return row | device_needs(path)


def device_needs(path: Path) -> dict[str, Any]:
    """Activation memory and arithmetic of a .tflite file, and the layers at the memory's peak.

    The values are None for a Keras model, and for a file without a fixed memory plan.
    """
    try:
        plan = memory_plan.plan(path.read_bytes())
    except ValueError:
        return dict.fromkeys(("activation_kb", "activation_peak", "multiply_accumulates"))
    return {
        "activation_kb": plan.activation_bytes / 1e3,
        "activation_peak": [list(part) for part in plan.peak],
        "multiply_accumulates": plan.multiply_accumulates,
    }
