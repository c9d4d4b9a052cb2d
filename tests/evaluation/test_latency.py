"""Time and memory: models take turns, every kind of model runs, a busy machine is told."""

import multiprocessing
import os
import time

import numpy as np
import pytest

from pipeline.base.artifacts import artifact_path
from pipeline.base.lazy import keras, layers
from pipeline.evaluation import latency, memory
from pipeline.inference import timing
from pipeline.inference.keras_files import save_model
from pipeline.quantization.convert import convert
from tests.helpers.runs import CLASSES, SIZE

IMAGE = np.zeros((SIZE, SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def model_files(tmp_path_factory):
    """A toy network in each kind of file that is timed: .h5, float32 and int8."""
    folder = tmp_path_factory.mktemp("models")
    image = layers.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(32, 3, 2, padding="same", activation="relu")(image)
    x = layers.Conv2DTranspose(32, 2, 2)(x)
    model = keras.Model(image, layers.Conv2D(len(CLASSES), 1)(x))
    save_model(model, artifact_path(folder, "original"))
    calibration = np.random.default_rng(0).random((4, SIZE, SIZE, 3), np.float32)
    for variant in ("float32", "int8"):
        artifact_path(folder, variant).write_bytes(convert(model, variant, calibration))
    return folder


def test_runs_in_a_row_are_told_from_those_right_after_another_model(monkeypatch):
    """By a clock of its own: a call takes 1 s, 5 s if another model ran before it, and 100 s if it
    is the very first.
    """
    now, ran = [0.0], []
    monkeypatch.setattr(latency, "TIMED_SECONDS", 400)
    monkeypatch.setattr(latency.time, "perf_counter", lambda: now[0])

    def model(name, seconds):
        def call():
            now[0] += 100 if name not in ran else seconds if ran[-1] == name else 5 * seconds
            ran.append(name)

        return call

    times = timing.time_in_turns({"quick": model("quick", 1), "slow": model("slow", 10)}, 100)
    # Ten turns of ten runs and the one before them; of the slow one four runs in each: 400 s.
    assert [len(part) for part in times["quick"]] == [100, 10]
    assert [len(part) for part in times["slow"]] == [40, 10]
    assert times["quick"][0] == pytest.approx(1000) and times["quick"][1] == pytest.approx(5000)
    assert times["slow"][0] == pytest.approx(10_000) and times["slow"][1] == pytest.approx(50_000)


@pytest.mark.parametrize("name", ["original", "float32", "int8"])
def test_single_run_is_ready_for_every_kind(model_files, name):
    run = latency.single_run(model_files, name, 1, IMAGE)
    run()
    run()


def test_latency_of_every_kind_in_a_process_of_its_own(model_files):
    names = ("original", "float32", "int8")
    rows = latency.measure_latency(model_files, names, 1, IMAGE)
    assert tuple(rows) == names
    for row in rows.values():
        assert row["runs"] == timing.TIMED_RUNS
        assert 0 < row["median"] <= row["p90"] and row["after_another"] > 0 and row["first"] > 0


def test_memory_of_a_run(model_files):
    grown = memory.measure_memory(model_files, ("int8",), IMAGE)["int8"]
    if grown is None:
        pytest.skip("this system has no /proc")
    assert 0 < grown < 200_000_000


# --- a busy machine -------------------------------------------------------------------------


def compute(core):
    os.sched_setaffinity(0, {core})
    while True:
        pass


@pytest.fixture
def busy_core():
    """One core of this machine on which another process computes; this one is held to it, too."""
    before = os.sched_getaffinity(0)
    core = min(before)
    other = multiprocessing.get_context("fork").Process(target=compute, args=(core,), daemon=True)
    other.start()
    os.sched_setaffinity(0, {core})
    yield core
    os.sched_setaffinity(0, before)
    other.kill()
    other.join()


def test_what_others_compute_is_seen_and_what_we_compute_is_not(busy_core):
    """Half of the core is theirs, whatever else runs on it; while we wait, all of it."""

    def work():
        ends = time.perf_counter() + 1
        while time.perf_counter() < ends:
            pass
        return "done"

    result, others = latency.with_others(work)
    assert result == "done" and 0.35 < others < 1.0
    _, waiting = latency.with_others(lambda: time.sleep(0.5))
    assert 0.85 < waiting < 1.15


def test_latency_on_a_busy_core_is_marked(model_files, busy_core):
    rows = latency.measure_latency(model_files, ("float32", "int8"), 1, IMAGE)
    assert all(row["others"] > latency.OTHERS and row["busy"] for row in rows.values())


@pytest.mark.parametrize(
    ("row", "threads", "reason"),
    [
        ({"others": 0.1}, 1, None),
        ({"others": None}, 1, None),
        ({"others": 1.1}, 1, None),  # of two cores: the other one is free
        ({"others": 1.3}, 1, "others took 1.3 of 2 cores"),
        ({"others": 0.3}, 2, "others took 0.3 of 2 cores"),
        ({"p90": 1.9}, 1, None),
        ({"p90": 2.1}, 1, "p90 is 2.1 times the median"),
        ({"spread": 0.31}, 1, "turns differ by 31%"),
    ],
)
def test_why_times_say_nothing_of_a_model(monkeypatch, row, threads, reason):
    monkeypatch.setattr(latency, "cores", lambda: 2)
    quiet = {"median": 1.0, "p90": 1.1, "spread": 0.05, "others": 0.0}
    assert latency.busy_reason(quiet | row, threads) == reason


def test_spread_is_that_of_turns_and_forgives_one():
    quiet = np.tile([2.0, 2.1, 1.9], 10)
    assert latency.turns_spread(quiet, 10) == 0
    one, three = quiet.copy(), quiet.copy()
    one[:3], three[:9] = 20.0, 3.0
    assert latency.turns_spread(one, 10) < latency.TURNS_SPREAD
    assert latency.turns_spread(three, 10) == pytest.approx((3.0 - 2.0) / 2.1)
