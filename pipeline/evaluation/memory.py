"""How much memory a model takes when it runs, measured in a process of its own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pipeline.base.artifacts import KERAS_MODELS
from pipeline.base.lazy import keras, tf
from pipeline.base.system import cores, in_own_process
from pipeline.evaluation.latency import single_run


def resident_bytes(field: str) -> int:
    """This process' resident memory: now (field "VmRSS") or at its peak ("VmHWM")."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def memory_growth(models_dir: Path, name: str, image: np.ndarray) -> int | None:
    """How far resident memory rises, at its peak, by loading a model and running it once.

    In bytes, for a fresh process that has the packages loaded. For LiteRT it is the file, the
    weights as XNNPACK packs them and the activations; for Keras also TensorFlow's own start.
    None where the system does not tell (no /proc).
    """
    if name in KERAS_MODELS:  # LiteRT is loaded already, and needs no TensorFlow
        assert tf.float32 and keras.Model  # loads them
    try:
        # The peak so far is forgotten: it was the imports'.
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        before = resident_bytes("VmRSS")
    except OSError:
        return None
    single_run(models_dir, name, 1, image)()
    return resident_bytes("VmHWM") - before


def measure_memory(
    models_dir: Path, names: tuple[str, ...], image: np.ndarray
) -> dict[str, int | None]:
    """`memory_growth` of each model, each in a fresh process."""

    def measure(name: str) -> int | None:
        return in_own_process(memory_growth, models_dir, name, image)

    with ThreadPoolExecutor(cores()) as threads:
        return dict(zip(names, threads.map(measure, names)))
