"""Latency of every kind of model, and the detection of a busy machine."""

import multiprocessing
import os
import time

import numpy as np
import pytest

from pipeline.base.artifacts import artifact_path
from pipeline.evaluation import latency
from pipeline.inference import timing
from pipeline.inference.keras_files import save_model
from pipeline.inference.models import open_model
from pipeline.quantization.convert import convert
from tests.helpers.runs import SIZE
from tests.helpers.toy_networks import toy_network

IMAGE = np.zeros((SIZE, SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def model_files(tmp_path_factory):
    """A folder with a toy network in each kind of file that is timed: .h5, float32 and int8."""
    folder = tmp_path_factory.mktemp("models")
    model, calibration = toy_network()
    save_model(model, artifact_path(folder, "original"))
    for variant in ("float32", "int8"):
        artifact_path(folder, variant).write_bytes(convert(model, variant, calibration))
    return folder


@pytest.mark.parametrize("name", ["original", "float32", "int8"])
def test_timed_run_can_be_repeated_for_every_kind_of_model(model_files, name):
    run = open_model(artifact_path(model_files, name)).timed(IMAGE)
    run()
    run()


@pytest.mark.slow
def test_latency_of_every_kind_of_model_in_a_separate_process(model_files):
    names = ("original", "float32", "int8")
    rows = latency.measure_latency(model_files, names, 1, IMAGE)
    assert tuple(rows) == names
    for row in rows.values():
        assert row["runs"] == timing.TIMED_RUNS
        assert 0 < row["median"] <= row["p90"] and row["after_another"] > 0 and row["first"] > 0


# --- a busy machine -------------------------------------------------------------------------


def compute_forever(core):
    os.sched_setaffinity(0, {core})
    while True:
        pass


@pytest.fixture
def busy_core():
    """A core on which another process computes without pause; this process is pinned to it, too."""
    allowed = os.sched_getaffinity(0)
    core = min(allowed)
    other = multiprocessing.get_context("fork").Process(
        target=compute_forever, args=(core,), daemon=True
    )
    other.start()
    os.sched_setaffinity(0, {core})
    yield core
    os.sched_setaffinity(0, allowed)
    other.kill()
    other.join()


def test_cores_of_other_processes_are_counted_and_our_own_are_not(busy_core):
    """The other process gets half of the core while this one computes, all while this one waits."""

    def work():
        end = time.perf_counter() + 1
        while time.perf_counter() < end:
            pass
        return "done"

    result, others = latency.with_others(work)
    assert result == "done" and 0.35 < others < 1.0
    _, waiting = latency.with_others(lambda: time.sleep(0.5))
    assert 0.85 < waiting < 1.15


@pytest.mark.slow
def test_latency_on_a_busy_core_is_marked(model_files, busy_core):
    rows = latency.measure_latency(model_files, ("float32", "int8"), 1, IMAGE)
    assert all(row["others"] > latency.OTHERS and row["busy"] for row in rows.values())


@pytest.mark.parametrize(
    ("row", "threads", "reason"),
    [
        ({"others": 0.1}, 1, None),
        ({"others": None}, 1, None),
        ({"others": 1.1}, 1, None),  # of two cores; the other one is free
        ({"others": 1.3}, 1, "others took 1.3 of 2 cores"),
        ({"others": 0.3}, 2, "others took 0.3 of 2 cores"),
        ({"p90": 1.9}, 1, None),
        ({"p90": 2.1}, 1, "p90 is 2.1 times the median"),
        ({"spread": 0.31}, 1, "turns differ by 31%"),
    ],
)
def test_reason_why_the_machine_counts_as_busy(monkeypatch, row, threads, reason):
    monkeypatch.setattr(latency, "cores", lambda: 2)
    idle = {"median": 1.0, "p90": 1.1, "spread": 0.05, "others": 0.0}
    assert latency.busy_reason(idle | row, threads) == reason


def test_spread_is_that_of_turn_medians_and_ignores_one_slow_turn():
    regular = np.tile([2.0, 2.1, 1.9], 10)
    assert latency.turns_spread(regular, 10) == 0
    one_slow, three_slow = regular.copy(), regular.copy()
    one_slow[:3], three_slow[:9] = 20.0, 3.0
    assert latency.turns_spread(one_slow, 10) < latency.TURNS_SPREAD
    assert latency.turns_spread(three_slow, 10) == pytest.approx((3.0 - 2.0) / 2.1)
