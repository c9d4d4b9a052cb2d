"""The machine and its processes: cores, workers, memory, the lock of a models folder, children."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from pipeline.base.console import UserError
from pipeline.base.files import sweep

START: Final = "spawn"  # how child processes start: afresh, because TensorFlow survives no fork
LOCK_FILE = ".lock"  # in a models folder, while a stage works there: holds the stage's name
NAME_OFFSET = 1  # bytes before that name: Windows lets no other process read a locked byte
LONGEST_NAME = 200  # bytes of it that are read


class Died(UserError):
    """A child process crashed or was killed."""


# --- cores, workers, memory -----------------------------------------------------------------


def available_cores() -> list[int]:
    """Numbers of the cores that this process may use, in ascending order.

    taskset and cpusets take some away. macOS has neither: there it is all cores.
    """
    if hasattr(os, "sched_getaffinity"):  # Linux
        return sorted(os.sched_getaffinity(0))
    import psutil

    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):  # Windows and FreeBSD
        return sorted(process.cpu_affinity())
    return list(range(os.cpu_count() or 1))


def cores() -> int:
    """How many cores this process may use.

    TensorFlow starts as many threads, unless TF_NUM_INTRAOP_THREADS names another number.
    """
    return len(available_cores())


def tensorflow_threads() -> int:
    """The number of threads on which TensorFlow computes one operator."""
    setting = os.environ.get("TF_NUM_INTRAOP_THREADS", "")
    return int(setting) if setting.isdigit() and int(setting) else cores()


def is_first_worker() -> bool:
    """Whether this process writes the files: the only worker, or the first one of TF_CONFIG.

    The first one is the task of type chief or, in a cluster without a chief, worker 0.

    Raises:
        UserError: TF_CONFIG is no description of a cluster.
    """
    text = os.environ.get("TF_CONFIG")
    if not text:
        return True
    try:
        config = json.loads(text)
        task, cluster = config.get("task", {}), config.get("cluster", {})
        first_type = "chief" if "chief" in cluster else "worker"
        return not task or (task.get("type") == first_type and not task.get("index"))
    except (ValueError, TypeError, AttributeError):
        raise UserError(
            'TF_CONFIG is no JSON object with "cluster" and "task"; correct it, or train on this '
            "machine alone: unset TF_CONFIG"
        ) from None


def peak_memory_mb() -> int | None:
    """The most resident memory that this process has had, in MB; None if the system hides it."""
    try:
        import resource  # Unix only
    except ImportError:
        import psutil

        peak = getattr(psutil.Process().memory_info(), "peak_wset", None)  # Windows
        return None if peak is None else round(peak / 1e6)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6)


def limit_address_space(size: int) -> None:
    """Limits the address space of this process to `size` bytes, if the system can do that.

    A lower limit that is in force already stays.
    """
    with contextlib.suppress(ImportError, AttributeError, ValueError, OSError):
        import resource  # Unix only

        resource.setrlimit(resource.RLIMIT_AS, (size, size))


# --- the lock of a models folder ------------------------------------------------------------


@contextlib.contextmanager
def lock(models_dir: Path, script: str) -> Iterator[None]:
    """Holds a models folder while no other stage works in it, and sweeps it first.

    The lock belongs to the operating system, so that it ends with the process that holds it,
    however that ends. Of several workers of one training, only the first one locks.

    Args:
        models_dir: made if it is missing.
        script: name of the stage, which other stages are told.

    Raises:
        UserError: another stage works there, or the folder cannot be written.
    """
    if not is_first_worker():
        yield
        return
    with locked_file(models_dir / LOCK_FILE) as descriptor:
        for folder in (models_dir, models_dir / "dataset"):
            sweep(folder)  # before the name is written: it makes room on a full disk
        try:
            os.ftruncate(descriptor, 0)
            name = f"{script} (process {os.getpid()})"
            os.write(descriptor, b"\n" * NAME_OFFSET + name.encode())
        except OSError as error:
            raise UserError(f"{models_dir} cannot be written ({error.strerror})") from None
        yield


@contextlib.contextmanager
def locked_file(path: Path) -> Iterator[int]:
    """Makes, opens and locks a file; removes it at the end.

    Yields:
        The descriptor of the file, open for reading and writing.

    Raises:
        UserError: as `lock`.
    """
    descriptor: int | None = None
    with contextlib.ExitStack() as stack:
        if os.name == "nt":  # which removes no open file, also not one that another process opened
            stack.callback(unlink_quietly, path)
        while descriptor is None or not is_name_of(path, descriptor):
            # Not the first time: the previous holder removed the file after it was opened here.
            descriptor = open_lock_file(path)
            stack.callback(os.close, descriptor)
            take_lock(path, descriptor, stack)
        stack.callback(remove, path, descriptor)  # while the lock still holds
        yield descriptor


def open_lock_file(path: Path) -> int:
    """The descriptor of a lock file, made if it is missing; its content stays.

    Raises:
        UserError: the folder or the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as error:
        raise UserError(f"{path.parent} cannot be written ({error.strerror})") from None


def take_lock(path: Path, descriptor: int, stack: contextlib.ExitStack) -> None:
    """Locks an open file until it is closed.

    Some network file systems have no locks. There a second file beside it is the lock: a file of
    filelock's, whose existence and living process count.

    Args:
        stack: closed when the lock shall end.

    Raises:
        UserError: another process holds the lock.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "only soft file lock is available"
        import filelock  # 0.2 s, which a stage that has nothing to do need not wait for

        try:
            if filelock.lock_descriptor(descriptor, blocking=False):
                return
        except OSError:
            marker = filelock.SoftFileLock(path.with_name(f"{path.name}.marker"))
            with contextlib.suppress(filelock.Timeout):
                # Two attempts: the first one removes the marker of a process that was killed.
                marker.acquire(timeout=0.05, poll_interval=0.01)
                stack.callback(marker.release)
                return
    os.lseek(descriptor, NAME_OFFSET, os.SEEK_SET)
    holder = os.read(descriptor, LONGEST_NAME).decode(errors="replace").strip() or "another stage"
    raise UserError(
        f"{holder} works in {path.parent}; wait until it ends, or name another folder: "
        "--models-dir DIR"
    )


def is_name_of(path: Path, descriptor: int) -> bool:
    """Whether there is a file of this name, and it is the open one."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def remove(path: Path, descriptor: int) -> None:
    """Removes an open file, unless another one has its name by now."""
    if is_name_of(path, descriptor):
        unlink_quietly(path)


def unlink_quietly(path: Path) -> None:
    """Removes a file if that is possible."""
    with contextlib.suppress(OSError):
        path.unlink()


# --- child processes ------------------------------------------------------------------------


def in_own_process(
    function: Callable[..., Any], *arguments: Any, seconds: float | None = None
) -> Any:
    """Calls a function of a module in a fresh child process, which does not outlive this one.

    Args:
        seconds: how long the call may take, with the start of the process.

    Returns:
        What the function returns.

    Raises:
        Died: the process crashed or was killed, as the system does where memory runs out.
        TimeoutError: the call took longer.
        Exception: what the function raised.
    """
    context = multiprocessing.get_context(START)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(sender, function, arguments), daemon=True)
    process.start()
    sender.close()  # so that the end of the process is the end of the pipe
    try:
        if not receiver.poll(seconds):
            raise TimeoutError
        value, error = receiver.recv()
    except EOFError:
        process.join()
        how = "was killed, probably because memory ran out; close other programs and run this again"
        if process.exitcode != -getattr(signal, "SIGKILL", 9):  # Windows has no such signal
            how = f"crashed (exit code {process.exitcode}); run this again"
        raise Died(f"the process that ran {function.__name__} {how}") from None
    finally:
        process.kill()
        process.join()
    if error is not None:
        raise error
    return value


def _call(sender: Any, function: Callable[..., Any], arguments: tuple) -> None:
    """The child's side of `in_own_process`: sends (value, None) or (None, exception)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is answered by the parent
    try:
        sender.send((function(*arguments), None))
    except Exception as error:
        sender.send((None, error))
