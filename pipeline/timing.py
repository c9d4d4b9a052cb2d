"""How long one image takes and how much memory, each measured in a process of its own."""

from __future__ import annotations

import functools
import multiprocessing
import os
import platform
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts import KERAS_MODELS, artifact_path
from pipeline.console import UserError
from pipeline.keras_models import load_model
from pipeline.litert import open_interpreter, set_image
from pipeline.packages import keras, tf

TIMED_RUNS = 100  # of each model
TURN_RUNS = 10  # of these in a row, before the next model's turn
TIMED_SECONDS = 60  # per file: slow ones get fewer runs


def time_in_turns(
    calls: dict[str, Callable[[], Any]], runs: int = TIMED_RUNS
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Times single runs of several models that take turns, so that a noisy machine hits all alike.

    A turn is TURN_RUNS runs in a row, as LiteRT's own benchmark tool makes them, after one that is
    kept apart: it finds the processor's caches full of the model before, and a small model then
    takes a quarter longer.

    Args:
        calls: by name, what runs a model once.
        runs: of each; a slow one gets as many as take TIMED_SECONDS, but one in every turn.

    Returns:
        By name, milliseconds of the runs in a row, and of those right after another model.
    """
    turns, in_turn = max(1, runs // TURN_RUNS), {}
    for name, call in calls.items():
        call()  # the first run after loading is slower than all others
        started = time.perf_counter()
        call()
        possible = TIMED_SECONDS / turns / (time.perf_counter() - started)
        in_turn[name] = int(np.clip(possible, 1, TURN_RUNS))
    times = {name: ([], []) for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            for run in range(1 + in_turn[name]):
                started = time.perf_counter()
                call()
                times[name][run == 0].append(1e3 * (time.perf_counter() - started))
    return {name: (np.array(row), np.array(after)) for name, (row, after) in times.items()}


def single_run(models_dir: Path, name: str, threads: int, image: np.ndarray) -> Callable[[], Any]:
    """Loads a model and returns what runs it once on a uint8 image (height, width, 3).

    For LiteRT that is `invoke`, for Keras a compiled call with a batch of one.
    """
    if name in KERAS_MODELS:
        compiled = tf.function(functools.partial(load_model(models_dir, name), training=False))
        return functools.partial(compiled, tf.constant(image[None].astype(np.float32) / 255))
    interpreter = open_interpreter(artifact_path(models_dir, name), threads)
    set_image(interpreter, image)
    return interpreter.invoke


def latency_runs(
    models_dir: Path, names: tuple[str, ...], threads: int, image: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Times single runs of every model in turn, see `time_in_turns` and `single_run`.

    Returns:
        For each name milliseconds: median and p90 (the 90th percentile) of the runs in a row,
        after_another (the median of runs right after another model), first (the first run after
        loading); and runs, the number of runs in a row.
    """
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    calls, first = {name: single_run(models_dir, name, threads, image) for name in names}, {}
    for name, call in calls.items():
        started = time.perf_counter()
        call()
        first[name] = 1e3 * (time.perf_counter() - started)
    rows = {}
    for name, (in_a_row, after_another) in time_in_turns(calls).items():
        row = {"median": np.median(in_a_row), "p90": np.percentile(in_a_row, 90)}
        row |= {"after_another": np.median(after_another), "first": first[name]}
        rows[name] = {key: round(float(value), 3) for key, value in row.items()}
        rows[name]["runs"] = len(in_a_row)
    return rows


def measure_latency(
    models_dir: Path, names: tuple[str, ...], threads: int, image: np.ndarray
) -> dict[str, dict[str, Any]]:
    """`latency_runs` in a fresh process that does nothing else."""
    return in_own_process(latency_runs, models_dir, names, threads, image)


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of a module returns, called in a fresh process, which does not outlive it.

    Raises:
        UserError: the process was killed, which happens where memory runs out.
        Exception: what the function raised.
    """
    context = multiprocessing.get_context("spawn")
    answer, sender = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(sender, function, arguments), daemon=True)
    process.start()
    sender.close()  # so that the end of the process is the end of the pipe
    try:
        value, error = answer.recv()
    except EOFError:
        raise UserError(
            f"the process that ran {function.__name__} was killed, probably because memory ran "
            "out; close other programs and run this again"
        ) from None
    finally:
        process.kill()
        process.join()
    if error is not None:
        raise error
    return value


def _call(sender: Any, function: Callable[..., Any], arguments: tuple) -> None:
    """The other side of `in_own_process`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    try:
        sender.send((function(*arguments), None))
    except Exception as error:
        sender.send((None, error))


def cpu_name() -> str:
    """The processor's own name for itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def resident_bytes(field: str) -> int:
    """This process' resident memory: now (field "VmRSS") or at its peak ("VmHWM")."""
    lines = Path("/proc/self/status").read_text().splitlines()
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
        Path("/proc/self/clear_refs").write_text("5")
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

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return dict(zip(names, threads.map(measure, names)))
