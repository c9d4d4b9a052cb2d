"""Time single runs of several models that alternate in blocks of ten runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

TIMED_RUNS = 100  # runs per model
TURN_RUNS = 10  # runs of one model in a row (a turn) before the next model runs
TIMED_SECONDS = 60  # seconds per model at most; slower models get fewer runs


def time_in_turns(
    calls: dict[str, Callable[[], Any]], runs: int = TIMED_RUNS
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Times single runs of several models that take turns, so that load on the machine hits all.

    A turn is one run that is recorded separately and then TURN_RUNS runs in a row, as in LiteRT's
    own benchmark tool. The first run of a turn finds the caches of the processor full of the
    previous model's data; for a small model it takes a quarter longer.

    Args:
        calls: by name of the model, a function that runs it once.
        runs: runs per model. A slow model gets as many as fit into TIMED_SECONDS, at least one
            per turn.

    Returns:
        By name, two float64 arrays of milliseconds: of the runs in a row, and of the first run of
        each turn.
    """
    turns, in_turn = max(1, runs // TURN_RUNS), {}
    for name, call in calls.items():
        call()  # warm-up: the first run after loading is the slowest
        started = time.perf_counter()
        call()
        possible = TIMED_SECONDS / turns / (time.perf_counter() - started)
        in_turn[name] = int(np.clip(possible, 1, TURN_RUNS))
    in_a_row: dict[str, list[float]] = {name: [] for name in calls}
    first: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            for run in range(1 + in_turn[name]):
                started = time.perf_counter()
                call()
                milliseconds = 1e3 * (time.perf_counter() - started)
                (first if run == 0 else in_a_row)[name].append(milliseconds)
    return {name: (np.array(in_a_row[name]), np.array(first[name])) for name in calls}
