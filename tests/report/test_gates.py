"""Gates: the limits, the models that they apply to, and numbers that must not pass them."""

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
        ("--max-activation-kb", "768.0", "767.9"),
        ("--min-mean-iou", "0.76", "0.761"),
    ],
)
def test_gate(numbers, flag, kept, broken):
    assert gates.judge(evaluation.parse([flag, kept]), numbers) == ([], [])
    lines, _ = gates.judge(evaluation.parse([flag, broken]), numbers)
    assert lines
    assert all(flag in line and broken.rstrip("0") in line for line in lines)
    models = {line.split()[0] for line in lines}
    assert models <= set(quantised())  # limits apply to quantised files only


def test_everything_passes_without_limits(numbers):
    assert gates.judge(evaluation.parse([]), numbers) == ([], [])


@pytest.mark.parametrize(
    "flag", ["--max-drop", "--max-latency-ms", "--max-bytes", "--max-activation-kb"]
)
@pytest.mark.parametrize("limit", ["nan", "inf", "-inf", "-1", "much"])
def test_limit_that_is_no_finite_number_is_refused(flag, limit, capsys):
    """A limit of nan would let everything pass, because no number is above it."""
    with pytest.raises(SystemExit) as stopped:
        evaluation.main([f"{flag}={limit}"])
    assert stopped.value.code == 2
    assert flag in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["nan", "-0.1", "1.1"])
def test_limit_of_mean_iou_is_between_0_and_1(limit):
    for flag in ("--min-mean-iou", "--max-drop"):
        with pytest.raises(SystemExit) as stopped:
            evaluation.main([f"{flag}={limit}"])
        assert stopped.value.code == 2


def test_limit_is_refused_before_tensorflow_is_loaded(tmp_path):
    """TensorFlow takes seconds to load. A substitute that fails shows that it is not imported."""
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('loaded')")
    done = run_script("evaluation.py", "--max-drop", "nan", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(
        "argument --max-drop: nan is not a finite number between 0.0 and 1.0"
    )


def test_limits_apply_to_the_models_that_gate_names(numbers):
    """--gate may be repeated or have several values; what other models break does not count."""
    sizes = {row["name"]: row["bytes"] for row in numbers["models"]}
    least, most = min(quantised(), key=sizes.get), max(quantised(), key=sizes.get)
    between = ["--max-bytes", str(sizes[least])]
    assert gates.judge(evaluation.parse([*between, "--gate", least]), numbers) == ([], [])
    for names in (["--gate", least, most], ["--gate", least, "--gate", most]):
        broken, _ = gates.judge(evaluation.parse([*between, *names]), numbers)
        assert [line.split()[0] for line in broken] == [most]


@pytest.mark.parametrize("name", ["int9", "original", "float32", ""])
def test_gate_refuses_a_model_that_is_not_quantised(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        evaluation.main(["--gate", name])
    assert stopped.value.code == 2
    assert f"argument --gate: invalid choice: '{name}'" in capsys.readouterr().err


def test_latency_of_a_busy_machine_is_not_judged(numbers):
    for row in numbers["models"]:
        row["latency_ms"] = row["latency_ms"] | {"busy": None}
    numbers["models"][-1]["latency_ms"]["busy"] = "turns differ by 80%"
    name = numbers["models"][-1]["name"]
    broken, undecided = gates.judge(evaluation.parse(["--max-latency-ms", "0.1"]), numbers)
    assert name not in {line.split()[0] for line in broken}
    assert undecided == [f"{name} cannot be compared with --max-latency-ms: turns differ by 80%"]
    assert gates.judge(evaluation.parse(["--max-bytes", "99999999"]), numbers) == ([], [])


def test_memory_without_a_plan_is_not_judged(numbers):
    """A network with loops has none, and None is no number below a limit."""
    row = next(row for row in numbers["models"] if row["name"] == "int8")
    row["activation_kb"] = None
    asked = evaluation.parse(["--max-activation-kb", "99999", "--gate", "int8"])
    words = "int8 cannot be compared with --max-activation-kb: its memory has no fixed plan"
    assert gates.judge(asked, numbers) == ([], [words])
    asked = evaluation.parse(["--max-activation-kb", "99999", "--gate", "float16"])
    assert gates.judge(asked, numbers) == ([], [])


STALE = "models/int8 was made from another pruned_model.h5; make it anew with: python quantization"


@pytest.mark.parametrize("flag", ["--max-drop", "--min-mean-iou", "--max-bytes"])
def test_stale_model_is_not_judged(numbers, flag):
    """Its drop is the distance to a network that it does not come from: any limit is met."""
    row = next(row for row in numbers["models"] if row["name"] == "int8")
    row |= {"stale": STALE, "mean_iou_drop": -0.07, "mean_iou": 1.0, "bytes": 1}
    limit = [flag, {"--max-drop": "1", "--min-mean-iou": "0", "--max-bytes": "99999999"}[flag]]
    judged = gates.judge(evaluation.parse([*limit, "--gate", "int8"]), numbers)
    assert judged == ([], [f"int8 cannot be judged: {STALE}"])
    row["mean_iou_drop"] = row["mean_iou"] = 2.0  # nor does it break a limit
    assert gates.judge(evaluation.parse([*limit, "--gate", "int8"]), numbers) == judged
    assert gates.judge(evaluation.parse([*limit, "--gate", "float16"]), numbers) == ([], [])
    assert gates.judge(evaluation.parse([]), numbers) == ([], []), "without limits, it is a row"


def test_nan_passes_no_limit(numbers):
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
