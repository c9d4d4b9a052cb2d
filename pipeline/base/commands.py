"""Commands that messages print, ready to be pasted where the user is.

They name the interpreter that runs, because "python" may be another one or none, and every word is
quoted as a POSIX shell needs it.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from pipeline.start_check import ROOT as ROOT_TEXT
from pipeline.start_check import here, quoted

ROOT = Path(ROOT_TEXT)
NAMES = ("python", "python3")  # short names of an interpreter, if the search path leads to it


def python() -> str:
    """The interpreter that runs, as it is typed here: a short name, or a path."""
    executable = sys.executable
    if not executable:  # Python is part of another program
        return NAMES[0]
    for name in NAMES:
        other = shutil.which(name)
        if other and is_same_interpreter(other, executable):
            return name
    folder = os.path.join(os.getcwd(), "")
    return executable[len(folder) :] if executable.startswith(folder) else executable


def is_same_interpreter(path: str, other: str) -> bool:
    """Whether two paths lead to one interpreter, and to one environment.

    A virtual environment's interpreter is a link to the one that it was made with: the folder
    counts, too. False where the system does not let this user look.
    """
    try:
        same_file = os.path.samefile(path, other)
    except OSError:
        return False
    folders = (os.path.realpath(os.path.dirname(name)) for name in (path, other))
    return same_file and len(set(folders)) == 1


def command(script: str, *words: object) -> str:
    """The command that runs a script of this project.

    Args:
        script: its file name.
        words: further words of the command line, not quoted.
    """
    return line(python(), here(script), *words)


def line(*words: object) -> str:
    """Words as one command line."""
    return " ".join(quoted(str(word)) for word in words)


def move(path: Path, target: Path) -> str:
    """The command that renames a file or a folder."""
    return line("mv", as_operand(path), as_operand(target))


def as_operand(path: Path) -> str:
    """A path that no program takes for a flag."""
    return f"./{path}" if str(path).startswith("-") else str(path)
