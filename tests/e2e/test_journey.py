"""One journey through the five scripts, on a small run: what lies there at the end, and a second
call of each script.

Training runs as a script, the others in this process (tests/helpers/small_runs.py). All five as
scripts, with latency and memory measured: test_own_network.py.
"""

from __future__ import annotations

import importlib
import shutil

import pytest

from pipeline.base.artifacts import MODELS, artifact_path, stale_reason
from tests.helpers.runs import PRUNING, SIZE, TRAINING
from tests.helpers.small_runs import CALIBRATION

ARTIFACTS_OF_A_RUN = ("dataset", *MODELS, "evaluation", "report")
ARGUMENTS = {  # of each script, as the run was made with them
    "data_preparation": ("--dataset", "synthetic", "--image-size", str(SIZE), "--seed", "7"),
    "training": TRAINING,
    "pruning": PRUNING,
    "quantization": CALIBRATION,
    "evaluation": (),
}


@pytest.fixture(scope="module")
def journey(evaluated_run, tmp_path_factory):
    """A copy of a run of all five stages."""
    return shutil.copytree(evaluated_run, tmp_path_factory.mktemp("journey") / "models")


@pytest.mark.parametrize("name", ARTIFACTS_OF_A_RUN)
def test_artifact_is_there_and_made_from_the_others(journey, name):
    assert artifact_path(journey, name).stat().st_size > 0
    assert stale_reason(journey, name) is None


@pytest.mark.parametrize("script", ARGUMENTS)
def test_second_call_of_a_script_has_nothing_to_do(journey, script, capsys):
    before = {path: path.read_bytes() for path in journey.rglob("*") if path.is_file()}
    arguments = ("--models-dir", str(journey), "--if-needed", *ARGUMENTS[script])
    assert not importlib.import_module(script).main(list(arguments))
    assert capsys.readouterr().out.startswith(f"{script}.py: up to date, nothing to do\n")
    now = {path: path.read_bytes() for path in journey.rglob("*") if path.is_file()}
    assert now == before
