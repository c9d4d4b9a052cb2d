"""Several machines: two worker processes on this one train one model together."""

import csv
import json
import socket

import numpy as np
import pytest
from conftest import TRAINING, start_script

import pipeline
import training


def free_ports(number):
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


@pytest.fixture(scope="module")
def two_workers(small_data, tmp_path_factory):
    """The training of `finished_run`, by two workers that share a models folder. Returns it and what they printed."""
    import shutil

    models_dir = shutil.copytree(small_data, tmp_path_factory.mktemp("two_workers") / "models")
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = []
    try:
        for index in range(2):
            config = json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})
            processes.append(start_script("training.py", "--models-dir", models_dir, *TRAINING, TF_CONFIG=config))
        printed = [process.communicate(timeout=150) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (out, err) in zip(processes, printed):
        assert process.returncode == 0, out + err
    return models_dir, [out for out, _ in printed]


def test_only_the_chief_writes(two_workers):
    models_dir, (chief, other) = two_workers
    assert "wrote" in chief and "original_model.h5" in chief
    assert "wrote" not in other
    assert pipeline.stale_reason(models_dir, "original") is None
    assert [path.name for path in models_dir.rglob(".*")] == []


def test_both_workers_hold_the_same_model_in_every_epoch(two_workers):
    lines = [[line.split("images/s")[0].rsplit(None, 1)[0] for line in out.splitlines() if line.startswith("epoch ")]
             for out in two_workers[1]]  # fmt: skip
    assert len(lines[0]) == 3 and lines[0] == lines[1]


def test_two_workers_train_what_one_trains(two_workers, finished_run):
    """They see the same batches, so only batch normalisation differs: each normalises by its own half."""
    rows = [list(csv.DictReader((folder / "original_training.csv").open())) for folder in (two_workers[0], finished_run)]
    for two, one in zip(*rows):
        assert float(two["loss"]) == pytest.approx(float(one["loss"]), rel=0.1)
        assert float(two["learning_rate"]) == float(one["learning_rate"])
    ours, theirs = (np.concatenate([value.ravel() for value in training.load_model(folder, "original").get_weights()])
                    for folder in (two_workers[0], finished_run))  # fmt: skip
    assert np.corrcoef(ours, theirs)[0, 1] > 0.99
