"""Several machines: two worker processes of this machine train one model together."""

import csv
import json
import shutil
import socket

import numpy as np
import pytest

from pipeline.base.artifacts import stale_reason
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


def train_together(project, models_dir, *more):
    """Runs the training of `own_project` in two workers that share a models folder.

    Returns the folder, and what each worker printed.
    """
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = []
    try:
        for index in range(2):
            task = {"type": "worker", "index": index}
            config = json.dumps({"cluster": {"worker": workers}, "task": task})
            where = (project / "training.py", "--models-dir", models_dir)
            processes.append(start_script(*where, *OWN_TRAINING, *more, TF_CONFIG=config))
        printed = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (out, err) in zip(processes, printed):
        assert process.returncode == 0, out + err
    return models_dir, [out for out, _ in printed]


@pytest.fixture(scope="module")
def two_workers(small_data, own_project, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_workers") / "models"
    return train_together(own_project, shutil.copytree(small_data, folder))


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
    models_dir, printed = train_together(own_project, data_copy, *more)
    lines = [epoch_lines(out) for out in printed]
    assert len(lines[0]) == 3 and lines[0] == lines[1]
    assert stale_reason(models_dir, "original") is None
    assert [path.name for path in models_dir.rglob(".*")] == []


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
