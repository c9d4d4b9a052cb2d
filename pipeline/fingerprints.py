"""What the code of a stage does, whatever its comments, docstrings and layout.

A script's fingerprint is taken from its syntax tree and from those of the modules that it uses,
file by file, so that a reason to run again can name the file that was edited.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from pathlib import Path

from pipeline.packages import DISTRIBUTIONS, versions

PACKAGE = Path(__file__).resolve().parent

# They print, and put files in place; they decide nothing of what is in one.
BOOKKEEPING = {"console", "flags", "artifacts", "fingerprints", "processes", "stages", "packages"}
# They show what was made: only the report, which is made of them, counts them.
SHOWING = {
    "pictures",
    "charts",
    "tables",
    "photos",
    "gallery",
    "profiles",
    "npu",
    "export",
    "report",
}
SAYING = {"say", "console.say"}
PRINTED = {"help", "metavar"}  # keywords of argparse that change no run


def of_stage(script: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The code of a script or module and all modules that it uses, and the packages of these.

    Returns:
        By file, as named from the project's root, the fingerprint of what it does; and by
        distribution the version that is installed.
    """
    apart = BOOKKEEPING if script.stem in SHOWING else BOOKKEEPING | SHOWING
    found: dict[str, str] = {}
    names: set[str] = set()
    ahead = [script.resolve()]
    while ahead:
        path = ahead.pop()
        key = f"pipeline/{path.name}" if path.parent == PACKAGE else path.name
        if key in found:
            continue
        found[key], modules, imported = read(path)
        names |= imported
        ahead += [PACKAGE / f"{module}.py" for module in modules - apart]
        template = path.with_suffix(".html")
        if template.exists():
            digest = hashlib.sha256(template.read_bytes()).hexdigest()
            found[f"pipeline/{template.name}"] = digest[:16]
    return dict(sorted(found.items())), versions(names)


@functools.cache
def read(path: Path) -> tuple[str, set[str], set[str]]:
    """A file's fingerprint, the modules of this package that it imports, and names of packages.

    Read once a process: what counts is the code that runs, and the file may be edited meanwhile.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules, names = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            top, _, module = node.module.partition(".")
            imported = {alias.name for alias in node.names}
            if top != "pipeline":
                names.add(top)
            elif module:
                modules.add(module)
                names |= imported if module == "packages" else set()
            else:
                modules |= imported
    digest = hashlib.sha256(ast.unparse(_Bare().visit(tree)).encode()).hexdigest()
    return digest[:16], modules, names & set(DISTRIBUTIONS)


class _Bare(ast.NodeTransformer):
    """Takes out what changes no artifact: docstrings, lines that are said, help of flags."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        said = isinstance(node.value, ast.Call) and ast.unparse(node.value.func) in SAYING
        text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return ast.Pass() if said or text else self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        node.keywords = [each for each in node.keywords if each.arg not in PRINTED]
        return self.generic_visit(node)
