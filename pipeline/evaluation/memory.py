"""Measure the memory that a model needs when it runs, in a separate process."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pipeline.base.artifacts import KERAS_MODELS
from pipeline.base.lazy import keras, tf
from pipeline.base.system import cores, in_own_process
from pipeline.evaluation.latency import single_run


def resident_bytes(field: str) -> int:
    """Resident memory of this process in bytes: now (field "VmRSS") or at its peak ("VmHWM").

    Raises:
        OSError: the system has no /proc.
    """
    lines = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def memory_growth(models_dir: Path, name: str, image: np.ndarray) -> int | None:
    """Bytes by which resident memory rises, at its peak, when a model is loaded and run once.

    Must be called in a new process. The packages are imported before the measurement. For LiteRT
    the rise contains the file, the weights as XNNPACK packs them and the activations; for Keras
    also the initialisation of TensorFlow.

    Args:
        name: the model, one of MODELS.
        image: uint8 (height, width, 3).

    Returns:
        None where the system does not tell (no /proc).
    """
    if name in KERAS_MODELS:  # LiteRT is imported already and needs no TensorFlow
        assert tf.float32 and keras.Model  # imports both
    try:
        # Reset the peak, which was reached during the imports.
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        before = resident_bytes("VmRSS")
    except OSError:
        return None
    single_run(models_dir, name, 1, image)()
    return resident_bytes("VmHWM") - before


def measure_memory(
    models_dir: Path, names: tuple[str, ...], image: np.ndarray
) -> dict[str, int | None]:
    """`memory_growth` of each model, each in a new process."""

    def measure(name: str) -> int | None:
        return in_own_process(memory_growth, models_dir, name, image)

    with ThreadPoolExecutor(cores()) as threads:
        return dict(zip(names, threads.map(measure, names)))
