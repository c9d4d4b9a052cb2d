"""The small runs that tests share: what is in them and how they are made."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from tests.helpers.made_up_evaluation import made_up_times
from tests.helpers.runs import (
    COMPACT_TRAINING,
    OWN_CONVERSION,
    OWN_NETWORK,
    OWN_TRAINING,
    PARTS,
    PRUNING,
    STOPPED,
    STOPPED_TAUGHT,
    TRAINING,
    copy_code,
    edit,
    run_script,
    start_script,
)
from tests.helpers.small_network import small_network

CALIBRATION = ("--calibration-images", "20")


def make_finished_run(models_dir: Path, data: Path) -> None:
    """Writes a models folder after stages 1 to 4, of `small_network.small_unet`.

    Args:
        data: a models folder with the data set.
    """
    import pruning
    import quantization
    import training

    shutil.copytree(data, models_dir)
    where = ("--models-dir", str(models_dir))
    with small_network():
        training.main([*where, *TRAINING])
        pruning.main([*where, *PRUNING])
        quantization.main([*where, *CALIBRATION])


def make_compact_run(models_dir: Path, data: Path) -> None:
    """Writes a models folder after stages 1 to 4, of the compact network, by the scripts.

    STOPPED in it is the state that the training would have left if it had been killed after an
    epoch, STOPPED_TAUGHT are those that it would have left after the first epoch of
    self-distillation.
    """
    shutil.copytree(data, models_dir)
    training = start_script("training.py", "--models-dir", models_dir, *COMPACT_TRAINING)
    state, taught = (models_dir / f".{part}_training_state.npz" for part in PARTS)
    for path, copies in ((state, (STOPPED,)), (taught, STOPPED_TAUGHT)):
        while not path.exists() and training.poll() is None:
            time.sleep(0.01)
        for source, name in zip((state, taught), copies):
            shutil.copy(source, models_dir / name)
    out, err = training.communicate(timeout=300)
    assert training.returncode == 0, out + err
    for script, arguments in (("pruning.py", PRUNING), ("quantization.py", CALIBRATION)):
        done = run_script(script, "--models-dir", models_dir, *arguments)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


def copy_run(run: Path, models_dir: Path) -> Path:
    """Copies a models folder without the states of a stopped training, half of its bytes."""
    states = shutil.ignore_patterns(STOPPED, *STOPPED_TAUGHT)
    return Path(shutil.copytree(run, models_dir, ignore=states))


def make_evaluated_run(models_dir: Path, finished_run: Path) -> None:
    """Writes a models folder after all five stages.

    Time and memory are made up: to measure them takes ten processes (test_own_network.py does).
    """
    import evaluation
    from pipeline.evaluation import latency, memory

    copy_run(finished_run, models_dir)
    times = made_up_times(2.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "measure_latency", lambda _, names, *__: dict.fromkeys(names, times))
        patch.setattr(memory, "measure_memory", lambda _, names, __: dict.fromkeys(names, 10**7))
        evaluation.main(["--models-dir", str(models_dir)])


def make_own_project(project: Path, data: Path) -> None:
    """Writes a copy of the code with a network and a conversion added, and runs all five stages.

    The conversion is added after the training. What each script printed is in SCRIPT.log.
    """
    copy_code(project)
    shutil.copytree(data, project / "models")
    networks = project / "pipeline" / "training" / "networks.py"
    edit(networks, "\nNETWORKS = {", OWN_NETWORK)
    for script, code, *arguments in (
        ("training.py", 0, *OWN_TRAINING),
        ("training.py", 0, *OWN_TRAINING, "--if-needed"),
        ("pruning.py", 0, "--epochs", "2", "--batch-size", "4"),
        ("quantization.py", 0, "--calibration-images", "8"),
        ("evaluation.py", 1, "--max-bytes", "1000"),
    ):
        done = run_script(project / script, "--models-dir", project / "models", *arguments)
        assert (done.returncode, done.stderr) == (code, ""), done.stdout + done.stderr
        with (project / f"{script}.log").open("a", encoding="utf-8") as log:
            log.write(done.stdout)
        if script == "training.py" and "--if-needed" not in arguments:
            variants = project / "pipeline" / "variants.py"
            edit(variants, '\n    "float16": Variant(', OWN_CONVERSION)
