"""Time and memory: models take turns, every kind of model runs, a killed process is said."""

import os
import signal

import numpy as np
import pytest
from conftest import CLASSES, SIZE

from pipeline import timing
from pipeline.artifacts import artifact_path
from pipeline.console import UserError
from pipeline.conversion import convert
from pipeline.keras_models import save_model
from pipeline.packages import keras, layers

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
    monkeypatch.setattr(timing, "TIMED_SECONDS", 400)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

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
    run = timing.single_run(model_files, name, 1, IMAGE)
    run()
    run()


def test_latency_of_every_kind_in_a_process_of_its_own(model_files):
    names = ("original", "float32", "int8")
    rows = timing.measure_latency(model_files, names, 1, IMAGE)
    assert tuple(rows) == names
    for row in rows.values():
        assert row["runs"] == timing.TIMED_RUNS
        assert 0 < row["median"] <= row["p90"] and row["after_another"] > 0 and row["first"] > 0


def test_memory_of_a_run(model_files):
    grown = timing.measure_memory(model_files, ("int8",), IMAGE)["int8"]
    if grown is None:
        pytest.skip("this system has no /proc")
    assert 0 < grown < 200_000_000


# --- processes ------------------------------------------------------------------------------


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def complain():
    raise UserError("of the user's making")


@pytest.fixture
def two_minutes():
    """A test that hangs is a failure, not a wait."""

    def late(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_process_that_is_killed_is_a_fault_in_one_line(two_minutes):
    with pytest.raises(UserError, match=r"process that ran die was killed.*run this again$"):
        timing.in_own_process(die)


def test_what_a_process_returns_or_raises_comes_back(two_minutes):
    assert timing.in_own_process(os.getpid) != os.getpid()
    with pytest.raises(UserError, match="of the user's making"):
        timing.in_own_process(complain)
