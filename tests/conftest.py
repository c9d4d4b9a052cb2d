"""Fixtures that several test files share: a small finished run, and the scripts as subprocesses."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "tensorflow_datasets"
sys.path.insert(0, str(ROOT))

import pipeline  # noqa: F401 (first: it sets what TensorFlow reads at import)

import data_preparation

SIZE = 32  # pixels: the smallest image that the network takes
COUNTS = {"train": 40, "test": 8}  # 36 train, 4 validation, 8 test
PRUNING = ("--sparsity", "0.7", "--epochs", "3", "--batch-size", "4")
TRAINING = ("--encoder", "scratch", "--epochs", "3", "--batch-size", "8", "--seed", "7")


def start_script(script: str, *arguments: object, **environment: str) -> subprocess.Popen:
    """A script as its user starts it, with pipes for what it prints."""
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, **environment})  # fmt: skip


def run_script(script: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess:
    """The same, waited for."""
    process = start_script(script, *arguments, **environment)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def make_data_set(models_dir: Path, size: int = SIZE, seed: int = 7, counts: dict[str, int] = COUNTS) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_preparation, "SYNTHETIC_COUNTS", counts)
        data_preparation.main(["--models-dir", str(models_dir), "--dataset", "synthetic", "--image-size", str(size),
                               "--seed", str(seed)])  # fmt: skip


@pytest.fixture(scope="session")
def small_data(tmp_path_factory) -> Path:
    """A models folder that holds a synthetic data set only. Not to be written to: see `data_copy`."""
    models_dir = tmp_path_factory.mktemp("small_data")
    make_data_set(models_dir)
    return models_dir


@pytest.fixture
def data_copy(small_data, tmp_path) -> Path:
    return shutil.copytree(small_data, tmp_path / "models")


@pytest.fixture(scope="session")
def finished_run(small_data, tmp_path_factory) -> Path:
    """A models folder after stages 1 to 4. Not to be written to: see `run_copy`."""
    import pruning
    import quantization

    models_dir = shutil.copytree(small_data, tmp_path_factory.mktemp("finished_run") / "models")
    # In a process of its own, because Keras numbers the layers of later models of one process.
    done = run_script("training.py", "--models-dir", models_dir, *TRAINING)
    assert done.returncode == 0, done.stderr
    pruning.main(["--models-dir", str(models_dir), *PRUNING])
    quantization.main(["--models-dir", str(models_dir), "--calibration-images", "20"])
    return models_dir


@pytest.fixture
def run_copy(finished_run, tmp_path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "models")


@pytest.fixture(scope="session")
def evaluated_run(finished_run, tmp_path_factory) -> Path:
    """A models folder after all five stages. Not to be written to."""
    import evaluation

    models_dir = shutil.copytree(finished_run, tmp_path_factory.mktemp("evaluated_run") / "models")
    evaluation.main(["--models-dir", str(models_dir)])
    return models_dir


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not (SHARED_DATA / "oxford_iiit_pet").exists():
        pytest.skip(f"the real data set is not in {SHARED_DATA}")
    return SHARED_DATA
