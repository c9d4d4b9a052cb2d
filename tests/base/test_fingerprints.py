"""What counts as an edit: what the code does, and not how it is written down."""

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
    "hint": CODE.replace("def step(x):", "def step(x: float) -> float:"),
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
    return fingerprints.read(path).digest


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


def test_packages_are_those_that_the_code_uses():
    _, preparation = fingerprints.of_stage(ROOT / "data_preparation.py", ("tfds",))
    _, training = fingerprints.of_stage(ROOT / "training.py")
    assert "tensorflow-datasets" in preparation and "pillow" in preparation
    assert "tensorflow" in training and "tf-keras" in training and "numpy" in training
    assert "tensorflow-datasets" not in training and "ai-edge-litert" not in training
    assert "tensorflow-model-optimization" in fingerprints.of_stage(ROOT / "pruning.py")[1]
    assert "PyYAML" not in preparation, "of a data format that is not in use"


def test_file_that_a_module_names_belongs_to_it(tmp_path):
    """A template, say: found by the name that stands in the module, in its own folder."""
    package = tmp_path / "pipeline" / "report"
    package.mkdir(parents=True)
    (tmp_path / "pipeline" / "__init__.py").write_text("")
    module, template = package / "page.py", package / "page.html"
    module.write_text('TEMPLATE = "page.html"\nOTHER = "missing.html"\n')

    def files(text):
        template.write_text(text)
        fingerprints.read.cache_clear()
        return fingerprints.of_stage(module)[0]

    first, second = files("<p>"), files("<b>")
    assert list(first) == ["pipeline/report/page.html", "pipeline/report/page.py"]
    assert [name for name in first if first[name] != second[name]] == ["pipeline/report/page.html"]
