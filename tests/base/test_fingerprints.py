"""What counts as an edit: what the code does, and not how it is written down."""

from pathlib import Path

import pytest

from pipeline.base import fingerprints
from tests.helpers.runs import ROOT

CODE = '''
"""A module."""
from pipeline.base.console import say

RATE = 0.1  # per step


def step(x):
    """One step."""
    say(f"at {x}")
    return x - RATE
'''

SAME = {
    "comment": CODE.replace("# per step", "# per step, of the weights"),
    "docstring": CODE.replace("One step.", "One small step."),
    "layout": CODE.replace("x - RATE", "(\n        x\n        - RATE\n    )"),
    "what is said": CODE.replace("at {x}", "now at {x}"),
    "help of a flag": CODE + 'parser.add_argument("--x", help="old")\n',
}
OTHER = {
    "number": CODE.replace("0.1", "0.2"),
    "name": CODE.replace("RATE", "SPEED"),
    "order": CODE.replace("x - RATE", "RATE - x"),
    "default of a flag": CODE + 'parser.add_argument("--x", default=2)\n',
}


def fingerprint_of(path, text):
    path.write_text(text)
    fingerprints.read.cache_clear()
    return fingerprints.read(path)[0]


@pytest.fixture
def path(tmp_path):
    yield tmp_path / "module.py"
    fingerprints.read.cache_clear()


@pytest.mark.parametrize("kind", SAME)
def test_edit_that_changes_nothing_keeps_the_fingerprint(path, kind):
    before = CODE if kind != "help of a flag" else SAME[kind].replace("old", "new")
    assert fingerprint_of(path, SAME[kind]) == fingerprint_of(path, before)


@pytest.mark.parametrize("kind", OTHER)
def test_edit_that_changes_something_changes_the_fingerprint(path, kind):
    before = CODE if kind != "default of a flag" else OTHER[kind].replace("2", "1")
    assert fingerprint_of(path, OTHER[kind]) != fingerprint_of(path, before)


def files_of(script):
    return set(fingerprints.of_stage(ROOT / script)[0])


def test_stage_counts_what_it_uses_and_nothing_else():
    training = files_of("training.py")
    needed = {"networks", "batches", "losses", "optimizers", "fitting", "imagenet", "metrics"}
    assert {"training.py", *(f"pipeline/{name}.py" for name in needed)} <= training
    for name in ("conversion", "synthetic", "sources", "timing", "variants"):
        assert f"pipeline/{name}.py" not in training, name


@pytest.mark.parametrize("script", [path.name for path in ROOT.glob("*.py")])
def test_what_prints_draws_or_keeps_books_is_in_no_stage(script):
    apart = fingerprints.BOOKKEEPING | fingerprints.SHOWING
    assert not files_of(script) & {f"pipeline/{name}.py" for name in apart}


def test_report_counts_its_template_and_what_draws_it():
    drawn = files_of("pipeline/report/page.py")
    assert {
        "pipeline/report/page.html",
        "pipeline/report/charts.py",
        "pipeline/report/findings.py",
    } <= drawn
    assert "pipeline/base/console.py" not in drawn


def test_packages_are_those_that_the_code_uses():
    _, preparation = fingerprints.of_stage(ROOT / "data_preparation.py")
    _, training = fingerprints.of_stage(ROOT / "training.py")
    assert "tensorflow-datasets" in preparation and "pillow" in preparation
    assert "tensorflow" in training and "tf-keras" in training and "numpy" in training
    assert "tensorflow-datasets" not in training and "ai-edge-litert" not in training
    assert "tensorflow-model-optimization" in fingerprints.of_stage(ROOT / "pruning.py")[1]


def test_sets_name_modules_that_exist():
    for name in fingerprints.BOOKKEEPING | fingerprints.SHOWING:
        assert Path(ROOT / "pipeline" / f"{name}.py").exists(), name
