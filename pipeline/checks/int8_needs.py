"""What the int8 file of a network needs of a device: bytes, activation memory, time.

The file is the one that quantization.py writes without flags, its contract included, but for the
values in it: kernels are rounded without GPTQ, and a few pictures set the ranges, which is many
times faster. Memory and operators are the same. The bytes can differ by some hundreds, because a
file stores equal vectors once, and the contract holds a scale in decimal digits (`MARGINS`).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.base.console import UserError
from pipeline.base.lazy import keras
from pipeline.base.system import in_own_process
from pipeline.evaluation import latency, memory_plan
from pipeline.inference.contract import add_contract, of_data_set
from pipeline.inference.litert import REFUSALS
from pipeline.inference.models import open_model
from pipeline.inference.timing import time_in_turns
from pipeline.quantization.convert import Source

THREADS = 1  # of the timing, as of evaluation.py's gate
REPEATS = 3  # of the timing, if the machine is busy
# Percentile of the runs at which two files are compared. On two cores with nine programs at work,
# the ratio of two files was 0.75 to 0.76 there in eight measurements, that of the medians 0.43 to
# 0.79.
QUICK = 10
PICTURES = 4  # that set the ranges
# What is kept free below a limit, by flag. Bytes: the default network's file without 32 % of its
# channels had 192 bytes less after fine-tuning than before.
MARGINS = {"max_bytes": 1024}

Limits = Mapping[str, float]  # by flag, without dashes and with _ for -: those that were asked for


class Needs(NamedTuple):
    """What an int8 file needs of a device."""

    max_bytes: int
    max_activation_kb: float | None  # 1000 bytes; None: its memory has no fixed plan
    max_latency_ms: float  # `ratio` times that of the whole network's file, on THREADS
    # Its time over that of the whole network's file, measured in turns, at QUICK; infinite if
    # LiteRT cannot run it, as some networks with very few channels.
    ratio: float

    @property
    def runs(self) -> bool:
        """Whether LiteRT can run the file."""
        return bool(np.isfinite(self.ratio))

    def pressure(self, limits: Limits) -> tuple[float, str]:
        """What of the limit that is nearest, or passed most, is needed; and that limit's flag.

        Returns:
            A fraction of the limit, margin included (at most 1: all limits are kept to), and the
            flag.
        """
        if not self.runs:
            return np.inf, next(iter(limits))
        fractions = []
        for flag, limit in limits.items():
            needed = getattr(self, flag)
            if needed is None:
                raise UserError(
                    f"the network's memory has no fixed plan; leave {typed(flag)} out"
                ) from None
            needed += MARGINS.get(flag, 0)
            fractions.append((needed / limit if limit else np.inf, flag))
        return max(fractions)


def typed(flag: str) -> str:
    """A flag as it is typed."""
    return f"--{flag.replace('_', '-')}"


class Unrounded(Source):
    """A model and its .tflite files, without GPTQ: it changes values only, and takes longest."""

    @functools.cached_property
    def rounded(self) -> keras.Model:
        """The model itself."""
        return self.model


class Meter:
    """Measures int8 files beside that of the whole network.

    Args:
        models_dir: whose classes and rules for photographs are part of the files.
        whole: the network that the others are compared with.
        images: uint8 (n, height, width, 3) of its size.
    """

    def __init__(self, models_dir: Path, whole: keras.Model, images: np.ndarray) -> None:
        self.data = of_data_set(models_dir)
        self.whole = self.file(whole, images), images[0]
        times = timed({"whole": self.whole})
        self.whole_ms: float = times["whole"]["quick" if times["whole"]["busy"] else "median"]
        self.busy: str | None = times["whole"]["busy"]  # why times are unreliable, if they are
        self.whole_needs = self.of_file(self.whole[0], 1.0)

    def file(self, model: keras.Model, images: np.ndarray) -> bytes:
        """The int8 file of a network; raises UserError if the converter refuses it."""
        content = Unrounded(model, images[:PICTURES].astype(np.float32) / 255).file("int8")
        return add_contract(content, **self.data)

    def of_file(self, content: bytes, ratio: float) -> Needs:
        """What a file needs, whose time is `ratio` times that of the whole network's file."""
        try:
            memory = memory_plan.plan(content).activation_bytes / 1e3
        except ValueError:
            memory = None
        return Needs(len(content), memory, ratio * self.whole_ms, ratio)

    def needs(self, model: keras.Model, images: np.ndarray) -> Needs:
        """What the int8 file of a network needs.

        Args:
            images: uint8 (n, height, width, 3) of its size.
        """
        content = self.file(model, images)
        files = {"whole": self.whole, "this": (content, images[0])}
        try:
            times = timed(files)
        except REFUSALS:
            return self.of_file(content, np.inf)
        self.busy = self.busy or times["this"]["busy"]
        return self.of_file(content, times["this"]["quick"] / times["whole"]["quick"])


def timed(files: dict[str, tuple[bytes, np.ndarray]]) -> dict[str, dict[str, Any]]:
    """`times_in_turns` in a process of its own; of a busy machine again, up to REPEATS times.

    If it stays busy, the times count at which the file called "whole" was fastest.
    """
    repeats: list[dict[str, dict[str, Any]]] = []
    while len(repeats) < REPEATS:
        repeats.append(in_own_process(times_in_turns, files))
        if not any(row["busy"] for row in repeats[-1].values()):
            return repeats[-1]
    return min(repeats, key=lambda times: times["whole"]["quick"])


def times_in_turns(files: dict[str, tuple[bytes, np.ndarray]]) -> dict[str, dict[str, Any]]:
    """Times .tflite files, which take turns, on THREADS; for a process of its own.

    Args:
        files: by name, a file and a picture for it, uint8 (height, width, 3).

    Returns:
        By name: `median`, `p90` and `quick` (the QUICK-th percentile) of its runs in milliseconds,
        and as in `latency_runs` `others`, `spread`, `busy`.
    """
    calls = {name: open_model(file, THREADS).timed(image) for name, (file, image) in files.items()}
    _, before = latency.with_others(lambda: time.sleep(latency.LOOK_SECONDS))
    times, meanwhile = latency.with_others(lambda: time_in_turns(calls))
    rows: dict[str, dict[str, Any]] = {}
    for name, (in_a_row, first) in times.items():
        row = {"median": float(np.median(in_a_row)), "p90": float(np.percentile(in_a_row, 90))}
        row["quick"] = float(np.percentile(in_a_row, QUICK))
        spread = latency.turns_spread(in_a_row, len(first))
        others = None if before is None or meanwhile is None else max(before, meanwhile)
        rows[name] = row | {"spread": spread, "others": others}
        rows[name]["busy"] = latency.busy_reason(rows[name], THREADS)
    return rows
