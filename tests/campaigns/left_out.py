"""Changes each module that a stage imports and its fingerprint leaves out: nothing may differ.

    python tests/campaigns/left_out.py --folder DIR                  # all stages, all modules
    python tests/campaigns/left_out.py --folder DIR --stages training --workers 1

The rule of pipeline/base/fingerprints.py says that some folders cannot change an artifact. Here a
constant or a comparison of such a module is changed in a copy of the code, the stage alone is run
on a toy chain, and arrays, weights, bytes of .tflite files and mean IoU are compared with those of
the unchanged code. A run that fails is no wrong result: it fails in front of the user.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import h5py
import numpy as np

from pipeline.base import fingerprints
from tests.helpers.runs import OWN_NETWORK, copy_code, edit

SIZE, COUNTS = 32, {"train": 24, "test": 6}
FLAGS = {
    "data_preparation": ("--data", "synthetic", "--image-size", str(SIZE)),
    "training": (
        *("--architecture", "tiny", "--epochs", "2", "--taught-epochs", "1"),
        *("--batch-size", "4", "--learning-rate", "0.01"),
    ),
    "pruning": ("--epochs", "2", "--batch-size", "4", "--channels", "0.2"),
    "quantization": ("--calibration-images", "4"),
    "evaluation": (),
}
PER_MODULE = 3  # mutants, at most
OPPOSITE = {
    **{ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt},
    **{ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In},
    **{ast.Is: ast.IsNot, ast.IsNot: ast.Is},
}


def reached(project: Path, script: str) -> set[str]:
    """All files of the package that a script imports, in whatever folder they are."""
    found, queue = set(), [f"{script}.py"]
    while queue:
        name = queue.pop()
        if name not in found:
            found.add(name)
            queue += fingerprints.read(project / name).modules
    return found - {f"{script}.py"}


def mutants(text: str, seed: int) -> list[tuple[str, str]]:
    """Changed versions of a module: what was changed, and the text."""
    places = []
    for number, node in enumerate(ast.walk(ast.parse(text))):
        constant = isinstance(node, ast.Constant) and type(node.value) in (int, float)
        if constant or (isinstance(node, ast.Compare) and type(node.ops[0]) in OPPOSITE):
            places.append((number, "constant" if constant else "comparison"))
    chosen = random.Random(seed)
    kinds = {kind: [n for n, k in places if k == kind] for kind in ("constant", "comparison")}
    picked = [chosen.choice(numbers) for numbers in kinds.values() if numbers]
    others = [number for number, _ in places if number not in picked]
    picked += chosen.sample(others, min(len(others), PER_MODULE - len(picked)))
    return [mutated(text, number) for number in picked]


def mutated(text: str, number: int) -> tuple[str, str]:
    """A module with one node changed: a larger number, or the opposite comparison."""
    tree = ast.parse(text)
    node = next(node for k, node in enumerate(ast.walk(tree)) if k == number)
    before = ast.unparse(node)
    if isinstance(node, ast.Constant):
        node.value = node.value * 2 + 1
    else:
        node.ops[0] = OPPOSITE[type(node.ops[0])]()
    return f"line {node.lineno}: {before} -> {ast.unparse(node)}", ast.unparse(tree)


def results(models_dir: Path, stage: str) -> dict[str, str]:
    """By file or row, a digest of what the stage computed."""
    if stage == "data_preparation":
        return {path.name: digest(path.read_bytes()) for path in models_dir.rglob("*.npy")}
    if stage in ("training", "pruning"):
        name = {"training": "original_model.h5", "pruning": "pruned_model.h5"}[stage]
        arrays: dict[str, str] = {}
        with h5py.File(models_dir / name) as file:
            file["model_weights"].visititems(
                lambda key, item: (
                    arrays.__setitem__(key, digest(np.asarray(item).tobytes()))
                    if isinstance(item, h5py.Dataset)
                    else None
                )
            )
        return arrays
    if stage == "quantization":
        return {path.name: digest(path.read_bytes()) for path in models_dir.glob("*.tflite")}
    models = json.loads((models_dir / "evaluation.json").read_text(encoding="utf-8"))["models"]
    keys = ("mean_iou", "mean_iou_interval", "iou", "bytes", "gzip_bytes", "activation_kb")
    return {row["name"]: digest(repr([row[key] for key in keys]).encode()) for row in models}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def run(project: Path, stage: str, models_dir: Path) -> int:
    """Runs one stage of a copy of the code; its exit code."""
    command = [sys.executable, project / f"{stage}.py", "--models-dir", models_dir, *FLAGS[stage]]
    try:
        return subprocess.run(command, capture_output=True, timeout=600).returncode
    except subprocess.TimeoutExpired:
        return -1


def prepared(folder: Path) -> Path:
    """A copy of the code with a tiny network and few drawings."""
    project = copy_code(folder)
    edit(project / "pipeline/training/networks.py", "\nNETWORKS = {", OWN_NETWORK)
    drawn = project / "pipeline/data/formats/synthetic.py"
    text = drawn.read_text(encoding="utf-8")
    start = text.index("COUNTS = ")
    end = text.index("\n", start)
    drawn.write_text(f"{text[:start]}COUNTS = {COUNTS}{text[end:]}", encoding="utf-8")
    return project


def main() -> int:
    """Tries all mutants; the exit code says whether one changed a result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="work here")
    parser.add_argument("--stages", nargs="+", choices=list(FLAGS), default=list(FLAGS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=17)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    plain = prepared(folder / "plain")
    before: dict[str, Path] = {}  # by stage, the models folder as the stage finds it
    expected: dict[str, dict[str, str]] = {}
    models_dir = folder / "models"
    for stage in FLAGS:
        before[stage] = folder / f"before_{stage}"
        models_dir.mkdir(exist_ok=True)
        shutil.copytree(models_dir, before[stage])
        assert run(plain, stage, models_dir) == 0, stage
        expected[stage] = results(models_dir, stage)

    tasks = []
    for stage in arguments.stages:
        counted = fingerprints.of_stage(plain / f"{stage}.py", ("synthetic",))[0]
        for file in sorted(reached(plain, stage) - counted.keys()):
            text = (plain / file).read_text(encoding="utf-8")
            tasks += [(stage, file, *mutant) for mutant in mutants(text, arguments.seed)]

    def attempt(task: tuple[str, str, str, str]) -> tuple[str, str, str, str]:
        stage, file, change, text = task
        place = folder / f"try_{digest(repr(task).encode())}"
        place.mkdir()
        project = prepared(place / "code")
        (project / file).write_text(text, encoding="utf-8")
        shutil.copytree(before[stage], place / "models")
        code = run(project, stage, place / "models")
        ended = f"exit code {code}"
        if code == 0:
            same = results(place / "models", stage) == expected[stage]
            ended = "same" if same else "DIFFERENT"
        shutil.rmtree(place)
        return stage, file, change, ended

    tally: dict[str, dict[str, int]] = {}
    with ThreadPoolExecutor(arguments.workers) as pool:
        for stage, file, change, ended in pool.map(attempt, tasks):
            print(f"{stage:17}{file:38}{ended:14}{change}", flush=True)
            counts = tally.setdefault(stage, {})
            counts[ended] = counts.get(ended, 0) + 1
    print(json.dumps(tally, indent=1))
    return int(any("DIFFERENT" in counts for counts in tally.values()))


if __name__ == "__main__":
    sys.exit(main())
