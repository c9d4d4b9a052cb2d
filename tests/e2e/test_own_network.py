"""A network of the user is one edit of one file, and passes all five stages."""

import json

import pytest

pytestmark = pytest.mark.slow


def test_it_is_trained_from_random_weights_and_only_its_few_steps_are_noted(own_output):
    output = own_output["training.py"]
    assert "tiny: " in output and "encoder from scratch" in output
    assert output.count("note: ") == 2 and "steps in all, 4 an epoch, are few" in output
    assert "with momentum 0.99, in 1 of 1 such layers: after 8 steps" in output


def test_its_large_kernels_are_pruned(own_project):
    record = own_project / "models" / "pruned_model.h5.json"
    metrics = json.loads(record.read_text())["metrics"]
    assert metrics["sparsity"] == pytest.approx(0.6, abs=0.01)
    assert len(metrics["layers"]) == 2  # 9,216 and 46,080 weights


def test_it_is_in_every_row_of_the_table(own_project, own_output):
    evaluation = json.loads((own_project / "models" / "evaluation.json").read_text())
    rows = {row["name"]: row for row in evaluation["models"]}
    assert {"original", "pruned", "dynamic", "int8", "float16"} <= rows.keys()
    for name, row in rows.items():
        assert name in own_output["evaluation.py"]
        assert abs(row["mean_iou"] - rows["pruned"]["mean_iou"]) < 0.1
        assert 0 < row["latency_ms"]["median"] <= row["latency_ms"]["p90"]
