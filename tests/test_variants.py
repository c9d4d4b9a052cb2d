"""One more conversion is one more line of pipeline/variants.py: for real, in a copy of the project
whose scripts run as their user runs them.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, TRAINING

from pipeline.artifacts import MODELS
from pipeline.variants import VARIANTS

AFTER = '    "int8": Variant('
ENTRY = (
    '    "int16": Variant("int16_quantized_model.tflite", weights="int8", activations="int16"),\n'
)


@pytest.fixture(scope="module")
def extended(finished_run, tmp_path_factory):
    """Runs a script of a project with that entry, on a copied run of the project without it."""
    project = tmp_path_factory.mktemp("project")
    for script in ROOT.glob("*.py"):
        shutil.copy(script, project)
    shutil.copytree(
        ROOT / "pipeline", project / "pipeline", ignore=shutil.ignore_patterns("__pycache__")
    )
    models_dir = shutil.copytree(finished_run, project / "models")
    table = project / "pipeline" / "variants.py"
    lines = table.read_text().splitlines(keepends=True)
    (place,) = (k for k, line in enumerate(lines) if line.startswith(AFTER))
    table.write_text("".join([*lines[: place + 1], ENTRY, *lines[place + 1 :]]))

    def run(script, *arguments):
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        return subprocess.run(
            [sys.executable, project / script, "--models-dir", models_dir, *arguments],
            capture_output=True,
            text=True,
            timeout=600,
            env=environment,
        )

    run.models_dir = models_dir
    return run


def test_entry_of_the_table_does_not_train_the_network_again(extended):
    done = extended("training.py", "--if-needed", *TRAINING)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "training.py: up to date, nothing to do\n"


def test_entry_of_the_table_is_a_file_and_a_row_everywhere(extended):
    models_dir = extended.models_dir
    done = extended("quantization.py", "--calibration-images", "20", "--if-needed")
    assert (done.returncode, done.stderr) == (0, "")
    path = models_dir / "int16_quantized_model.tflite"
    assert f"wrote {path}: " in done.stdout
    record = json.loads(path.with_name(path.name + ".json").read_text())
    assert record["metrics"]["agreement"] > 0.99  # int16 loses less than int8
    assert len(record["metrics"]["calibration_rows"]) == 20 and record["metrics"]["zeros"] > 0.5

    # The limits of what ships bind it too.
    done = extended("evaluation.py", "--max-bytes", "1000")
    assert (done.returncode, done.stderr) == (1, "")
    assert "FAILED: int16 breaks --max-bytes 1000: " in done.stdout
    rows = json.loads((models_dir / "evaluation.json").read_text())["models"]
    names = [row["name"] for row in rows]
    assert sorted(names) == sorted([*MODELS, "int16"])
    assert names[names.index("int8") + 1] == "int16"
    (row,) = (row for row in rows if row["name"] == "int16")
    assert 0 < row["mean_iou"] <= 1 and row["latency_ms"]["median"] > 0
    assert row["bytes"] == path.stat().st_size and row["stale"] is None
    table, _, words = done.stdout.partition("ms: one image")
    assert any(line.startswith("int16 ") for line in table.splitlines())
    assert any(line.startswith("int16: ") for line in words.splitlines())
    page = (models_dir / "report.html").read_text()
    assert page.count(">int16<") + page.count(">int16 <") >= page.count(">int8<") > 0
    assert "int16" in (models_dir / "evaluation.csv").read_text()


def test_names_and_files_of_the_table_are_each_used_once():
    files = [variant.file for variant in VARIANTS.values()]
    assert len(set(files)) == len(files)
    assert all(file.endswith(".tflite") for file in files)
    assert "int16" not in VARIANTS, "the entry is there already: the tests above prove nothing"
