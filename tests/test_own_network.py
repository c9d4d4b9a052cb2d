"""A network of one's own is one edit of one file, and goes through all five stages."""

import json
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

FUNCTION = '''
def tiny(size: tuple[int, int], classes: int) -> keras.Model:
    """A network of somebody's own: MobileNet's input scaling, a kernel worth pruning."""
    image = layers.Input((*size, 3))
    x = layers.Rescaling(2, -1)(image)
    skip = layers.Conv2D(16, 3, 2, padding="same", activation="relu")(x)
    x = layers.Conv2D(64, 3, 2, padding="same", activation="relu")(skip)
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    x = layers.Conv2D(64, 3, padding="same", activation="relu")(layers.Concatenate()([x, skip]))
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    return keras.Model(image, layers.Conv2D(classes, 1, name="logits")(x), name="tiny")


NETWORKS = {"tiny": tiny, '''


@pytest.fixture(scope="module")
def stages(small_data, tmp_path_factory):
    """What the stages print for that network, from a copy of the code with the one edit."""
    project = tmp_path_factory.mktemp("own_network")
    for path in ROOT.glob("*.py"):
        shutil.copy(path, project)
    shutil.copytree(ROOT / "pipeline", project / "pipeline")
    models_dir = shutil.copytree(small_data, project / "models" / "own")
    networks = project / "pipeline" / "networks.py"
    text = networks.read_text()
    assert text.count("\nNETWORKS = {") == 1
    networks.write_text(text.replace("\nNETWORKS = {", FUNCTION))
    said = {}
    for script, *arguments in (
        ("training.py", "--architecture", "tiny", "--epochs", "2", "--batch-size", "8"),
        ("pruning.py", "--epochs", "2", "--batch-size", "4"),
        ("quantization.py", "--calibration-images", "8"),
        ("evaluation.py",),
    ):
        command = [sys.executable, script, "--models-dir", models_dir, *arguments]
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        said[script] = done.stdout
    return models_dir, said


def test_it_is_trained_from_random_weights_and_nothing_is_noted(stages):
    _, said = stages
    assert "tiny: " in said["training.py"] and "encoder from scratch" in said["training.py"]
    assert "note:" not in said["training.py"]


def test_its_large_kernels_are_pruned(stages):
    models_dir, _ = stages
    metrics = json.loads((models_dir / "pruned_model.h5.json").read_text())["metrics"]
    assert metrics["sparsity"] == pytest.approx(0.6, abs=0.01)
    assert len(metrics["layers"]) == 2  # 9,216 and 46,080 weights


def test_it_is_in_every_row_of_the_table(stages):
    models_dir, said = stages
    rows = {
        row["name"]: row
        for row in json.loads((models_dir / "evaluation.json").read_text())["models"]
    }
    assert {"original", "pruned", "dynamic", "int8", "float16"} <= rows.keys()
    for name, row in rows.items():
        assert name in said["evaluation.py"]
        assert abs(row["mean_iou"] - rows["pruned"]["mean_iou"]) < 0.1
