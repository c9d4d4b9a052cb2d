"""Models take turns, and the first run of a turn is kept apart; on a simulated clock."""

import pytest

from pipeline.inference import timing


def test_runs_in_a_row_are_kept_apart_from_the_first_run_of_a_turn(monkeypatch):
    """A call takes 1 s ("slow": 10 s), five times that right after the other model, and 100 s at
    the very first time.
    """
    now, history = [0.0], []
    monkeypatch.setattr(timing, "TIMED_SECONDS", 400)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def model(name, seconds):
        def call():
            if name not in history:
                now[0] += 100
            else:
                now[0] += seconds if history[-1] == name else 5 * seconds
            history.append(name)

        return call

    times = timing.time_in_turns({"quick": model("quick", 1), "slow": model("slow", 10)}, 100)
    # Ten turns of ten runs after the first one; of "slow" four runs per turn fit into 400 s.
    assert [len(part) for part in times["quick"]] == [100, 10]
    assert [len(part) for part in times["slow"]] == [40, 10]
    assert times["quick"][0] == pytest.approx(1000) and times["quick"][1] == pytest.approx(5000)
    assert times["slow"][0] == pytest.approx(10_000) and times["slow"][1] == pytest.approx(50_000)
    turn = ["quick"] * 11 + ["slow"] * 5
    assert history[4:] == turn * 10  # two runs of each model to estimate its time come first


def test_model_too_slow_for_the_limit_gets_one_run_per_turn(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(timing, "TIMED_SECONDS", 0.5)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def call():
        now[0] += 7

    ((in_a_row, first),) = timing.time_in_turns({"slowest": call}, 30).values()
    assert len(in_a_row) == len(first) == 3
