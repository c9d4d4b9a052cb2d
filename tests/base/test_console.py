"""Faults in one line with an exit code, Ctrl-C and SIGTERM, silence that ends."""

import functools
import os
import shlex
import signal
import subprocess
import sys
import threading

import pytest

from pipeline.base.artifacts import ROOT
from pipeline.base.console import RESUMABLE, silenced
from pipeline.start_check import SCRIPTS


def run_program(program, *arguments, **environment):
    return run_command([sys.executable, "-c", program, *arguments], **environment)


def run_command(command, folder=ROOT, **environment):
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        # Tests that run in the background of a shell inherit that Ctrl-C is ignored.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("raise UserError('models/x is missing; make it with: y')", 2, "models/x is missing"),
        ("raise KeyboardInterrupt", 130, "interrupted"),
        ("return 1", 1, ""),
        ("return None", 0, ""),
    ],
)
def test_end_of_a_script_is_one_line_and_a_code(body, code, message):
    program = f"""
from pipeline.base.console import UserError, run
def main():
    {body}
run(main)
"""
    done = run_program(program)
    assert done.returncode == code
    assert message in done.stderr and len(done.stderr.strip().splitlines()) == bool(message)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_after_the_work_is_done_changes_nothing(number):
    """Between the end of main and the end of the process."""
    program = f"""
import os, sys
from pipeline.base.console import run
def end(code):
    os.kill(os.getpid(), {int(number)})
    raise SystemExit(code)
sys.exit = end
run(lambda: 1)
"""
    done = run_program(program)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_in_a_finalizer_is_not_lost(number, code):
    """Python prints what is raised there and continues."""
    program = f"""
import os, time
from pipeline.base.console import run
class Fading:
    def __del__(self):
        os.kill(os.getpid(), {int(number)})
def main():
    Fading()
    time.sleep(60)
run(main)
"""
    done = run_program(program)
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == 1 and "continue with: " in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_in_a_finalizer_is_not_lost_without_timers(number):
    """As on Windows, where the main thread is not woken up: it looks when it runs again."""
    program = f"""
import os, signal, time
del signal.setitimer, signal.SIGALRM
from pipeline.base.console import run
class Fading:
    def __del__(self):
        os.kill(os.getpid(), {int(number)})
def main():
    Fading()
    for _ in range(600):
        time.sleep(0.1)
run(main)
"""
    done = run_program(program)
    assert done.returncode == 128 + number
    assert len(done.stderr.splitlines()) == 1 and "continue with: " in done.stderr


@pytest.mark.parametrize("fault", ["RuntimeError('C++')", "UserError('the file is damaged')"])
def test_signal_that_a_library_turns_into_another_fault_is_reported_as_a_signal(fault):
    program = f"""
import os
from pipeline.base.console import UserError, run
def main():
    try:
        os.kill(os.getpid(), {int(signal.SIGTERM)})
    except BaseException:
        raise {fault}
run(main)
"""
    done = run_program(program)
    assert done.returncode == 143
    assert len(done.stderr.splitlines()) == 1 and "terminated" in done.stderr


def test_fault_of_our_own_is_not_hidden():
    done = run_program("from pipeline.base.console import run\nrun(lambda: 1 / 0)")
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr


def test_interrupt_while_packages_are_loaded_is_one_line():
    """Ctrl-C in the seconds that TensorFlow takes is no wall of text."""
    program = """
import os, signal, threading
from pipeline.base.console import run
from pipeline.base.lazy import tf
def main():
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    tf.constant(1)
    import time
    time.sleep(20)
run(main)
"""
    done = run_program(program)
    assert done.returncode == 130
    assert done.stderr.strip().count("\n") == 0 and "interrupted" in done.stderr


def slow_import(folder):
    """A folder for PYTHONPATH in which the import of a package is interrupted."""
    interrupt = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"
    (folder / "h5py.py").write_text(interrupt, encoding="utf-8")
    return str(folder)


def test_interrupt_while_modules_are_imported_is_one_line(tmp_path):
    """Before `run` is reached."""
    command = [sys.executable, "evaluation.py", "--image", "my cat.jpg"]
    done = run_command(command, PYTHONPATH=slow_import(tmp_path))
    assert done.returncode == 130
    line = f"evaluation.py: interrupted; continue with: {shlex.join(command)}\n"
    assert (done.stdout, done.stderr) == ("", line)


def test_import_of_a_script_leaves_exception_hook_and_signals_alone():
    program = """
import signal, sys
import evaluation
assert sys.excepthook is sys.__excepthook__
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""
    assert run_program(program).stderr == ""


@pytest.mark.parametrize("script", SCRIPTS)
def test_command_that_continues_is_the_one_that_was_typed(tmp_path, script):
    """With the interpreter as it was typed, and --resume where the script has it, once."""
    program = f"""
import os, signal
from pipeline.base.console import run
run(lambda: os.kill(os.getpid(), signal.{"SIGINT" if script in RESUMABLE else "SIGTERM"}))
"""
    (tmp_path / script).write_text(program, encoding="utf-8")
    resumable = "add_training(" in (ROOT / script).read_text(encoding="utf-8")
    assert (script in RESUMABLE) == resumable
    reason = "interrupted" if resumable else "terminated"
    typed = [sys.executable, script, "--models-dir", "my models"]
    first = run_command(typed, tmp_path, PYTHONPATH=str(ROOT))
    continued = shlex.join(typed) + " --resume" * resumable
    assert first.stderr == f"{script}: {reason}; continue with: {continued}\n"
    second = run_command(shlex.split(continued), tmp_path, PYTHONPATH=str(ROOT))
    assert second.stderr == first.stderr


def test_name_with_a_line_break_stays_in_one_line():
    program = """
from pipeline.base.console import UserError, run
def main():
    raise UserError("a\\nb is missing")
run(main)
"""
    assert run_program(program).stderr == "-c: a\\nb is missing\n"


@pytest.mark.skipif(os.name == "nt", reason="shell syntax")
@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_stop_no_work(tmp_path, closed):
    """Nor do they in a child process. What is printed there goes nowhere."""
    program = """
import pathlib, sys
from pipeline.base.console import guard_imports, progress, run, say, silenced
from pipeline.base.system import in_own_process
guard_imports()
def main():
    say("line")
    progress("steps", 3, "steps").close()
    with silenced(), open(sys.argv[1], "w", encoding="utf-8") as file:
        file.write(f"{file.fileno() > 2} {in_own_process(work)}")
def work():
    with silenced():
        say("line")
        return sys.stderr is not None
if __name__ == "__main__":
    run(main)
"""
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    words = [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "result")]
    done = run_command(["sh", "-c", f"{shlex.join(words)} {closed}"], PYTHONPATH=str(ROOT))
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "result").read_text(encoding="utf-8") == "True True"


def test_silence_ends_and_lets_exceptions_through(capfd):
    with pytest.raises(ValueError, match="loud"), silenced():
        os.write(2, b"chatter")
        raise ValueError("loud")
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


def test_threads_that_are_silent_at_once_bring_stderr_back(capfd):
    """The descriptor belongs to the process: two threads that swap it at once lose it for good."""
    start, stop = threading.Barrier(8), threading.Event()

    def chatter():
        start.wait()
        while not stop.is_set():
            with silenced():
                os.write(2, b"chatter")

    threads = [threading.Thread(target=chatter) for _ in range(8)]
    for thread in threads:
        thread.start()
    stop.wait(0.5)
    stop.set()
    for thread in threads:
        thread.join()
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


def test_signal_in_silence_brings_stderr_back():
    program = """
import os, signal
from pipeline.base.console import run, silenced
def main():
    with silenced():
        os.kill(os.getpid(), signal.SIGINT)
        import time
        time.sleep(5)
run(main)
"""
    done = run_program(program)
    assert done.returncode == 130 and "interrupted" in done.stderr


@pytest.mark.slow
def test_start_of_tensorflow_prints_nothing():
    program = "from pipeline.base.lazy import keras, tf, tfmot\nprint(float(tf.constant(2.0)))"
    done = run_program(program + "\nprint(tfmot.__name__, keras.__name__)")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "2.0" and done.stderr == ""


def test_sigterm_is_one_line_code_143_and_leaves_no_temporary_file(tmp_path):
    program = """
import os, signal, sys, pathlib
from pipeline.base.files import atomic
from pipeline.base.console import run
def main():
    with atomic(pathlib.Path(sys.argv[1])) as temporary:
        temporary.write_text("half")
        os.kill(os.getpid(), signal.SIGTERM)
        import time
        time.sleep(5)
run(main)
"""
    done = run_program(program, str(tmp_path / "file.txt"))
    assert done.returncode == 143 and done.stderr.count("\n") == 1
    assert "terminated" in done.stderr and os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("OSError(28, 'No space left on device', '/full/x')", "/full/x: No space left on device"),
        ("PermissionError(13, 'Permission denied', '/x')", "/x: Permission denied"),
        ("MemoryError()", "memory ran out"),
    ],
)
def test_faults_of_the_machine_are_one_line_and_code_2(error, message):
    done = run_program(
        f"from pipeline.base.console import run\ndef main():\n    raise {error}\nrun(main)"
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and message in done.stderr


def test_reader_that_leaves_stops_no_work(tmp_path):
    """`python training.py | head -1` trains to the end."""
    program = """
import pathlib, sys
from pipeline.base.console import run, say
def main():
    for number in range(20000):
        say(f"line {number}")
    pathlib.Path(sys.argv[1]).write_text("done")
run(main)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "done")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"line 0\n"
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(60) == 0
    assert (tmp_path / "done").read_text() == "done"


def test_terminal_that_knows_ascii_alone_stops_no_work():
    program = "from pipeline.base.console import run, say\nrun(lambda: say('写真 é'))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "?? ?\n", "")
