"""Scripts as subprocesses, small data sets, settings of the small run, edited copies of code."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.base.artifacts import artifact_path, record_path, write_record
from pipeline.base.files import sha256

ROOT = Path(__file__).resolve().parents[2]
SHARED_DATA = ROOT.parent / "shared" / "tensorflow_datasets"
CLASSES = ("pet", "background", "border")  # of the pets and of the drawn animals
SIZE = 32  # pixels: the smallest image that the compact network takes
COUNTS = {"train": 40, "test": 8}  # 36 train, 4 validation, 8 test
PRUNING = ("--sparsity", "0.7", "--epochs", "3", "--batch-size", "4")
EPOCHS = ("--epochs", "3", "--taught-epochs", "2")
BATCHES = ("--batch-size", "8", "--seed", "7")
TRAINING = ("--encoder", "scratch", *EPOCHS, *BATCHES, "--learning-rate", "0.02")
COMPACT_TRAINING = ("--encoder", "imagenet", *EPOCHS, *BATCHES)
STOPPED = "state_after_an_epoch.npz"
PARTS = ("original", "taught")  # of a training, by the names of their states
STOPPED_TAUGHT = ("state_before_taught.npz", "state_after_a_taught_epoch.npz")
HISTORY = """epoch,loss,mean_iou,iou_pet,iou_background,iou_border,learning_rate,images_per_second
1,1.5,0.4,0.4,0.5,0.3,0.001,30
2,1.2,0.5,0.5,0.6,0.4,0.0005,30
"""
FAST = ("--learning-rate", "0.01", "--seed", "7")
OWN_EPOCHS = ("--epochs", "2", "--taught-epochs", "0")
OWN_TRAINING = ("--architecture", "tiny", *OWN_EPOCHS, "--batch-size", "8", *FAST)
OWN_NETWORK = '''
def tiny(size: tuple[int, int], classes: int) -> keras.Model:
    """A network of somebody's own: MobileNet's input scaling, a kernel worth pruning."""
    image = layers.Input((*size, 3))
    x = layers.Rescaling(2, -1)(image)
    skip = layers.Conv2D(16, 3, 2, padding="same", activation="relu")(x)
    x = layers.Conv2D(64, 3, 2, padding="same", use_bias=False)(skip)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    x = layers.Conv2D(64, 3, padding="same", activation="relu")(layers.Concatenate()([x, skip]))
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    return keras.Model(image, layers.Conv2D(classes, 1, name="logits")(x), name="tiny")


NETWORKS = {"tiny": tiny, '''
OWN_CONVERSION = """
    "int16": Variant("int16_quantized_model.tflite", weights="int8", activations="int16"),
    "float16": Variant("""


def trained(models_dir, name, table=HISTORY):
    """A model's record and the table of its training beside it."""
    path = models_dir / f"{name}_training.csv"
    path.write_text(table)
    artifact_path(models_dir, name).write_text("")
    record = {key: {} for key in ("inputs", "settings", "code", "versions", "metrics")}
    record |= {"sha256": "", "wall_seconds": 1, "beside": {path.name: sha256(path)}}
    write_record(record_path(models_dir, name), record)


def start_script(script: str | Path, *arguments: object, **environment: str) -> subprocess.Popen:
    """A script as its user starts it, with pipes for what it prints."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def run_script(
    script: str | Path, *arguments: object, **environment: str
) -> subprocess.CompletedProcess:
    """The same, waited for."""
    process = start_script(script, *arguments, **environment)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def make_data_set(
    models_dir: Path, size: int = SIZE, seed: int = 7, counts: dict[str, int] = COUNTS
) -> None:
    """A synthetic data set of a few small pictures."""
    import data_preparation
    from pipeline.data.formats import synthetic

    where = ["--models-dir", str(models_dir), "--dataset", "synthetic"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "COUNTS", counts)
        data_preparation.main([*where, "--image-size", str(size), "--seed", str(seed)])


def copy_code(project: Path) -> Path:
    """A copy of the project's code that may be edited."""
    project.mkdir(exist_ok=True)
    for path in ROOT.glob("*.py"):
        shutil.copy(path, project)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "pipeline", project / "pipeline", ignore=ignored)
    return project


def edit(path: Path, old: str, new: str) -> None:
    """Changes what reads so in a file; a test whose edit changes nothing proves nothing."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
