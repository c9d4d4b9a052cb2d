"""A data set of YOLO polygons, as Roboflow exports it, through all five scripts."""

import json

import numpy as np
import pytest

from pipeline.data.dataset import load_split
from tests.helpers.polygon_sets import write_yolo
from tests.helpers.runs import SIZE, run_script

pytestmark = pytest.mark.slow

NETWORK = ("--preset", "small", "--encoder", "scratch", "--enlarge", "1", "--taught-epochs", "0")
STAGES = {
    "data_preparation.py": ("--image-size", f"{2 * SIZE}x{SIZE}"),
    "training.py": (*NETWORK, "--epochs", "12", "--batch-size", "4", "--learning-rate", "0.02"),
    "pruning.py": ("--sparsity", "0.3", "--epochs", "2", "--batch-size", "4"),
    "quantization.py": ("--calibration-images", "20"),
    "evaluation.py": (),
}


def test_polygons_are_trained_pruned_quantised_and_evaluated(tmp_path):
    for split, numbers in (("train", range(40)), ("valid", range(40, 46)), ("test", range(46, 54))):
        write_yolo(
            tmp_path / "set", f"{split}/images/{{:02}}.jpg", f"{split}/labels/{{:02}}.txt", numbers
        )
    (tmp_path / "set/data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 2\n"
        "names: ['red', 'green']\n"
    )
    models = tmp_path / "models"
    for script, flags in STAGES.items():
        data = ("--data", tmp_path / "set") if script == "data_preparation.py" else ()
        done = run_script(script, "--models-dir", models, *data, *flags)
        assert done.returncode == 0, done.stderr
    _, masks = load_split(models, "test")
    assert set(np.unique(masks[:])) == {0, 1, 2}
    evaluation = json.loads((models / "evaluation.json").read_text())
    rows = {row["name"]: row for row in evaluation["models"]}
    assert {"original", "pruned", "int8"} <= rows.keys()
    assert rows["original"]["mean_iou"] > 0.4, "the colours tell the classes"
    assert abs(rows["int8"]["mean_iou"] - rows["pruned"]["mean_iou"]) < 0.1
