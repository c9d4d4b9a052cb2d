"""What all scripts say and how: faults in one line, progress, nothing of what libraries print."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm


class UserError(Exception):
    """A fault that the user can mend. The message says what is wrong, where, and the remedy."""


def run(main: Callable[[], int | None]) -> None:
    """Runs a script's `main` and exits with its code.

    A UserError becomes one line on stderr and exit code 2, Ctrl-C one line and 130.
    """
    script = Path(sys.argv[0]).name
    try:
        sys.exit(main())
    except UserError as error:
        print(f"{script}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"\n{script}: interrupted; every file is the old one or the new one", file=sys.stderr)
        sys.exit(130)


def say(text: str) -> None:
    """Prints a line at once, also into a log file."""
    print(text, flush=True)


def progress(label: str, total: int, unit: str) -> Any:
    """A bar with rate and time left; nothing where stderr is no terminal."""
    return tqdm(desc=label, total=total, unit=f" {unit}", leave=False, disable=None)


class _Silence:
    """Who asked for silence, and where stderr went meanwhile."""

    lock = threading.Lock()
    holders = 0
    kept = -1


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Keeps what C++ code prints (TensorFlow's start, the converter) off the terminal.

    File descriptor 2 belongs to the process, so that of threads that are silent at the same
    time the first turns it away and the last one brings it back. Exceptions come through.
    """
    with _Silence.lock:
        if _Silence.holders == 0:
            sys.stderr.flush()
            _Silence.kept = os.dup(2)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)
        _Silence.holders += 1
    try:
        yield
    finally:
        with _Silence.lock:
            _Silence.holders -= 1
            if _Silence.holders == 0:
                os.dup2(_Silence.kept, 2)
                os.close(_Silence.kept)
