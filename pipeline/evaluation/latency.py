"""How long one image takes, measured in a process of its own."""

from __future__ import annotations

import functools
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.artifacts import KERAS_MODELS, artifact_path
from pipeline.base.lazy import tf
from pipeline.base.system import cores, in_own_process
from pipeline.inference.keras_files import load_model
from pipeline.inference.litert import open_interpreter, set_image
from pipeline.inference.timing import time_in_turns

# When times say nothing of the models. With a core to themselves (real-time priority) our files of
# 96 pixels had turns that differ by up to 7 % and a p90 up to 1.17 times the median (16 % and 1.46
# in files of 0.2 ms); with `yes` on the same core, up to 531 % and 5.6 to 19 times. Others take
# 0.00 of an idle core, and 0.67 of ours beside a few programs.
LOOK_SECONDS = 0.5  # for which the machine is looked at before
OTHERS = 0.25  # of a core that others take, beyond those that the timing leaves free
TURNS_SPREAD = 0.3  # of the median: how far turns may lie apart, but for one either way
TAIL = 2.0  # times the median, that the p90 may be


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
        loading); and runs, the number of runs in a row; spread, see `turns_spread`; others, how
        many cores other processes took before or meanwhile; busy, why the times say nothing of
        the model, or None.
    """
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    calls, first = {name: single_run(models_dir, name, threads, image) for name in names}, {}
    for name, call in calls.items():
        started = time.perf_counter()
        call()
        first[name] = 1e3 * (time.perf_counter() - started)
    _, before = with_others(lambda: time.sleep(LOOK_SECONDS))
    times, meanwhile = with_others(lambda: time_in_turns(calls))
    others = None if meanwhile is None else max(before, meanwhile)
    rows = {}
    for name, (in_a_row, after_another) in times.items():
        row = {"median": np.median(in_a_row), "p90": np.percentile(in_a_row, 90)}
        row |= {"after_another": np.median(after_another), "first": first[name]}
        row |= {"spread": turns_spread(in_a_row, len(after_another))}
        rows[name] = {key: round(float(value), 3) for key, value in row.items()}
        rows[name] |= {"runs": len(in_a_row), "others": others}
        rows[name]["busy"] = busy_reason(rows[name], threads)
    return rows


def turns_spread(in_a_row: np.ndarray, turns: int) -> float:
    """How far the medians of a model's turns lie apart, as a share of the median of all.

    Of ten the quickest and the slowest do not count: something short fell into that one.
    """
    medians = np.sort(np.median(in_a_row.reshape(turns, -1), axis=1))
    aside = turns // 10
    return float((medians[-1 - aside] - medians[aside]) / np.median(in_a_row))


def busy_reason(row: dict[str, Any], threads: int) -> str | None:
    """Why the times of a row of `latency_runs` are those of a busy machine; None if they are not.

    One thread needs one core that nobody else takes, all threads need all of them.
    """
    if row["others"] is not None and row["others"] > cores() - threads + OTHERS:
        return f"others took {row['others']:.1f} of {cores()} core{'s' * (cores() > 1)}"
    if row["p90"] > TAIL * row["median"]:
        return f"p90 is {row['p90'] / row['median']:.1f} times the median"
    if row["spread"] > TURNS_SPREAD:
        return f"turns differ by {row['spread']:.0%}"
    return None


def with_others(work: Callable[[], Any]) -> tuple[Any, float | None]:
    """What `work` returns, and how many of the cores that we may use others took meanwhile.

    A hypervisor that takes a core away (steal) is one of them. None where nobody tells (no
    /proc/stat).
    """
    started, before = time.perf_counter(), others_seconds()
    result = work()
    seconds, after = time.perf_counter() - started, others_seconds()
    return result, None if before is None or after is None else round((after - before) / seconds, 3)


def others_seconds() -> float | None:
    """CPU seconds on the cores that we may use, since the system started, that were not ours."""
    try:
        lines = Path("/proc/stat").read_text(encoding="utf-8").splitlines()
        ours = os.sched_getaffinity(0)
    except (OSError, AttributeError):
        return None
    ticks = 0
    for line in lines:
        name, *fields = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in ours:
            user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK") - sum(os.times()[:2])


def measure_latency(
    models_dir: Path, names: tuple[str, ...], threads: int, image: np.ndarray
) -> dict[str, dict[str, Any]]:
    """`latency_runs` in a fresh process that does nothing else."""
    return in_own_process(latency_runs, models_dir, names, threads, image)


def cpu_name() -> str:
    """The processor's own name for itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
