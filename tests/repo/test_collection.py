"""What it costs to find the tests: none of the packages that take seconds to load."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.helpers.runs import ROOT

TAKE_SECONDS = (
    *("tensorflow", "tf_keras", "keras", "tensorflow_datasets", "tensorflow_model_optimization"),
    *("matplotlib", "sklearn"),
)
PROGRAM = """
import sys
import pytest
code = pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", "tests"])
print("loaded:", *(name for name in sys.argv[1:] if name in sys.modules))
sys.exit(code)
"""


@pytest.mark.slow
def test_finding_all_tests_loads_no_package_that_takes_seconds() -> None:
    """A name in an annotation or a decorator, or an import at the top of a file, would load it."""
    command = [sys.executable, "-c", PROGRAM, *TAKE_SECONDS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "loaded:"
