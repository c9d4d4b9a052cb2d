"""The shape of the code: folders in an order, small modules, imports that do nothing."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline
from pipeline.base.artifacts import ROOT
from pipeline.start_check import SCRIPTS

PACKAGE = ROOT / "pipeline"
FILES = {
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
}
MODULES = tuple(FILES)  # "pipeline.base.console"
# Folders as the map in the package's docstring lists them, the lowest first; the top one is "".
MAP = re.findall(r"^    ([\w/]+) +\S", pipeline.__doc__, re.MULTILINE)
SOURCES = [*FILES.values(), *(ROOT / script for script in SCRIPTS)]
HANDED_OVER = "pipeline.deploy.run_on_device"  # copied into the handover folder, imported nowhere
FOR_PROGRAMS = "pipeline.prediction.segmenter"  # for programs of users, which import it
# Imported for --qat only: its class derives from one of Keras.
DERIVES_FROM_KERAS = "pipeline.quantization.qat"
SLOW = ("tensorflow", "tf_keras", "tensorflow_datasets", "matplotlib", "litert_quantizer", "tqdm")


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> set[str]:
    """Modules of the package, and scripts, that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the package"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    scripts = {Path(script).stem for script in SCRIPTS}
    return names & {*MODULES, *scripts}


def folder_of(module: str) -> str:
    """ "data/formats" of "pipeline.data.formats.coco", "" of "pipeline.variants"."""
    return "/".join(module.split(".")[1:-1])


def arrows_between_folders() -> set[tuple[str, str]]:
    """Pairs of folders of which a module of the first imports one of the second."""
    pairs = {
        (folder_of(module), folder_of(other))
        for module, path in FILES.items()
        for other in imported(path)
    }
    return {(above, below) for above, below in pairs if above != below}


# --- folders and imports --------------------------------------------------------------------


def test_map_names_every_folder_once():
    folders = [path.parent for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE]
    assert sorted(MAP) == sorted(folder.relative_to(PACKAGE).as_posix() for folder in folders)


def test_folders_import_only_from_folders_above_them_in_the_map():
    order = ["", *MAP]
    upward = {
        (folder, other)
        for folder, other in arrows_between_folders()
        if order.index(other) >= order.index(folder)
    }
    assert upward == set()


def test_no_two_folders_import_from_each_other():
    arrows = arrows_between_folders()
    assert {(folder, other) for folder, other in arrows if (other, folder) in arrows} == set()


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: imported(path) for module, path in FILES.items()}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(MODULES)


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_imports_the_package_and_no_other_script(script):
    assert imported(ROOT / script) <= set(MODULES)


def test_every_module_is_used():
    used = set().union(*(imported(path) for path in [*SOURCES, PACKAGE / "__init__.py"]))
    assert set(MODULES) - used == {HANDED_OVER, FOR_PROGRAMS}


def test_package_file_of_a_folder_holds_its_docstring_and_nothing_else():
    for folder in MAP:
        statements = tree_of(PACKAGE / folder / "__init__.py").body
        assert len(statements) == 1 and ast.get_docstring(tree_of(PACKAGE / folder / "__init__.py"))


# --- modules --------------------------------------------------------------------------------


def lines_of(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")


def test_modules_have_at_most_300_lines_and_scripts_120_to_300():
    modules = {module: lines_of(path) for module, path in FILES.items()}
    scripts = {script: lines_of(ROOT / script) for script in SCRIPTS}
    assert {module: lines for module, lines in modules.items() if lines > 300} == {}
    assert {script: lines for script, lines in scripts.items() if not 120 <= lines <= 300} == {}


def test_nothing_slow_is_loaded_by_an_import():
    """So that --help, a mistyped flag and "nothing to do" are answered at once."""
    program = f"""
import sys
import {", ".join(Path(script).stem for script in SCRIPTS)}
import {", ".join(module for module in MODULES if module != DERIVES_FROM_KERAS)}
print([name for name in {SLOW} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def is_definition(node: ast.stmt) -> bool:
    """Whether a statement defines something, or is a docstring or the start of a script.

    So is a `try` around definitions, for what some systems lack, and a choice of definitions for
    type checkers.
    """
    if isinstance(node, ast.Try):
        parts = [*node.body, *(part for handler in node.handlers for part in handler.body)]
        return all(is_definition(part) or isinstance(part, ast.Pass) for part in parts)
    if is_choice_for_type_checkers(node):
        return all(map(is_definition, [*node.body, *node.orelse]))
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    start = isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
    return isinstance(node, kinds) or text or start


def is_choice_for_type_checkers(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def test_top_level_of_a_module_only_defines():
    """No call but those that make constants; no loop, no file read, no print."""
    for path in SOURCES:
        for node in tree_of(path).body:
            assert is_definition(node), f"{path.name}:{node.lineno}"


def test_every_public_function_has_a_docstring():
    for path in SOURCES:
        for node in tree_of(path).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path.name}:{node.lineno} {node.name}"


# --- names ----------------------------------------------------------------------------------


def modules_by_name(tree: ast.Module) -> set[str]:
    """Names in a file that stand for modules: `np`, `os`, `console`.

    Imports for type checkers do not count: they are never carried out.
    """
    names = set()
    choices = [node for node in tree.body if is_choice_for_type_checkers(node)]
    skipped = {part for node in choices for part in node.body}
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {
                alias.asname or alias.name
                for alias in node.names
                if f"{node.module}.{alias.name}" in MODULES
            }
    return names


def bound_names(tree: ast.Module) -> list[tuple[str, int]]:
    """Names that a file gives to parameters, variables and functions, each with its line."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            names.append((node.arg, node.lineno))
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append((node.id, node.lineno))
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.ExceptHandler) and node.name:
            names.append((node.name, node.lineno))
    return names


def test_no_name_hides_a_module_that_its_file_imports():
    hidden = []
    for path in SOURCES:
        tree = tree_of(path)
        modules = modules_by_name(tree)
        where = path.relative_to(ROOT)
        hidden += [f"{where}:{line} {name}" for name, line in bound_names(tree) if name in modules]
    assert hidden == []
