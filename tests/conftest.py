"""What several test files share: a small finished run, drawn pictures, scripts as subprocesses."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.base.artifacts import (
    ARTIFACTS,
    MODELS,
)
from pipeline.base.stage import Stage
from pipeline.evaluation import latency, memory
from tests.helpers.pictures import PhotoFolder
from tests.helpers.runs import (
    CLASSES,
    OWN_CONVERSION,
    OWN_NETWORK,
    OWN_TRAINING,
    PARTS,
    PRUNING,
    SHARED_DATA,
    STOPPED,
    STOPPED_TAUGHT,
    TRAINING,
    copy_code,
    edit,
    make_data_set,
    run_script,
    start_script,
)

# The files that the workers begin with: two that make what others share, in one worker each, two
# that need nothing of it, and then the dearest, so that none of these is left to the end.
FIRST = (
    *("own_network", "accuracy", "channels", "npu", "pruning", "quantization", "conversion"),
    *("training", "stages", "sensitivity", "imitation", "distribution"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {f"test_{name}.py": place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


# --- pictures -----------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> PhotoFolder:
    return PhotoFolder(tmp_path / "photos")


# --- a network ----------------------------------------------------------------------------


# --- runs ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Makes a folder that several test files share: by one worker, while others wait for it.

    The lock is the system's, so that it ends with the worker that holds it; what that one left
    half-made is made anew.
    """
    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    shared.mkdir(exist_ok=True)

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        path, done = shared / name, shared / f"{name}.done"
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(path, ignore_errors=True)
                make(path)
                done.touch()
        return path

    return folder


@pytest.fixture(scope="session")
def small_data(made_once) -> Path:
    """A models folder that holds a synthetic data set only. Not to be written to: `data_copy`."""
    return made_once("small_data", make_data_set)


@pytest.fixture
def data_copy(small_data, tmp_path) -> Path:
    return shutil.copytree(small_data, tmp_path / "models")


@pytest.fixture
def make_stage(data_copy) -> Callable[..., Stage]:
    """A training stage of these arguments on small data, which does nothing by itself."""
    import training

    def make(*arguments):
        return Stage(
            training.__file__, training.parse(["--models-dir", str(data_copy), *arguments])
        )

    return make


@pytest.fixture
def stage(make_stage) -> Stage:
    return make_stage()


@pytest.fixture(scope="session")
def finished_run(small_data, made_once) -> Path:
    """A models folder after stages 1 to 4. Not to be written to: see `run_copy`.

    STOPPED in it is the state that the training would have left if it had been killed after an
    epoch, STOPPED_TAUGHT those that it would have left after the first in which it taught itself.
    """
    import pruning
    import quantization

    def make(models_dir: Path) -> None:
        shutil.copytree(small_data, models_dir)
        # In a process of its own, because Keras numbers the layers of later models of one process.
        training = start_script("training.py", "--models-dir", models_dir, *TRAINING)
        state, taught = (models_dir / f".{part}_training_state.npz" for part in PARTS)
        for path, copies in ((state, (STOPPED,)), (taught, STOPPED_TAUGHT)):
            while not path.exists() and training.poll() is None:
                time.sleep(0.01)
            for source, name in zip((state, taught), copies):
                shutil.copy(source, models_dir / name)
        out, err = training.communicate(timeout=300)
        assert training.returncode == 0, out + err
        pruning.main(["--models-dir", str(models_dir), *PRUNING])
        quantization.main(["--models-dir", str(models_dir), "--calibration-images", "20"])

    return made_once("finished_run", make)


@pytest.fixture
def run_copy(finished_run, tmp_path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "models")


@pytest.fixture(scope="session")
def evaluated_run(finished_run, made_once) -> Path:
    """A models folder after all five stages. Not to be written to.

    Time and memory are made up: to measure takes ten processes (test_own_network.py does it).
    """
    import evaluation

    times = {"median": 2.0, "p90": 2.5, "after_another": 3.0, "first": 30.0, "runs": 100}

    def make(models_dir: Path) -> None:
        shutil.copytree(finished_run, models_dir)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                latency, "measure_latency", lambda _, names, *__: dict.fromkeys(names, times)
            )
            patch.setattr(
                memory, "measure_memory", lambda _, names, __: dict.fromkeys(names, 10**7)
            )
            evaluation.main(["--models-dir", str(models_dir)])

    return made_once("evaluated_run", make)


# --- the code, edited -----------------------------------------------------------------------


@pytest.fixture(scope="session")
def own_project(small_data, made_once) -> Path:
    """A copy of the code with a network and a conversion of one's own, and all five stages run.

    What each printed: `own_output`. The conversion came after the training.
    """

    def make(project: Path) -> None:
        copy_code(project)
        shutil.copytree(small_data, project / "models")
        edit(project / "pipeline" / "networks.py", "\nNETWORKS = {", OWN_NETWORK)
        for script, code, *arguments in (
            ("training.py", 0, *OWN_TRAINING),
            ("training.py", 0, *OWN_TRAINING, "--if-needed"),
            ("pruning.py", 0, "--epochs", "2", "--batch-size", "4"),
            ("quantization.py", 0, "--calibration-images", "8"),
            ("evaluation.py", 1, "--max-bytes", "1000"),
        ):
            done = run_script(project / script, "--models-dir", project / "models", *arguments)
            assert (done.returncode, done.stderr) == (code, ""), done.stdout + done.stderr
            with (project / f"{script}.log").open("a") as log:
                log.write(done.stdout)
            if script == "training.py" and "--if-needed" not in arguments:
                variants = project / "pipeline" / "variants.py"
                edit(variants, '\n    "float16": Variant(', OWN_CONVERSION)

    return made_once("own_project", make)


@pytest.fixture(scope="session")
def own_output(own_project) -> dict[str, str]:
    """What each script printed there."""
    return {path.stem: path.read_text() for path in own_project.glob("*.log")}


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not (SHARED_DATA / "oxford_iiit_pet").exists():
        pytest.skip(f"the real data set is not in {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture
def numbers() -> dict:
    """A small fabricated evaluation: the names, fields and nesting of evaluation.json."""
    rows = []
    for k, name in enumerate(MODELS):
        times = {
            "median": 2.0 + k,
            "p90": 2.5 + k,
            "after_another": 3.0 + k,
            "first": 30.0,
            "runs": 100,
        }
        row = {
            "name": name,
            "file": ARTIFACTS[name][0],
            "bytes": 4_000_000 - 500_000 * k,
            "gzip_bytes": 3_000_000 - 400_000 * k,
            "parameters": 1_000_000,
            "nonzero_share": 0.4,
            "activation_kb": 768.0 if ARTIFACTS[name][0].endswith(".tflite") else None,
            "multiply_accumulates": 185_391_200,
            "activation_peak": [["block1_expand", 614_400], ["block1_depthwise", 153_600]],
            "latency_ms": times,
            "latency_ms_all_threads": times,
            "memory_bytes": 10_000_000 + k,
            "mean_iou": 0.76,
            "mean_iou_interval": [0.7512, 0.7688],
            "iou": {"pet": 0.85, "background": 0.92, "border": 0.51},
            "pixel_accuracy": 0.91,
            "mean_iou_drop": 0.004,
            "mean_iou_drop_interval": [0.001, 0.007],
            "iou_drop": {"pet": 0.001, "background": 0.001, "border": 0.03},
            "stale": None,
        }
        rows.append(row)
    layers = {"block0_project": {"weights": 512, "sparsity": 0.7}}
    return {
        "dataset": {
            "source": "Oxford <Pets>",
            "synthetic": False,
            "image_size": [128, 128],
            "fingerprint": "ab" * 32,
            "split": "test",
            "class_names": list(CLASSES),
            "class_colours": [[242, 142, 43], [58, 72, 98], [255, 255, 255]],
            "class_shares": {"pet": 0.3, "background": 0.58, "border": 0.12},
            "class_pictures": {"pet": 3662, "background": 3669, "border": 3669},
            "ignored_share": 0.0,
            "examples": 3669,
            "constant_class": "background",
            "constant_mean_iou": 0.2,
        },
        "environment": {
            "cpu": "A CPU",
            "cores": 2,
            "threads": 1,
            "delegate": "XNNPACK",
            "system": "Linux",
            "versions": {"numpy": "2"},
        },
        "stages": {
            "pruned": {
                "settings": {"seed": 7, "epochs": 10},
                "wall_seconds": 12.0,
                "sha256": "cd" * 32,
                "metrics": {"layers": layers},
            }
        },
        "seed": 7,
        "models": rows,
    }


@pytest.fixture
def full_disk():
    """No file of this process may be longer than a block."""
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, kept[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, kept)
    signal.signal(signal.SIGXFSZ, ignored)
