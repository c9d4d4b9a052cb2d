"""Measure the latency of one image, in a separate process, and whether the machine was busy."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from pipeline.base.artifacts import artifact_path
from pipeline.base.lazy import tf
from pipeline.base.system import available_cores, cores, in_own_process
from pipeline.inference.models import open_model
from pipeline.inference.timing import time_in_turns

# Limits from which the machine counts as busy and the times do not describe the models.
# Measured with files for 96 x 96 pixels. On a core of its own (real-time priority): turns differ
# by up to 7 % and the p90 is up to 1.17 times the median (16 % and 1.46 times for files of 0.2 ms).
# With `yes` running on the same core: up to 531 %, and 5.6 to 19 times. Other processes use 0.00
# cores of an idle machine; with a few programs open, 0.67.
LOOK_SECONDS = 0.5  # how long other processes are watched before the timing starts
OTHERS = 0.25  # cores that other processes may use, beyond those that the timing leaves free
TURNS_SPREAD = 0.3  # of the median: largest allowed value of `turns_spread`
TAIL = 2.0  # largest allowed p90, in multiples of the median
# Fields of `psutil.cpu_times` during which a core works. Each system has some of them.
BUSY_FIELDS = ("user", "nice", "system", "irq", "softirq", "steal")


def latency_runs(
    paths: Mapping[str, Path], threads: int, image: np.ndarray | Mapping[str, np.ndarray]
) -> dict[str, dict[str, Any]]:
    """Times single runs of all models, which take turns (`time_in_turns`).

    Sets TensorFlow's threads, which is possible only once in a process.

    Args:
        paths: of the models' files, by what they are called.
        threads: that every model may use.
        image: uint8 (height, width, 3); of models of several sizes or layouts, one for each.

    Returns:
        By model, a dictionary. In milliseconds: `median` and `p90` (90th percentile) of the runs
        in a row, `after_another` (median of the runs right after another model), `first` (the
        first run after loading). `runs`: number of runs in a row. `spread`: see `turns_spread`.
        `others`: cores that other processes used before or during the timing, None if unknown.
        `busy`: see `busy_reason`.
    """
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    images = image if isinstance(image, Mapping) else dict.fromkeys(paths, image)
    calls = {name: open_model(path, threads).timed(images[name]) for name, path in paths.items()}
    first = {}
    for name, call in calls.items():
        started = time.perf_counter()
        call()
        first[name] = 1e3 * (time.perf_counter() - started)
    _, before = with_others(lambda: time.sleep(LOOK_SECONDS))
    times, meanwhile = with_others(lambda: time_in_turns(calls))
    others = None if before is None or meanwhile is None else max(before, meanwhile)
    rows: dict[str, dict[str, Any]] = {}
    for name, (in_a_row, after_another) in times.items():
        row = {"median": np.median(in_a_row), "p90": np.percentile(in_a_row, 90)}
        row |= {"after_another": np.median(after_another), "first": first[name]}
        row |= {"spread": turns_spread(in_a_row, len(after_another))}
        rows[name] = {key: round(float(value), 3) for key, value in row.items()}
        rows[name] |= {"runs": len(in_a_row), "others": others}
        rows[name]["busy"] = busy_reason(rows[name], threads)
    return rows


def turns_spread(in_a_row: np.ndarray, turns: int) -> float:
    """Slowest minus fastest turn of a model, as a fraction of the median of all its runs.

    A turn counts by its median. Of every ten turns, the fastest and the slowest are dropped, so
    that a short disturbance does not count.

    Args:
        in_a_row: milliseconds (turns * runs per turn,), in the order of measurement.
        turns: number of turns.
    """
    medians = np.sort(np.median(in_a_row.reshape(turns, -1), axis=1))
    dropped = turns // 10  # at either end
    return float((medians[-1 - dropped] - medians[dropped]) / np.median(in_a_row))


def busy_reason(row: dict[str, Any], threads: int) -> str | None:
    """Why the times in a row of `latency_runs` are those of a busy machine; None if it was idle.

    The model needs `threads` cores that no other process uses.
    """
    if row["others"] is not None and row["others"] > cores() - threads + OTHERS:
        return f"others took {row['others']:.1f} of {cores()} core{'s' * (cores() > 1)}"
    if row["p90"] > TAIL * row["median"]:
        return f"p90 is {row['p90'] / row['median']:.1f} times the median"
    if row["spread"] > TURNS_SPREAD:
        return f"turns differ by {row['spread']:.0%}"
    return None


def with_others(work: Callable[[], Any]) -> tuple[Any, float | None]:
    """Call `work` and measure the load of other processes meanwhile.

    Returns:
        What `work` returns, and how many of the cores that this process may use other processes
        used, on average. Time that a hypervisor takes away (steal) counts as theirs. None where
        the system does not tell (a sandbox without /proc/stat).
    """
    started, before = time.perf_counter(), others_seconds()
    result = work()
    seconds, after = time.perf_counter() - started, others_seconds()
    return result, None if before is None or after is None else round((after - before) / seconds, 3)


def others_seconds() -> float | None:
    """CPU seconds of other processes on the cores that this process may use, since system start.

    None where the system does not tell.
    """
    try:
        times = psutil.cpu_times(percpu=True)
    except OSError:
        return None
    ours = available_cores()
    busy = sum(
        getattr(core, field, 0.0)
        for number, core in enumerate(times)
        if number in ours
        for field in BUSY_FIELDS
    )
    return busy - sum(os.times()[:2])


def measure_latency(
    models_dir: Path, names: tuple[str, ...], threads: int, image: np.ndarray
) -> dict[str, dict[str, Any]]:
    """`latency_runs` of the models called `names`, see `measure_files`."""
    paths = {name: artifact_path(models_dir, name) for name in names}
    return measure_files(paths, threads, image)


def measure_files(
    paths: Mapping[str, Path], threads: int, image: np.ndarray | Mapping[str, np.ndarray]
) -> dict[str, dict[str, Any]]:
    """`latency_runs` in a new process that does nothing else."""
    return in_own_process(latency_runs, dict(paths), threads, image)
