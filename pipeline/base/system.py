"""Processes: how many cores they have, which of several writes, what is done in one of its own."""

from __future__ import annotations

import contextlib
import fcntl
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from pipeline.base.artifacts import sweep
from pipeline.base.console import UserError

START = "spawn"  # how processes of their own begin: afresh, because TensorFlow survives no fork


class Died(UserError):
    """A process of its own crashed, or was killed."""


def cores() -> int:
    """How many cores this process may use: taskset and cpusets take some away.

    TensorFlow starts as many threads, unless TF_NUM_INTRAOP_THREADS says otherwise.
    """
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # Linux only
        return os.cpu_count() or 1


def tensorflow_threads() -> int:
    """On how many threads TensorFlow computes one operator."""
    asked = os.environ.get("TF_NUM_INTRAOP_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) else cores()


def is_first_worker() -> bool:
    """Whether this process writes the files: the only one, or the first that TF_CONFIG names.

    That is the task of type chief or, where the cluster has none, worker 0.
    """
    config = json.loads(os.environ.get("TF_CONFIG") or "{}")
    task, first = config.get("task", {}), "chief" if "chief" in config.get("cluster", {}) else ""
    return not task or (task.get("type") == (first or "worker") and not task.get("index"))


def peak_memory_mb() -> int | None:
    """The most resident memory that this process has had, in MB; None where nobody tells."""
    try:
        import resource  # Unix only
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6)


@contextlib.contextmanager
def alone(models_dir: Path, script: str) -> Iterator[None]:
    """Works in a models folder while no other stage does.

    The lock is the system's (flock), so that it ends with the process that holds it, however
    that ends. Of several workers of one training, the first holds it.

    Raises:
        UserError: another stage works there, or the folder cannot be written.
    """
    if not is_first_worker():
        yield
        return
    path = models_dir / ".lock"
    with taken(path) as lock:
        try:
            for folder in (models_dir, models_dir / "dataset"):
                sweep(folder)  # first: it makes room on a full disk
            try:
                os.ftruncate(lock.fileno(), 0)
                os.write(lock.fileno(), f"{script} (process {os.getpid()})".encode())
            except OSError as error:
                raise UserError(f"{models_dir} cannot be written ({error.strerror})") from None
            yield
        finally:
            path.unlink(missing_ok=True)


def taken(path: Path) -> TextIO:
    """The file of a lock, made and held; raises as `alone`."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path.parent} cannot be written ({error.strerror})") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            with lock:
                lock.seek(0)
                holder = lock.read().strip() or "another stage"
            raise UserError(
                f"{holder} works in {path.parent}; wait until it ends, or name another folder: "
                "--models-dir DIR"
            ) from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                return lock
        lock.close()  # whoever held it removed the file after it was opened here


# --- a process of its own -------------------------------------------------------------------


def in_own_process(
    function: Callable[..., Any], *arguments: Any, seconds: float | None = None
) -> Any:
    """What a function of a module returns, called in a fresh process, which does not outlive it.

    Args:
        seconds: how long it may take, with the start of the process.

    Raises:
        Died: the process was killed, which happens where memory runs out, or crashed.
        TimeoutError: it took longer.
        Exception: what the function raised.
    """
    context = multiprocessing.get_context(START)
    answer, sender = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(sender, function, arguments), daemon=True)
    process.start()
    sender.close()  # so that the end of the process is the end of the pipe
    try:
        if not answer.poll(seconds):
            raise TimeoutError
        value, error = answer.recv()
    except EOFError:
        process.join()
        how = "was killed, probably because memory ran out; close other programs and run this again"
        if process.exitcode != -signal.SIGKILL:
            how = f"crashed (exit code {process.exitcode}); run this again"
        raise Died(f"the process that ran {function.__name__} {how}") from None
    finally:
        process.kill()
        process.join()
    if error is not None:
        raise error
    return value


def _call(sender: Any, function: Callable[..., Any], arguments: tuple) -> None:
    """The other side of `in_own_process`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    try:
        sender.send((function(*arguments), None))
    except Exception as error:
        sender.send((None, error))
