"""What the code of a stage computes, whatever its comments, docstrings and layout.

The rule has no list of modules. A stage's code is its script and every module that the script
reaches by imports, except

- the folders in NEVER: what they do cannot change an artifact;
- the modules of pipeline/data/formats/, except `registry` and those that read the data set in use;

and the files other than Python that one of these modules names, as the report's template.
Fingerprints are kept file by file, so that a reason to run again can name the file that was edited.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from pipeline.base.lazy import DISTRIBUTIONS, versions

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "pipeline"

# Folders whose code is part of no stage. Whatever can change a result has no place in them.
NEVER = ("base", "report", "prediction", "checks", "deploy")
FORMATS, REGISTRY = f"{PACKAGE}/data/formats/", "registry"

PRINTING = {"say", "console.say"}  # calls that only print
PRINTED = {"help", "metavar"}  # arguments of argparse that only print


class Source(NamedTuple):
    """What a Python file contributes to a fingerprint."""

    digest: str  # of what the file computes
    modules: frozenset[str]  # files of this package that it imports, as "pipeline/data/masks.py"
    packages: frozenset[str]  # keys of `lazy.DISTRIBUTIONS` that it imports
    data_files: frozenset[str]  # files other than Python, of the same folder, that it names


def of_stage(
    script: Path, formats: Collection[str] = (), counted: Collection[str] = ()
) -> tuple[dict[str, str], dict[str, str]]:
    """Fingerprints of the code of a script or module, and the versions of the packages it uses.

    Args:
        script: the file to start from.
        formats: modules of pipeline/data/formats/ that the present data set is read with.
        counted: folders of NEVER that count all the same: "report" for the report's own page.

    Returns:
        By file, as named from the project's root, the fingerprint of what it computes; and by
        distribution the installed version.
    """
    left_out = tuple(f"{PACKAGE}/{folder}/" for folder in NEVER if folder not in counted)
    digests: dict[str, str] = {}
    packages: set[str] = set()
    start = script.resolve()
    root = project_of(start)
    queue = [start]
    while queue:
        path = queue.pop()
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
        if name in digests:
            continue
        source = read(path)
        digests[name] = source.digest
        packages |= source.packages
        for module in source.modules:
            if not module.startswith(left_out) and not is_unused_format(module, formats):
                queue.append(root / module)
        for data_file in source.data_files:
            beside = path.parent / data_file
            digest = hashlib.sha256(beside.read_bytes()).hexdigest()
            digests[beside.relative_to(root).as_posix()] = digest[:16]
    return dict(sorted(digests.items())), versions(packages)


def project_of(file: Path) -> Path:
    """The folder above a file that holds the package; this project's if there is none."""
    above = (folder for folder in file.parents if (folder / PACKAGE / "__init__.py").is_file())
    return next(above, ROOT)


def is_unused_format(module: str, formats: Collection[str]) -> bool:
    """Whether a module reads a data format that the present data set is not in."""
    name = Path(module).stem
    return module.startswith(FORMATS) and name != REGISTRY and name not in formats


@functools.cache
def read(path: Path) -> Source:
    """What a Python file contributes.

    Read once a process: what counts is the code that runs, and the file may be edited meanwhile.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    root = project_of(path)
    modules: set[str] = set()
    names: set[str] = set()
    data_files: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names.add(alias.name.split(".")[0])
                modules.add(module_file(root, alias.name))
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported = {alias.name for alias in node.names}
            if node.module.split(".")[0] != PACKAGE:
                names.add(node.module.split(".")[0])
                continue
            if node.module == f"{PACKAGE}.base.lazy":
                names |= imported
            modules.add(module_file(root, node.module))
            modules |= {module_file(root, f"{node.module}.{name}") for name in imported}
        elif isinstance(node, ast.Constant) and is_data_file(path.parent, node.value):
            data_files.add(str(node.value))
    digest = hashlib.sha256(ast.unparse(_Essence().visit(tree)).encode()).hexdigest()[:16]
    packages = frozenset(names & set(DISTRIBUTIONS))
    return Source(digest, frozenset(modules - {""}), packages, frozenset(data_files))


def module_file(root: Path, dotted: str) -> str:
    """The file of a module of this package, as named from the root; "" for anything else."""
    name = f"{dotted.replace('.', '/')}.py"
    return name if dotted.startswith(f"{PACKAGE}.") and (root / name).is_file() else ""


def is_data_file(folder: Path, value: object) -> bool:
    """Whether a constant in a module of the package names a file beside it that is no Python."""
    if not isinstance(value, str) or PACKAGE not in folder.parts:
        return False
    plain = 0 < len(value) < 100 and "\0" not in value and Path(value).name == value
    return plain and not value.endswith(".py") and (folder / value).is_file()


class _Essence(ast.NodeTransformer):
    """Removes what changes no artifact: docstrings, type hints, printed lines, help of flags."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        prints = isinstance(node.value, ast.Call) and ast.unparse(node.value.func) in PRINTING
        text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return ast.Pass() if prints or text else self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        node.keywords = [keyword for keyword in node.keywords if keyword.arg not in PRINTED]
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node
