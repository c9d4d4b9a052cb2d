"""Processes: which of several writes, that only one works in a folder, what memory one took."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from pipeline.console import UserError


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
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        lock = path.open("a+")
    except OSError as error:
        raise UserError(f"{models_dir} cannot be written ({error.strerror})") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it may have removed the file since it was opened here.
            if not os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                raise BlockingIOError
        except OSError:
            lock.seek(0)
            raise UserError(
                f"{lock.read().strip() or 'another stage'} works in {models_dir}; wait until it "
                "ends, or name another folder: --models-dir DIR"
            ) from None
        lock.truncate(0)
        lock.write(f"{script} (process {os.getpid()})")
        lock.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
