"""Models of other people's packages through `training.py --take` and all later stages.

The models are built and trained in a process of their own, by tests/interop/package_models.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.made_up_evaluation import made_up_times
from tests.helpers.optional import folder_with
from tests.helpers.runs import ROOT, make_data_set
from tests.interop.package_models import PACKAGES

RECORD = "TAKEN_RECORD"  # environment variable: the .json file that gets a row for each model
PROGRAM = ROOT / "tests" / "interop" / "package_models.py"
THROUGH = ("attention_unet", "efficientnet_unet", "mobilenet_unet", "tutorial")
REFUSED = ("deeplab", "gelu_unet", "supervised_unet")
COUNTS = {"train": 200, "test": 40}  # 180 train, 20 validation, 40 test
PRUNING = ("--channels", "0.2", "--sparsity", "0.5", "--epochs", "1", "--batch-size", "12")
CALIBRATION = ("--calibration-images", "20")


def make_pictures(folder: Path) -> None:
    """Writes a data set of drawn animals as a models folder, and what `package_models.py` reads.

    Args:
        folder: gets `data` and `pictures.npz`.
    """
    from pipeline.data.dataset import load_split

    make_data_set(folder / "data", size=64, counts=COUNTS)
    images, masks = load_split(folder / "data", "train")
    shown = load_split(folder / "data", "validation")[0][:8]
    np.savez(folder / "pictures.npz", images=images, masks=masks, shown=shown)


def build(name: str, folder: Path) -> dict[str, Any]:
    """Builds a model of a package in a process of its own.

    Args:
        name: of `package_models.PACKAGES`.
        folder: of `make_pictures`; the model's file goes into a folder of its name there.

    Returns:
        What the line of JSON says of the model, with the `path` of its file.
    """
    package = PACKAGES[name].package
    packages = "" if package == "keras" else folder_with(package.replace("-", "_"))
    made = folder / name
    made.mkdir()
    command = [sys.executable, PROGRAM, name, folder / "pictures.npz", made]
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": packages},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    about = json.loads(done.stdout.splitlines()[-1])
    return {"name": name, **about, "path": made / about["file"]}


def take(about: dict[str, Any], folder: Path) -> Path:
    """Takes a model that was built; the models folder with it.

    Where `--take` found another range of the input than the model has, it is told the right one.
    The ranges are close to each other for a model that was trained a little. Which one was found is
    noted under `input_range` in `about`.
    """
    import training
    from pipeline.base.artifacts import read_record

    models_dir = folder / about["name"] / "models"
    shutil.copytree(folder / "data", models_dir)
    command = ["--models-dir", str(models_dir), "--take", str(about["path"])]
    training.main(command)
    about["input_range"] = read_record(models_dir, "original")["taken"]["input_range"]
    if about["input_range"] != about["values"]:
        training.main([*command, "--input-range", about["values"]])
    return models_dir


def make_small(models_dir: Path) -> dict[str, Any]:
    """Runs the stages after `--take`, and says what became of the model.

    Times and memory are made up: to measure them takes ten processes.

    Returns:
        Mean IoU on the test split by model; `parameters` after pruning; `left`: what pruning could
        not treat, in words; `float_operators` of the int8 file.
    """
    import evaluation
    import pruning
    import quantization
    from pipeline.base.artifacts import read_record
    from pipeline.evaluation import latency, memory
    from pipeline.inference.keras_files import load_model
    from pipeline.pruning import channels, magnitude
    from pipeline.pruning.dependency_graph import tied_sentence

    where = ["--models-dir", str(models_dir)]
    times = made_up_times(2.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(magnitude, "SMALLEST_KERNEL", 2000)
        patch.setattr(channels, "ROUND_BATCHES", 2)
        pruning.main([*where, *PRUNING])
        quantization.main([*where, *CALIBRATION])
        patch.setattr(latency, "measure_latency", lambda _, names, *__: dict.fromkeys(names, times))
        patch.setattr(memory, "measure_memory", lambda _, names, __: dict.fromkeys(names, 10**7))
        assert evaluation.main(where) == 0
    evaluated = json.loads((models_dir / "evaluation.json").read_text(encoding="utf-8"))
    pruned, int8 = (read_record(models_dir, name)["metrics"] for name in ("pruned", "int8"))
    return {
        "mean_iou": {row["name"]: row["mean_iou"] for row in evaluated["models"]},
        "pruned_parameters": pruned["parameters"],
        "sparsity": pruned["sparsity"],
        "left": tied_sentence(load_model(models_dir, "original")),
        "float_operators": int8.get("float_operators", []),
    }


def add_to_record(row: dict[str, Any]) -> None:
    """Adds what became of a model to the file that RECORD names; nothing if it names none."""
    if not (file := os.environ.get(RECORD)):
        return
    path = Path(file)
    rows = json.loads(path.read_text(encoding="utf-8"))["taken"] if path.exists() else {}
    rows[row["name"]] = {key: value for key, value in row.items() if key != "path"}
    path.write_text(json.dumps({"taken": rows}, indent=1) + "\n", encoding="utf-8")


def markdown(record: dict[str, Any]) -> str:
    """The table of a record of `add_to_record`."""
    lines = [
        "| package | model | parameters | pruned | mean IoU | pruned | int8 | not pruned |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for name in (*THROUGH, *REFUSED):
        row = record["taken"][name]
        source = [f"{row['package']} {row['version']}", row["function"], f"{row['parameters']:,}"]
        if reason := row.get("refused"):
            short = reason.split(",")[0].split(" (")[0]
            cells = [*source, "", "", "", "", f"refused: {short}"]
        else:
            iou = [f"{row['mean_iou'][kind]:.3f}" for kind in ("original", "pruned", "int8")]
            left = "; ".join(row["left"].split("; ")[:2]) or "nothing"
            cells = [*source, f"{row['pruned_parameters']:,}", *iou, left]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
