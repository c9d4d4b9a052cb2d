"""What all scripts say and how: faults in one line, progress, nothing of what libraries print."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

import pipeline


class UserError(Exception):
    """A fault that the user can mend. The message says what is wrong, where, and the remedy."""


class Terminated(BaseException):
    """SIGTERM arrived: raised where the program is, so that it leaves no temporary file."""


STOPPING = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}
STOPPED = {
    KeyboardInterrupt: (130, pipeline.INTERRUPTED),
    Terminated: (143, "terminated; every file is the old one or the new one"),
}


def run(main: Callable[[], int | None]) -> None:
    """Runs a script's `main` and exits with its code.

    A fault that the user can mend becomes one line on stderr and exit code 2, among them a full
    or read-only disk and memory that runs out; Ctrl-C one line and 130, SIGTERM the same and 143.
    """
    script = Path(sys.argv[0]).name
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a terminal that knows ASCII alone
    for number in STOPPING:
        if signal.getsignal(number) != signal.SIG_IGN:  # Ctrl-C is, behind `nohup ... &`
            signal.signal(number, stop)
    sys.unraisablehook = insist
    try:
        code, fault = outcome(main)
        let_end()
    except BaseException as error:
        let_end()
        _Asked.kind = type(error) if type(error) in STOPPED else _Asked.kind
        if not _Asked.kind:
            raise
        code, fault = STOPPED[_Asked.kind]
    if fault:
        # C++ that calls Python makes faults of its own of what is raised there.
        code, fault = STOPPED.get(_Asked.kind, (code, fault))
        line = re.sub(r"[\x00-\x1f\x7f]", lambda found: repr(found[0])[1:-1], fault)  # of a name
        with contextlib.suppress(OSError):
            print(f"{script}: {line}", file=sys.stderr, flush=True)
    sys.exit(code)


def outcome(main: Callable[[], int | None]) -> tuple[int | None, str | None]:
    """The exit code of a script's `main`, and what is said of a fault that the user can mend."""
    try:
        return main(), None
    except UserError as error:
        return 2, str(error)
    except MemoryError:
        return 2, "memory ran out; close other programs, or take a smaller --batch-size"
    except OSError as error:
        if not error.strerror:  # none of the system's own: a fault of ours
            raise
        return 2, f"{error.filename or 'a file'}: {error.strerror}"


def let_end() -> None:
    """Lets no signal spoil the end of a script whose work is done."""
    for number in (*STOPPING, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)


class _Asked:
    """Which signal asked this process to stop, if one did."""

    kind: type[BaseException] | None = None


def stop(number: int, _: Any) -> None:
    """What Ctrl-C and SIGTERM do while a script runs."""
    _Asked.kind = STOPPING[signal.Signals(number)]
    raise _Asked.kind


def insist(lost: Any) -> None:
    """Lets Ctrl-C and SIGTERM come again a moment later, where Python cannot let them through.

    What is raised in `__del__` or in the callback of a weak reference goes no further
    (sys.unraisablehook); such run at any moment.
    """
    kind = lost.exc_type
    if kind not in STOPPED:
        sys.__unraisablehook__(lost)
        return

    def again(*_: Any) -> None:
        raise kind

    signal.signal(signal.SIGALRM, again)
    signal.setitimer(signal.ITIMER_REAL, 0.01)


def say(text: str) -> None:
    """Prints a line at once, also into a log file. Whoever stops listening stops no work."""
    try:
        print(text, flush=True)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
