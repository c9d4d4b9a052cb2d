"""Files that are whole, old or new, whoever stops the writer; and what became of them."""

from __future__ import annotations

import contextlib
import csv
import functools
import glob
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.base.console import UserError

# What may be wrong with a file whose SHA-256 is known.
MISSING, CHANGED = "is missing", "was changed after it was made"
MARK = ".unfinished-"  # in the name of a temporary file, before the number of its process


@contextlib.contextmanager
def atomic(path: Path, sweeping: bool = True) -> Iterator[Path]:
    """Yields a temporary name beside `path`, renamed to it only if the block succeeds.

    The name keeps the suffix, because Keras picks the format by it. A rename within a folder is
    atomic (POSIX `rename`), so that a killed run leaves the old file or the new one.

    Args:
        path: of the file.
        sweeping: whether to look through the folder for what killed runs left of this file. Who
            writes thousands of files into one folder sweeps it once.

    Raises:
        UserError: a library could not write; NumPy and Pillow do not say what the system said.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}{MARK}{os.getpid()}{path.suffix}")
    if sweeping:
        sweep(path.parent, path.stem)
    try:
        yield temporary
        with temporary.open("rb+") as file:  # Windows syncs no file that is open for reading
            os.fsync(file.fileno())  # before the name: after a power cut, too, old or new
        os.replace(temporary, path)
    except OSError as error:
        if error.strerror:
            raise
        raise UserError(f"{path} cannot be written ({error}); is the disk full?") from None
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path, stem: str | None = None) -> None:
    """Removes temporary files (of this stem) of processes that were killed while they wrote.

    A hidden file of the user has no MARK in its name, and stays.
    """
    beginning = "*" if stem is None else glob.escape(stem)
    for leftover in folder.glob(f".{beginning}{MARK}*"):
        writer = leftover.name.rpartition(MARK)[2].partition(".")[0]
        if writer.isdecimal() and not is_running(int(writer)):
            leftover.unlink(missing_ok=True)


def is_running(process: int) -> bool:
    """Whether a process of this number lives, other than this one."""
    if process == os.getpid():
        return False
    import psutil  # here: 0.05 s, which is needed only where something was left behind

    try:
        return psutil.pid_exists(process)
    except OverflowError:  # larger than any process number
        return False


def write_json(path: Path, content: Any) -> None:
    """Writes `content` as indented JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_lines(path: Path, lines: list[str]) -> None:
    """Writes lines of text, atomically. A name of a file may be any bytes."""
    with atomic(path) as temporary:
        text = "".join(f"{line}\n" for line in lines)
        temporary.write_text(text, encoding="utf-8", errors="replace")


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes rows as a table, atomically; what one lacks stays empty."""
    with (
        atomic(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="replace", newline="") as file,
    ):
        writer = csv.DictWriter(file, dict.fromkeys(key for row in rows for key in row))
        writer.writeheader()
        writer.writerows(rows)


def is_plain(name: str) -> bool:
    """Whether a name in a record leads to no other folder."""
    return Path(name).name == name


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def fault_of(path: Path, digest: str) -> str | None:
    """What is wrong with a file of this SHA-256: MISSING, CHANGED, or None if nothing is."""
    if not path.is_file():
        return MISSING
    return None if current_sha256(path) == digest else CHANGED


def current_sha256(path: Path) -> str:
    """SHA-256 of a file, read again only if the file seems to have changed."""
    status = path.stat()
    state = status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
    return cached_sha256(path, state)


@functools.cache
def cached_sha256(path: Path, state: tuple[int, ...]) -> str:
    """SHA-256 of a file; read once a process while its `state` (size, times ...) is the same."""
    return sha256(path)
