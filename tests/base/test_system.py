"""Cores and workers, the lock of a models folder, child processes."""

import errno
import os
import signal
import subprocess
import sys
import time

import filelock
import pytest

from pipeline.base import system
from pipeline.base.artifacts import ROOT
from pipeline.base.console import UserError

# --- cores and workers ----------------------------------------------------------------------


@pytest.mark.slow
def test_threads_are_as_many_as_tensorflow_starts():
    """TensorFlow starts one thread per core that the process may use, or as many as are set.

    The count of all threads shows it: with three for one operator there are two more than with one.
    """
    program = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from pipeline.base.lazy import tf
from pipeline.base.system import tensorflow_threads
tf.matmul(*[tf.ones((600, 600))] * 2)
print(tensorflow_threads(), len(os.listdir("/proc/self/task")))
"""
    counts = []
    for setting in ("", "3"):
        environment = {**os.environ, "TF_NUM_INTRAOP_THREADS": setting}
        command = [sys.executable, "-c", program]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        counts.append([int(number) for number in done.stdout.split()])
    (one_core, threads_on_one_core), (three, threads_with_three) = counts
    assert (one_core, three) == (1, 3) and threads_with_three - threads_on_one_core == 2


@pytest.mark.parametrize("setting", ["0", "-2", "many"])
def test_number_of_threads_that_tensorflow_ignores_is_ignored(monkeypatch, setting):
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", setting)
    assert system.tensorflow_threads() == system.cores()


@pytest.mark.parametrize(
    ("config", "first"),
    [
        ("", True),
        ("{}", True),
        ('{"cluster": {"worker": ["a", "b"]}, "task": {"type": "worker", "index": 0}}', True),
        ('{"cluster": {"worker": ["a", "b"]}, "task": {"type": "worker", "index": 1}}', False),
        ('{"cluster": {"chief": ["a"]}, "task": {"type": "chief", "index": 0}}', True),
        ('{"cluster": {"chief": ["a"]}, "task": {"type": "worker", "index": 0}}', False),
    ],
)
def test_first_worker_writes_the_files(monkeypatch, config, first):
    monkeypatch.setenv("TF_CONFIG", config)
    assert system.is_first_worker() is first


@pytest.mark.parametrize("config", ["garbage", "[]", "null", '{"task": 5}', '{"cluster": 5}'])
def test_tf_config_that_describes_no_cluster_is_refused(monkeypatch, config):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(UserError, match=r"TF_CONFIG is no JSON object .* unset TF_CONFIG$"):
        system.is_first_worker()


# --- the lock of a models folder ------------------------------------------------------------

HOLD = """
import pathlib, sys
from pipeline.base import system
{before}
with system.lock(pathlib.Path(sys.argv[1]), "training.py"):
    print("holds", flush=True)
    input()
"""
# What a system without flock does, or a network file system that is mounted without locks.
NO_LOCKS = """
import errno, filelock
def refuse(descriptor, blocking):
    raise OSError(errno.ENOSYS, "no locks")
filelock.lock_descriptor = refuse
"""


def start_holder(folder, before=""):
    """A process that works in a models folder until it reads a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(before=before), str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "holds\n"
    return process


@pytest.fixture(params=["with locks", "without locks"])
def holder(request, tmp_path, monkeypatch):
    """The holder of the lock of `tmp_path`, on file systems with locks and without."""
    without = request.param == "without locks"
    if without:

        def refuse(descriptor, blocking):
            raise OSError(errno.ENOSYS, "no locks")

        monkeypatch.setattr(filelock, "lock_descriptor", refuse)
    process = start_holder(tmp_path, NO_LOCKS if without else "")
    yield process
    process.kill()
    process.communicate()


def name_of_holder(folder):
    return (folder / ".lock").read_text(encoding="utf-8").strip()


def test_second_stage_in_a_folder_is_told_who_works_there(holder, tmp_path):
    message = (
        rf"^training\.py \(process {holder.pid}\) works in {tmp_path}; wait until it ends, or "
    )
    with pytest.raises(UserError, match=message), system.lock(tmp_path, "pruning.py"):
        pytest.fail("two stages at once")
    assert name_of_holder(tmp_path) == f"training.py (process {holder.pid})"
    with system.lock(tmp_path / "another", "pruning.py"):
        pass


def test_no_file_is_left_after_the_end(holder, tmp_path):
    holder.communicate("\n")
    assert not list(tmp_path.iterdir())
    with system.lock(tmp_path, "pruning.py"):
        assert name_of_holder(tmp_path) == f"pruning.py (process {os.getpid()})"
    assert not list(tmp_path.iterdir())


def test_lock_of_a_killed_process_does_not_block(holder, tmp_path):
    holder.kill()
    holder.wait()
    assert (tmp_path / ".lock").exists()
    with system.lock(tmp_path, "pruning.py"):
        pass
    assert not list(tmp_path.iterdir())


def test_failure_of_a_stage_releases_the_lock(tmp_path):
    with pytest.raises(ValueError, match="mine"), system.lock(tmp_path, "training.py"):
        raise ValueError("mine")
    assert not list(tmp_path.iterdir())


def test_lock_file_that_its_holder_removed_meanwhile_is_made_again(tmp_path, monkeypatch):
    """The other stage ended after this one had opened the file and before it locked it."""
    lock_descriptor, descriptors = filelock.lock_descriptor, []

    def remove_and_lock(descriptor, blocking):
        if not descriptors:
            (tmp_path / ".lock").unlink()
        descriptors.append(descriptor)
        return lock_descriptor(descriptor, blocking=blocking)

    monkeypatch.setattr(filelock, "lock_descriptor", remove_and_lock)
    with system.lock(tmp_path, "training.py"):
        assert name_of_holder(tmp_path) == f"training.py (process {os.getpid()})"
        monkeypatch.setattr(filelock, "lock_descriptor", lock_descriptor)
        with pytest.raises(UserError, match="works in"), system.lock(tmp_path, "pruning.py"):
            pytest.fail("two stages at once")
    assert len(descriptors) == 2 and not list(tmp_path.iterdir())


def test_many_processes_that_take_turns_never_work_at_once(tmp_path):
    """Each tries until it had the lock ten times; the file it makes meanwhile must be new."""
    program = """
import os, pathlib, sys
from pipeline.base import system
from pipeline.base.artifacts import ROOT
from pipeline.base.console import UserError
folder, turns = pathlib.Path(sys.argv[1]), 0
while turns < 10:
    try:
        with system.lock(folder, "training.py"):
            os.close(os.open(folder / "at work", os.O_CREAT | os.O_EXCL))
            os.unlink(folder / "at work")
            turns += 1
    except UserError:
        pass
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    assert [process.communicate(timeout=60)[1] for process in processes] == ["", "", ""]
    assert not list(tmp_path.iterdir())


def test_of_several_workers_only_the_first_one_locks(tmp_path, monkeypatch):
    cluster = '{"cluster": {"worker": ["a", "b"]}, "task": {"type": "worker", "index": %d}}'
    for index, files in ((0, [".lock"]), (1, [])):
        monkeypatch.setenv("TF_CONFIG", cluster % index)
        with system.lock(tmp_path, "training.py"):
            assert [path.name for path in tmp_path.iterdir()] == files


def test_full_disk_is_reported_before_the_work_and_leaves_no_lock(tmp_path, monkeypatch):
    def write(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(system.os, "write", write)
    with (
        pytest.raises(UserError, match=rf"{tmp_path} cannot be written \(No space left"),
        system.lock(tmp_path, "training.py"),
    ):
        pytest.fail("worked")
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be_written_is_reported_before_the_work(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with (
        pytest.raises(UserError, match="file cannot be written"),
        system.lock(tmp_path / "file", "training.py"),
    ):
        pytest.fail("worked")


# --- child processes ------------------------------------------------------------------------


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
    """Lets a test that hangs fail after two minutes."""

    def late(*_):
        raise AssertionError("the test hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_killed_child_is_a_fault_in_one_line(two_minutes):
    with pytest.raises(UserError, match=r"process that ran die was killed.*run this again$"):
        system.in_own_process(die)


def test_crashed_child_is_not_blamed_on_memory(two_minutes):
    with pytest.raises(system.Died, match=r"ran crash crashed \(exit code -11\)"):
        system.in_own_process(crash)


def test_child_that_hangs_is_ended(two_minutes):
    with pytest.raises(TimeoutError):
        system.in_own_process(hang, seconds=0.2)


def test_result_and_exception_of_a_child_come_back(two_minutes):
    assert system.in_own_process(os.getpid) != os.getpid()
    with pytest.raises(UserError, match="of the user's making"):
        system.in_own_process(complain)
