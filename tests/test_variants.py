"""A new conversion is one line of pipeline/variants.py.

The tests add one in a copy of the project and run its scripts as a user does.
"""

import json

import pytest

from pipeline.base.artifacts import MODELS
from pipeline.variants import VARIANTS
from tests.helpers.runs import COMPACT_TRAINING, OWN_CONVERSION, copy_code, edit, run_script


@pytest.mark.slow
def test_new_entry_does_not_train_the_network_again(compact_copy, tmp_path, own_output):
    project = copy_code(tmp_path / "project")
    edit(project / "pipeline" / "variants.py", '\n    "float16": Variant(', OWN_CONVERSION)
    done = run_script(
        project / "training.py", "--models-dir", compact_copy, "--if-needed", *COMPACT_TRAINING
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "training.py: up to date, nothing to do\n"
    assert done.stdout in own_output["training.py"]


@pytest.mark.slow
def test_new_entry_is_a_file_and_a_row_of_every_table(own_project, own_output):
    models_dir = own_project / "models"
    path = models_dir / "int16_quantized_model.tflite"
    assert f"wrote {path}: " in own_output["quantization.py"]
    record = json.loads(path.with_name(path.name + ".json").read_text())
    assert record["metrics"]["agreement"] > 0.99  # int16 loses less than int8
    assert len(record["metrics"]["calibration_rows"]) == 8 and record["metrics"]["zeros"] > 0.5

    # The limits apply to it, too.
    output = own_output["evaluation.py"]
    assert "FAILED: int16 breaks --max-bytes 1000: " in output
    rows = json.loads((models_dir / "evaluation.json").read_text())["models"]
    names = [row["name"] for row in rows]
    assert sorted(names) == sorted([*MODELS, "int16"])
    assert names[names.index("int8") + 1] == "int16"
    (row,) = (row for row in rows if row["name"] == "int16")
    assert 0 < row["mean_iou"] <= 1 and row["latency_ms"]["median"] > 0
    assert row["bytes"] == path.stat().st_size and row["stale"] is None
    table, _, findings = output.partition("ms: one image")
    assert any(line.startswith("int16 ") for line in table.splitlines())
    assert any(line.startswith("int16: ") for line in findings.splitlines())
    page = (models_dir / "report.html").read_text()
    assert page.count(">int16<") + page.count(">int16 <") >= page.count(">int8<") > 0
    assert "int16" in (models_dir / "evaluation.csv").read_text()


def test_no_two_entries_have_the_same_file():
    files = [variant.file for variant in VARIANTS.values()]
    assert len(set(files)) == len(files)
    assert all(file.endswith(".tflite") for file in files)
    assert "int16" not in VARIANTS, "the entry exists already, so the tests above prove nothing"
