"""Processes of our own: what they return comes back, however they end; threads."""

import os
import signal
import subprocess
import sys
import time

import pytest

from pipeline.base import system
from pipeline.base.console import UserError
from tests.helpers.runs import ROOT


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def crash():
    os.kill(os.getpid(), signal.SIGSEGV)


def hang():
    time.sleep(600)


def complain():
    raise UserError("of the user's making")


@pytest.fixture
def two_minutes():
    """A test that hangs is a failure, not a wait."""

    def late(*_):
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_process_that_is_killed_is_a_fault_in_one_line(two_minutes):
    with pytest.raises(UserError, match=r"process that ran die was killed.*run this again$"):
        system.in_own_process(die)


def test_process_that_crashes_is_not_said_to_lack_memory(two_minutes):
    with pytest.raises(system.Died, match=r"ran crash crashed \(exit code -11\)"):
        system.in_own_process(crash)


def test_process_that_hangs_is_ended(two_minutes):
    with pytest.raises(TimeoutError):
        system.in_own_process(hang, seconds=0.2)


def test_what_a_process_returns_or_raises_comes_back(two_minutes):
    assert system.in_own_process(os.getpid) != os.getpid()
    with pytest.raises(UserError, match="of the user's making"):
        system.in_own_process(complain)


def test_threads_are_as_many_as_tensorflow_starts():
    """With two more named, it starts two more; without any, one for each core that it may use."""
    program = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from pipeline.base.lazy import tf
from pipeline.processes import tensorflow_threads
tf.matmul(*[tf.ones((600, 600))] * 2)
print(tensorflow_threads(), len(os.listdir("/proc/self/task")))
"""
    found = []
    for asked in ("", "3"):
        environment = {**os.environ, "TF_NUM_INTRAOP_THREADS": asked}
        command = [sys.executable, "-c", program]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        found.append([int(number) for number in done.stdout.split()])
    (alone, few), (three, more) = found
    assert (alone, three) == (1, 3) and more - few == 2


@pytest.mark.parametrize("asked", ["0", "-2", "many"])
def test_number_of_threads_that_tensorflow_does_not_take_is_none(monkeypatch, asked):
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", asked)
    assert system.tensorflow_threads() == system.cores()
