"""Several machines: two worker processes of this machine train one model together."""

import csv
import json
import shutil
import socket
import time
from contextlib import contextmanager

import numpy as np
import pytest

from pipeline.base.artifacts import stale_reason
from pipeline.base.files import sha256
from pipeline.data.dataset import load_split
from pipeline.inference.keras_files import load_model
from tests.helpers.runs import OWN_TRAINING, start_script

pytestmark = pytest.mark.slow


def free_ports(number):
    sockets = [socket.socket() for _ in range(number)]
    try:
        for bound in sockets:
            bound.bind(("127.0.0.1", 0))
        return [bound.getsockname()[1] for bound in sockets]
    finally:
        for bound in sockets:
            bound.close()


@contextmanager
def two_started(project, models_dirs, *more, of_second=()):
    """The training of `own_project` in two workers; kills them at the end.

    Args:
        models_dirs: of each worker.
        of_second: further flags of the second worker alone.
    """
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = []
    try:
        for index, models_dir in enumerate(models_dirs):
            task = {"type": "worker", "index": index}
            config = json.dumps({"cluster": {"worker": workers}, "task": task})
            flags = (*OWN_TRAINING, *more, *(of_second if index else ()))
            where = (project / "training.py", "--models-dir", models_dir)
            processes.append(start_script(*where, *flags, TF_CONFIG=config))
        yield processes
    finally:
        for process in processes:
            process.kill()


def train_together(project, *models_dirs, more=()):
    """Trains in two workers. Returns what each of them printed."""
    with two_started(project, models_dirs, *more) as processes:
        printed = [process.communicate(timeout=300) for process in processes]
    for process, (out, err) in zip(processes, printed):
        assert process.returncode == 0, out + err
    return [out for out, _ in printed]


def wait_for_an_epoch(models_dir, processes):
    """Waits until the first worker has finished an epoch."""
    state = models_dir / ".original_training_state.npz"
    while not state.exists() and all(process.poll() is None for process in processes):
        time.sleep(0.05)
    assert state.exists()


@pytest.fixture(scope="module")
def two_workers(small_data, own_project, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_workers") / "models"
    shutil.copytree(small_data, folder)
    return folder, train_together(own_project, folder, folder)


def test_only_the_chief_writes(two_workers):
    models_dir, (chief, other) = two_workers
    assert "wrote" in chief and "original_model.h5" in chief
    assert "wrote" not in other
    assert stale_reason(models_dir, "original") is None
    assert [path.name for path in models_dir.rglob(".*")] == []


def epoch_lines(out):
    """The line of each epoch that a worker printed, without its speed."""
    lines = [line for line in out.splitlines() if line[:6] == "epoch "]
    return [line.split("/s")[0].rsplit(None, 1)[0] for line in lines]


def test_both_workers_hold_the_same_model_in_every_epoch(two_workers):
    lines = [epoch_lines(out) for out in two_workers[1]]
    assert len(lines[0]) == 2 and lines[0] == lines[1]


def test_both_workers_hold_the_same_model_in_self_distillation(own_project, data_copy):
    more = ("--epochs", "1", "--taught-epochs", "2")
    printed = train_together(own_project, data_copy, data_copy, more=more)
    lines = [epoch_lines(out) for out in printed]
    assert len(lines[0]) == 3 and lines[0] == lines[1]
    assert stale_reason(data_copy, "original") is None
    assert [path.name for path in data_copy.rglob(".*")] == []


def test_workers_that_were_killed_continue_together_and_end_with_the_same_bytes(
    two_workers, own_project, small_data, tmp_path
):
    """Each has its own folder: the second one has no state, which only the first one writes."""
    folders = [shutil.copytree(small_data, tmp_path / name) for name in ("first", "second")]
    with two_started(own_project, folders) as processes:
        wait_for_an_epoch(folders[0], processes)
    printed = train_together(own_project, *folders, more=("--resume",))
    for out in printed:
        assert "going on after epoch 1" in out
        assert [line[:9] for line in epoch_lines(out)] == ["epoch   2"]
    model = "original_model.h5"
    assert sha256(folders[0] / model) == sha256(two_workers[0] / model)
    assert not (folders[1] / model).exists()


@pytest.mark.parametrize("killed", [0, 1])
def test_worker_that_dies_ends_the_other_with_one_line(own_project, data_copy, killed):
    with two_started(own_project, [data_copy] * 2, "--epochs", "2000") as processes:
        wait_for_an_epoch(data_copy, processes)
        processes[killed].kill()
        out, err = processes[1 - killed].communicate(timeout=120)
    assert processes[1 - killed].returncode == 2, out + err
    (line,) = err.splitlines()
    assert "training.py: another worker ended or can no longer be reached" in line
    assert line.endswith("--epochs 2000 --resume")


def test_worker_of_another_run_is_refused_and_ends_the_first_one(own_project, data_copy):
    """Else the one with more epochs would wait for ever."""
    folders = [data_copy] * 2
    with two_started(own_project, folders, of_second=("--epochs", "3")) as processes:
        printed = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [2, 2], printed
    (first,), (second,) = (err.splitlines() for _, err in printed)
    assert "another worker ended" in first
    assert "this worker does not train what the first one trains (--epochs is 3, was 2" in second


def test_two_workers_train_the_model_of_one_worker(two_workers, own_project):
    """They read the same batches and step by the mean of both gradients.

    Batch normalisation and the Jaccard term look at each worker's half of the batch, so the two
    runs drift apart slowly: at this size by 0.7 % of the loss, while it falls by 12 % over the two
    epochs.
    """
    folders = (two_workers[0], own_project / "models")
    tables = [(folder / "original_training.csv").open() for folder in folders]
    rows = [list(csv.DictReader(table)) for table in tables]
    for two, one in zip(*rows):
        assert float(two["loss"]) == pytest.approx(float(one["loss"]), rel=0.02)
        assert float(two["mean_iou"]) == pytest.approx(float(one["mean_iou"]), abs=0.02)
        assert float(two["learning_rate"]) == float(one["learning_rate"])
    assert float(rows[0][-1]["loss"]) < 0.95 * float(rows[0][0]["loss"])
    images = load_split(folders[0], "test")[0][:].astype(np.float32) / 255
    ours, theirs = (load_model(folder, "original")(images).numpy().ravel() for folder in folders)
    assert np.corrcoef(ours, theirs)[0, 1] > 0.99
