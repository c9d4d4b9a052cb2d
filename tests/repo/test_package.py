"""The shape of the code: chapters over a flat package, imports downwards, nothing at import."""

import ast
import re
import subprocess
import sys

import pytest

import pipeline
from tests.helpers.runs import ROOT

SCRIPTS = ("data_preparation", "training", "pruning", "quantization", "evaluation")
MODULES = sorted(path.stem for path in (ROOT / "pipeline").glob("*.py") if path.stem[0] != "_")
MAP = re.findall(r"^    (\w+) +\S", pipeline.__doc__, re.MULTILINE)


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path):
    """Modules of the package and scripts that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the package"
            names = {f"pipeline.{alias.name}" for alias in node.names}
            found |= names if node.module == "pipeline" else {node.module}
    return {name.removeprefix("pipeline.") for name in found if is_ours(name)}


def is_ours(name):
    return name.startswith("pipeline.") or name in SCRIPTS


def test_map_names_every_module_once():
    assert sorted(MAP) == MODULES


@pytest.mark.parametrize("module", MAP)
def test_module_imports_only_from_floors_below(module):
    below = MAP[: MAP.index(module)]
    assert imported(ROOT / "pipeline" / f"{module}.py") <= set(below)


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_imports_the_package_and_no_other_script(script):
    assert imported(ROOT / f"{script}.py") <= set(MODULES)


def test_every_module_is_used():
    used = set().union(*(imported(ROOT / "pipeline" / f"{name}.py") for name in MODULES))
    used |= set().union(*(imported(ROOT / f"{name}.py") for name in SCRIPTS))
    assert used == set(MODULES)


def test_chapters_and_modules_are_short_enough_to_read():
    lines = {path: path.read_text().count("\n") for path in ROOT.glob("pipeline/*.py")}
    assert max(lines.values()) <= 260, max(lines, key=lines.get)
    for script in SCRIPTS:
        assert 120 <= (ROOT / f"{script}.py").read_text().count("\n") <= 300, script


def test_nothing_slow_is_loaded_by_an_import():
    """So that --help, a mistyped flag and "nothing to do" are answered at once."""
    program = f"""
import sys
import {", ".join(SCRIPTS)}
import {", ".join(f"pipeline.{name}" for name in MODULES if name != "imitation")}
slow = ("tensorflow", "tf_keras", "tensorflow_datasets", "matplotlib", "litert_quantizer")
print([name for name in slow if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n" and done.stderr == ""


def test_top_level_of_a_module_only_defines():
    """No call but those that make constants; no loop, no file read, no print."""
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    for path in [*ROOT.glob("pipeline/[!_]*.py"), *(ROOT / f"{name}.py" for name in SCRIPTS)]:
        for node in tree_of(path).body:
            text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            main = isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)
            assert isinstance(node, allowed) or text or main, (path.name, node.lineno)


def test_every_public_function_says_what_it_does():
    for path in ROOT.glob("pipeline/*.py"):
        for node in ast.walk(tree_of(path)):
            public = isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
            top = public and node.col_offset == 0
            assert not top or ast.get_docstring(node), (path.name, node.name)
