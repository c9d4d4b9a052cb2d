"""Single runs of several models, timed in turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

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
