"""The gate: which limits there are, whom they are for, and that nothing passes them unjudged."""

import json
import re

import pytest

import evaluation
from pipeline.report import gates
from pipeline.variants import quantised
from tests.helpers.runs import ROOT, run_script


@pytest.mark.parametrize(
    ("flag", "kept", "broken"),
    [
        ("--max-drop", "0.004", "0.003"),
        ("--max-latency-ms", "8.0", "7.9"),
        ("--max-bytes", "2000000", "1999999"),
        ("--min-mean-iou", "0.76", "0.761"),
    ],
)
def test_gate(numbers, flag, kept, broken):
    assert gates.judge(evaluation.parse([flag, kept]), numbers) == ([], [])
    lines, _ = gates.judge(evaluation.parse([flag, broken]), numbers)
    assert lines
    assert all(flag in line and broken.rstrip("0") in line for line in lines)
    named = {line.split()[0] for line in lines}
    assert named <= set(quantised())  # the gate is for what ships


def test_gate_is_open_without_limits(numbers):
    assert gates.judge(evaluation.parse([]), numbers) == ([], [])


@pytest.mark.parametrize("flag", ["--max-drop", "--max-latency-ms", "--max-bytes"])
@pytest.mark.parametrize("limit", ["nan", "inf", "-inf", "-1", "much"])
def test_limit_that_says_nothing_is_refused(flag, limit, capsys):
    """A gate at nan would let everything pass, for no number is above it."""
    with pytest.raises(SystemExit) as stopped:
        evaluation.main([f"{flag}={limit}"])
    assert stopped.value.code == 2
    assert flag in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["nan", "-0.1", "1.1"])
def test_mean_iou_is_a_share(limit):
    for flag in ("--min-mean-iou", "--max-drop"):
        with pytest.raises(SystemExit) as stopped:
            evaluation.main([f"{flag}={limit}"])
        assert stopped.value.code == 2


def test_limit_is_refused_before_tensorflow_is_loaded(tmp_path):
    """TensorFlow takes seconds to load: a stand-in that fails shows that nobody asked for it."""
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('loaded')")
    done = run_script("evaluation.py", "--max-drop", "nan", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(
        "argument --max-drop: nan is not a finite number between 0.0 and 1.0"
    )


def test_gate_is_for_the_models_that_are_named(numbers):
    """Repeated or in a row; a limit that only others break holds."""
    sizes = {row["name"]: row["bytes"] for row in numbers["models"]}
    least, most = min(quantised(), key=sizes.get), max(quantised(), key=sizes.get)
    between = ["--max-bytes", str(sizes[least])]
    assert gates.judge(evaluation.parse([*between, "--gate", least]), numbers) == ([], [])
    for names in (["--gate", least, most], ["--gate", least, "--gate", most]):
        broken, _ = gates.judge(evaluation.parse([*between, *names]), numbers)
        assert [line.split()[0] for line in broken] == [most]


@pytest.mark.parametrize("name", ["int9", "original", "float32", ""])
def test_gate_for_a_model_that_is_not_quantised_is_refused(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        evaluation.main(["--gate", name])
    assert stopped.value.code == 2
    assert f"argument --gate: invalid choice: '{name}'" in capsys.readouterr().err


def test_times_of_a_busy_machine_are_not_judged(numbers):
    for row in numbers["models"]:
        row["latency_ms"] = row["latency_ms"] | {"busy": None}
    numbers["models"][-1]["latency_ms"]["busy"] = "turns differ by 80%"
    name = numbers["models"][-1]["name"]
    broken, unknown = gates.judge(evaluation.parse(["--max-latency-ms", "0.1"]), numbers)
    assert name not in {line.split()[0] for line in broken}
    assert unknown == [f"{name} cannot be held to --max-latency-ms: turns differ by 80%"]
    assert gates.judge(evaluation.parse(["--max-bytes", "99999999"]), numbers) == ([], [])


def test_number_that_is_none_passes_no_limit(numbers):
    for row in numbers["models"]:
        row["mean_iou_drop"] = row["mean_iou"] = float("nan")
    for flag in ("--max-drop", "--min-mean-iou"):
        broken, _ = gates.judge(evaluation.parse([flag, "0.5"]), numbers)
        assert len(broken) == len(quantised())


def test_example_in_the_help_passes_on_the_default_run():
    example = re.search(r"evaluation\.py (--gate .*?)  ", evaluation.__doc__)[1].split()
    results = json.loads((ROOT / "docs" / "results.json").read_text())
    assert gates.judge(evaluation.parse(example), results) == ([], [])
    assert gates.judge(evaluation.parse([*example, "--max-bytes", "1"]), results)[0]
