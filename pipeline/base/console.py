"""What scripts print: faults in one line, progress, Ctrl-C; what libraries print is kept away."""

from __future__ import annotations

import _thread
import contextlib
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.start_check import quoted

RESUMABLE = ("training.py", "pruning.py", "quantization.py")  # scripts that have --resume
RETRY_SECONDS = 0.01  # after which a signal that Python dropped is raised again


class UserError(Exception):
    """A fault that the user can mend. The message says what is wrong, where, and the remedy."""


class Terminated(BaseException):
    """SIGTERM arrived: raised where the program is, so that it leaves no temporary file."""


STOPPING = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}
STOPPED = {KeyboardInterrupt: (130, "interrupted"), Terminated: (143, "terminated")}


# --- the start and the end of a script ------------------------------------------------------


def guard_imports() -> None:
    """Lets Ctrl-C end a script with one line while it imports its modules, which takes seconds.

    Each script calls this before its slow imports; from `run` on, `run` handles Ctrl-C.
    """
    open_standard_streams()
    if sys.excepthook is sys.__excepthook__:  # notebooks and debuggers have their own
        sys.excepthook = report_interrupt


def report_interrupt(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """An exception hook that ends the process with one line after Ctrl-C."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    code, reason = STOPPED[KeyboardInterrupt]
    print_fault(f"{reason}; continue with: {continuation()}")
    os._exit(code)  # Python itself would end with another code


def open_standard_streams() -> None:
    """Opens the standard streams that are closed, as nowhere.

    A program may be started without them (`2>&-`). Then Python has None in their place, and the
    next file that is opened would get their number.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
            os.set_inheritable(number, True)  # child processes need it, too
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def run(main: Callable[[], int | None]) -> None:
    """Runs a script's `main` and exits with its code.

    A fault that the user can mend becomes one line on stderr and exit code 2, among them a full
    or read-only disk and memory that runs out; Ctrl-C one line and 130, SIGTERM the same and 143.
    """
    open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows ASCII alone
    for number in STOPPING:
        if signal.getsignal(number) != signal.SIG_IGN:  # Ctrl-C is ignored behind `nohup ... &`
            signal.signal(number, stop)
    sys.unraisablehook = raise_again
    try:
        code, fault = outcome(main)
        ignore_signals()
    except BaseException as error:
        ignore_signals()
        _Signal.kind = type(error) if type(error) in STOPPED else _Signal.kind
        if not _Signal.kind:
            raise
        code, fault = None, ""
    if fault is not None:
        # C++ that calls Python makes faults of its own of what is raised there.
        if _Signal.kind:
            code, reason = STOPPED[_Signal.kind]
            fault = f"{reason}; continue with: {continuation()}"
        print_fault(fault)
    sys.exit(code)


def outcome(main: Callable[[], int | None]) -> tuple[int | None, str | None]:
    """The exit code of a script's `main`, and the message of a fault that the user can mend."""
    try:
        return main(), None
    except UserError as error:
        return 2, str(error)
    except MemoryError:
        return 2, "memory ran out; close other programs, or take a smaller --batch-size"
    except OSError as error:
        if not error.strerror:  # not raised by the system: a fault of ours
            raise
        return 2, f"{error.filename or 'a file'}: {error.strerror}"


def print_fault(fault: str, script: str = "") -> None:
    """Prints one line on stderr, after the script's name (that of `sys.argv` without one)."""
    # A name may have a line break, or a sequence that controls the terminal.
    line = re.sub(r"[\x00-\x1f\x7f]", lambda match: repr(match[0])[1:-1], fault)
    with contextlib.suppress(OSError):
        print(f"{script or Path(sys.argv[0]).name}: {line}", file=sys.stderr, flush=True)


def continuation() -> str:
    """The command as it was typed, with --resume where the script has it, ready to be pasted."""
    words = list(sys.orig_argv)
    if Path(sys.argv[0]).name in RESUMABLE and "--resume" not in words:
        words.append("--resume")
    return " ".join(map(quoted, words))


# --- signals ----------------------------------------------------------------------------------


class _Signal:
    """The exception of the signal that asked this process to stop; None if none did."""

    kind: type[BaseException] | None = None


def stop(number: int, _: Any) -> None:
    """A signal handler: raises the exception of Ctrl-C or SIGTERM where the script is."""
    _Signal.kind = STOPPING[signal.Signals(number)]
    raise _Signal.kind


def raise_again(lost: Any) -> None:
    """A hook for exceptions that Python cannot raise: Ctrl-C and SIGTERM come again a moment later.

    What is raised in `__del__` or in the callback of a weak reference goes no further
    (sys.unraisablehook); such code runs at any moment.
    """
    kind = lost.exc_type
    if kind not in STOPPED:
        sys.__unraisablehook__(lost)
        return

    def again(*_: Any) -> None:
        raise kind

    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, again)
        signal.setitimer(signal.ITIMER_REAL, RETRY_SECONDS)
    else:  # Windows
        numbers = {exception: number for number, exception in STOPPING.items()}
        threading.Timer(RETRY_SECONDS, _thread.interrupt_main, (numbers[kind],)).start()


def ignore_signals() -> None:
    """Lets no signal spoil the end of a script whose work is done."""
    for name in ("SIGINT", "SIGTERM", "SIGALRM"):
        if hasattr(signal, name):  # Windows has no alarm
            signal.signal(getattr(signal, name), signal.SIG_IGN)


# --- lines and progress -----------------------------------------------------------------------


def say(text: str) -> None:
    """Prints a line at once, also into a log file. A reader that leaves early stops no work."""
    try:
        print(text, flush=True)
    except BrokenPipeError:  # of `| head`, which has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def progress(label: str, total: int, unit: str) -> Any:
    """A tqdm bar with rate and remaining time; it prints nothing where stderr is no terminal."""
    from tqdm import tqdm

    return tqdm(desc=label, total=total, unit=f" {unit}", leave=False, disable=None)


# --- silence ------------------------------------------------------------------------------------


class _Silence:
    """How many threads asked for silence, and the descriptor that leads to stderr meanwhile."""

    lock = threading.Lock()
    holders = 0
    stderr = -1


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Keeps what C++ code prints (TensorFlow's start, the converter) off the terminal.

    File descriptor 2 belongs to the process: of several threads that are silent at the same
    time, the first one redirects it and the last one restores it. Exceptions come through.
    """
    with _Silence.lock:
        if _Silence.holders == 0:
            sys.stderr.flush()
            _Silence.stderr = os.dup(2)
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, 2)
            os.close(devnull)
        _Silence.holders += 1
    try:
        yield
    finally:
        with _Silence.lock:
            _Silence.holders -= 1
            if _Silence.holders == 0:
                os.dup2(_Silence.stderr, 2)
                os.close(_Silence.stderr)
