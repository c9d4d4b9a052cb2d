"""Windows and macOS: every module can be imported there, and what those systems lack is replaced.

A child process on this system does without the modules and functions that only Unix or Linux has.
"""

import ast
import os
import subprocess
import sys

import pytest

from pipeline.base.artifacts import ROOT
from pipeline.start_check import SCRIPTS

SOURCES = [*sorted((ROOT / "pipeline").rglob("*.py")), *(ROOT / script for script in SCRIPTS)]
# It derives a class from one of Keras, so that its import loads TensorFlow, which takes seconds.
LOADS_TENSORFLOW = "pipeline.quantization.qat"
MODULES = [
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    for path in SOURCES
]
UNIX_MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
# `os.kill` exists on Windows, but ends the process, whatever the signal.
UNIX_NAMES = {
    *("os.kill", "os.fork", "os.getuid", "os.uname", "os.sysconf", "os.getloadavg", "os.mkfifo"),
    *("signal.SIGKILL", "signal.SIGHUP", "signal.alarm", "signal.pause", "signal.pthread_kill"),
}
# psutil and multiprocessing have code for each system; here they need that of Unix.
BEFORE = """
import mmap, multiprocessing.popen_spawn_posix, os, pathlib, psutil, signal, sys
for name in ("fcntl", "resource"):
    sys.modules[name] = None  # its import fails
lacking = {
    signal: ("SIGALRM", "SIGHUP", "setitimer", "alarm"),
    os: ("sched_getaffinity", "sched_setaffinity", "fork"),
    mmap: ("MADV_DONTNEED", "MADV_RANDOM"),
}
for module, names in lacking.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
"""


def run_without_unix(program, *arguments):
    command = [sys.executable, "-c", BEFORE + program, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done


def test_every_module_and_script_can_be_imported():
    modules = [module for module in MODULES if module != LOADS_TENSORFLOW]
    done = run_without_unix(f"import {', '.join(modules)}\nprint('imported')")
    assert done.stdout == "imported\n"


def test_no_module_imports_what_only_unix_has_at_its_top():
    for path in SOURCES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = {alias.name for alias in getattr(node, "names", [])}
            names.add(getattr(node, "module", None))
            assert not names & UNIX_MODULES, f"{path}:{node.lineno}"


def test_no_module_uses_names_that_only_unix_has():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                assert ast.unparse(node) not in UNIX_NAMES, f"{path}:{node.lineno}"


def test_lock_is_taken_and_released(tmp_path):
    program = """
from pipeline.base import system
from pipeline.base.console import UserError
folder = pathlib.Path(sys.argv[1])
with system.lock(folder, "training.py"):
    name = (folder / ".lock").read_text(encoding="utf-8").strip()
    print(name == f"training.py (process {os.getpid()})")
    try:
        with system.lock(folder, "pruning.py"):
            print("two at once")
    except UserError as error:
        print(error)
print(list(folder.iterdir()))
"""
    lines = run_without_unix(program, tmp_path).stdout.splitlines()
    assert lines[0] == "True" and lines[2:] == ["[]"]
    assert lines[1].startswith("training.py (process ") and "wait until it ends" in lines[1]


def test_measurements_of_the_machine_and_of_memory_work():
    program = """
from pipeline.base import files, system
from pipeline.evaluation import latency, memory
system.limit_address_space(1 << 30)
latency.others_seconds()
memory.reset_peak = lambda: False
print(system.cores() > 0, system.peak_memory_mb())
print(files.is_running(os.getppid()), files.is_running(2**30), files.is_running(10**30))
"""
    assert run_without_unix(program).stdout == "True None\nTrue False False\n"


def test_temporary_files_of_dead_processes_are_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    beginning = ".model.unfinished-"
    alive = f"{beginning}{os.getpid()}.h5"
    for name in (f"{beginning}{dead.pid}.h5", alive, f"{beginning}99999999999999999999.h5"):
        (tmp_path / name).write_text("half", encoding="utf-8")
    program = """
from pipeline.base import files
files.sweep(pathlib.Path(sys.argv[1]))
files.write_json(pathlib.Path(sys.argv[1]) / "whole.json", {})
"""
    run_without_unix(program, tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {alive, "whole.json"}


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("raise KeyboardInterrupt", 130, "-c: interrupted; continue with: "),
        ("raise UserError('x is missing')", 2, "-c: x is missing"),
        ("return 0", 0, ""),
    ],
)
def test_scripts_end_with_one_line_and_a_code(body, code, message):
    program = f"""
from pipeline.base.console import UserError, guard_imports, run
sys.stderr = sys.stdout
guard_imports()
def main():
    {body}
run(main)
"""
    done = run_without_unix(program)
    assert done.returncode == code
    assert done.stdout.startswith(message) and done.stdout.count("\n") == bool(message)


def test_rows_of_the_data_set_are_read(tmp_path):
    program = """
import numpy as np
from pipeline.data import dataset
path = pathlib.Path(sys.argv[1]) / "images.npy"
np.save(path, np.arange(12).reshape(6, 2))
dataset.RESIDENT_BYTES = 0
print(dataset.Rows([path])[[1, 5]].tolist())
"""
    assert run_without_unix(program, tmp_path).stdout == "[[2, 3], [10, 11]]\n"


def test_a_child_process_returns_its_result(tmp_path):
    program = """
import os
from pipeline.base.system import in_own_process
if __name__ == "__main__":
    print(in_own_process(os.path.basename, "a/b"))
"""
    path = tmp_path / "program.py"
    path.write_text(BEFORE + program, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("b\n", "")
