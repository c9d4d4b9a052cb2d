"""Faults in one line with an exit code, silence that ends, progress that costs nothing."""

import functools
import os
import signal
import subprocess
import sys
import threading

import pytest

from pipeline.base.console import silenced
from tests.helpers.runs import ROOT


def run_program(program, *arguments):
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        # Tests that run in the background of a shell inherit that Ctrl-C is ignored.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        ("raise UserError('models/x is missing; make it with: y')", 2, "models/x is missing"),
        ("raise KeyboardInterrupt", 130, "interrupted"),
        ("return 1", 1, ""),
        ("return None", 0, ""),
    ],
)
def test_end_of_a_script_is_one_line_and_a_code(body, code, says):
    program = f"""
from pipeline.base.console import UserError, run
def main():
    {body}
run(main)
"""
    done = run_program(program)
    assert done.returncode == code
    assert says in done.stderr and len(done.stderr.strip().splitlines()) == bool(says)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_after_the_work_is_done_says_nothing_of_it(number):
    """Between the end of main and that of the process."""
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
def test_signal_while_an_object_is_taken_away_is_not_lost(number, code):
    """Python prints what is raised there, and goes on."""
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
    assert len(done.stderr.splitlines()) == 1 and "every file is the old one" in done.stderr


@pytest.mark.parametrize("fault", ["RuntimeError('C++')", "UserError('the file is damaged')"])
def test_signal_that_a_library_makes_another_fault_of_is_told_as_what_it_was(fault):
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


def test_interrupt_while_modules_are_imported_is_one_line(tmp_path):
    """Before `run` is reached: a module that takes its time stands in for the slow ones."""
    (tmp_path / "h5py.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = run_program(f"import sys; sys.path[:0] = {path.split(os.pathsep)}; import evaluation")
    assert done.returncode == 130
    assert done.stderr.count("\n") == 1 and "interrupted; every file is" in done.stderr


def test_name_with_a_line_break_stays_in_one_line():
    program = """
from pipeline.base.console import UserError, run
def main():
    raise UserError("a\\nb is missing")
run(main)
"""
    assert run_program(program).stderr == "-c: a\\nb is missing\n"


def test_silence_ends_and_lets_exceptions_through(capfd):
    with pytest.raises(ValueError, match="loud"), silenced():
        os.write(2, b"chatter")
        raise ValueError("loud")
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


def test_threads_that_are_silent_at_once_bring_stderr_back(capfd):
    """The descriptor belongs to the process: two that swapped it at once lost it for good."""
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


def test_first_words_of_tensorflow_stay_off_the_terminal():
    program = "from pipeline.base.lazy import keras, tf, tfmot\nprint(float(tf.constant(2.0)))"
    done = run_program(program + "\nprint(tfmot.__name__, keras.__name__)")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "2.0" and done.stderr == ""


def test_sigterm_is_one_line_code_143_and_leaves_no_temporary_file(tmp_path):
    program = """
import os, signal, sys, pathlib
from pipeline.artifacts import atomic
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
    ("error", "says"),
    [
        ("OSError(28, 'No space left on device', '/full/x')", "/full/x: No space left on device"),
        ("PermissionError(13, 'Permission denied', '/x')", "/x: Permission denied"),
        ("MemoryError()", "memory ran out"),
    ],
)
def test_faults_of_the_machine_are_one_line_and_code_2(error, says):
    done = run_program(
        f"from pipeline.base.console import run\ndef main():\n    raise {error}\nrun(main)"
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and says in done.stderr


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
