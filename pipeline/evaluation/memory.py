"""Measure the memory that a model needs when it runs, in a separate process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from pipeline.base.artifacts import KERAS_MODELS, artifact_path
from pipeline.base.lazy import keras, tf
from pipeline.base.system import cores, in_own_process
from pipeline.inference.models import open_model

SAMPLE_SECONDS = 0.001  # where the system keeps no record of the peak


def memory_growth(models_dir: Path, name: str, image: np.ndarray) -> int:
    """Bytes by which resident memory rises, at its peak, when a model is loaded and run once.

    Must be called in a new process. The packages are imported before the measurement. For LiteRT
    the rise contains the file, the weights as XNNPACK packs them and the activations; for Keras
    also the initialisation of TensorFlow.

    Args:
        name: the model, one of MODELS.
        image: uint8 (height, width, 3).
    """
    if name in KERAS_MODELS:  # LiteRT is imported already and needs no TensorFlow
        assert tf.float32 and keras.Model  # imports both

    def load_and_run() -> None:
        open_model(artifact_path(models_dir, name)).timed(image)()

    return recorded_growth(load_and_run) if reset_peak() else sampled_growth(load_and_run)


def reset_peak() -> bool:
    """Reset the kernel's record of this process' peak memory, which was reached by the imports.

    Returns:
        False where the system cannot do that: only Linux can.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return False
    return True


def recorded_growth(work: Callable[[], Any]) -> int:
    """Bytes by which resident memory rises while `work` runs, as the kernel records it."""
    before = resident_bytes("VmRSS")
    work()
    return resident_bytes("VmHWM") - before


def resident_bytes(field: str) -> int:
    """Resident memory of this process in bytes: now (field "VmRSS") or at its peak ("VmHWM").

    Raises:
        OSError: the system has no /proc.
    """
    lines = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def sampled_growth(work: Callable[[], Any]) -> int:
    """Bytes by which resident memory rises while `work` runs, by a sample every SAMPLE_SECONDS."""
    process, finished = psutil.Process(), threading.Event()
    samples = [process.memory_info().rss]

    def watch() -> None:
        while not finished.wait(SAMPLE_SECONDS):
            samples.append(process.memory_info().rss)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        work()
        samples.append(process.memory_info().rss)
    finally:
        finished.set()
        thread.join()
    return max(samples) - samples[0]


def measure_memory(models_dir: Path, names: tuple[str, ...], image: np.ndarray) -> dict[str, int]:
    """`memory_growth` of each model, each in a new process."""

    def measure(name: str) -> int:
        return in_own_process(memory_growth, models_dir, name, image)

    with ThreadPoolExecutor(cores()) as threads:
        return dict(zip(names, threads.map(measure, names)))
