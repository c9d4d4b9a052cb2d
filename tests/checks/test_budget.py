"""The search for a device's budget: the smallest share that keeps to all limits, what to type for
it, and what else would do where none is enough.
"""

import math
import re
import subprocess
import sys

import pytest

import pruning
import quantization
from pipeline.base.artifacts import artifact_path, read_record
from pipeline.base.console import UserError
from pipeline.checks import budget, int8_needs, smallest_number
from pipeline.checks.int8_needs import MARGINS, Needs
from pipeline.data.dataset import load_split
from pipeline.evaluation import memory_plan
from pipeline.inference.keras_files import load_model
from pipeline.training import networks
from pipeline.variants import VARIANTS
from tests.helpers.runs import CLASSES, ROOT, SIZE, run_script
from tests.helpers.small_network import small_network

# --- the number ------------------------------------------------------------------------------


def brute_force(pressure, most):
    return next((number for number in range(most + 1) if pressure(number) <= 1), None)


CURVES = {
    "a line": lambda n: 1 - n / 100,
    "a square": lambda n: (1 - n / 100) ** 2,
    "a root": lambda n: (1 - n / 100) ** 0.5,
    "steps": lambda n: 1 - (n // 8) / 12,
    "a cliff": lambda n: 1.0 if n < 61 else 0.01,
    "flat": lambda _: 0.5,
}


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("most", [0, 1, 2, 37, 90])
def test_smallest_number_is_that_of_trying_all(curve, most):
    for limit in (0.004, 0.05, 0.2, 0.35, 0.5, 0.61, 0.75, 0.88, 0.99, 1.0, 2.0):
        tried = []

        def pressure(number, limit=limit, tried=tried):
            tried.append(number)
            return CURVES[curve](number) / limit

        assert smallest_number.smallest(pressure, most) == brute_force(
            lambda number, limit=limit: CURVES[curve](number) / limit, most
        )
        assert len(tried) == len(set(tried)), "no try twice: each takes a minute"
        assert len(tried) <= 13 and (curve != "a line" or len(tried) <= 6)


def test_number_that_needs_exactly_the_limit_keeps_to_it():
    assert smallest_number.smallest(lambda n: (100 - n) / 60, 90) == 40


def test_limit_of_nothing_ends_the_search():
    assert smallest_number.smallest(lambda _: math.inf, 90) is None
    assert smallest_number.smallest(lambda n: math.inf if n < 47 else 0.3, 90) == 47


@pytest.mark.parametrize("bump", [30, 49, 50, 51, 70])
def test_number_keeps_to_the_limit_and_the_one_below_does_not_where_it_does_not_fall_everywhere(
    bump,
):
    def pressure(number):
        return (100 - number) / 50 + 0.4 * (bump <= number < bump + 3)

    found = smallest_number.smallest(pressure, 90)
    assert pressure(found) <= 1 < pressure(found - 1)


def test_numbers_below_the_largest_are_tried_where_it_nearly_keeps_to_the_limit():
    """The default network needs more memory without 0.9 of its channels than without 0.88."""
    tried = []

    def pressure(number):
        tried.append(number)
        return {0: 3.0, 90: 1.2, 89: 1.2}.get(number, 0.9 if number > 70 else 1.5)

    assert smallest_number.smallest(pressure, 90) == 71
    assert tried[:4] == [0, 90, 89, 88]
    tried.clear()
    assert smallest_number.smallest(lambda n: tried.append(n) or 3.0 - n / 90, 90) is None
    assert tried == [0, 90], "what is far from enough is not tried again"


# --- the limits ------------------------------------------------------------------------------

NEEDS = Needs(max_bytes=1000, max_activation_kb=80.0, max_latency_ms=2.0, ratio=0.5)


def test_limit_that_is_passed_most_binds():
    limits = {"max_activation_kb": 40.0, "max_latency_ms": 1.5, "max_bytes": 10**6}
    assert NEEDS.pressure(limits) == (2.0, "max_activation_kb")
    assert NEEDS.pressure(limits | {"max_activation_kb": 100.0}) == (2.0 / 1.5, "max_latency_ms")
    assert NEEDS.pressure(limits | {"max_latency_ms": 0.0}) == (math.inf, "max_latency_ms")


def test_bytes_keep_a_margin_and_memory_none():
    """The bytes of a file change a little with its values; its memory does not."""
    assert NEEDS.pressure({"max_activation_kb": 80.0})[0] == 1
    assert NEEDS.pressure({"max_bytes": 1000 + MARGINS["max_bytes"]})[0] == 1
    assert NEEDS.pressure({"max_bytes": 999 + MARGINS["max_bytes"]})[0] > 1


def test_memory_without_a_plan_is_refused_only_if_it_is_limited():
    unknown = NEEDS._replace(max_activation_kb=None)
    assert unknown.pressure({"max_bytes": 10**6})[1] == "max_bytes"
    with pytest.raises(UserError, match="no fixed plan; leave --max-activation-kb out"):
        unknown.pressure({"max_bytes": 10**6, "max_activation_kb": 1.0})


# --- the mode, with made-up files --------------------------------------------------------------


@pytest.fixture(scope="module")
def original(finished_run):
    return load_model(finished_run, "original")


@pytest.fixture
def search(finished_run, original, monkeypatch, capsys):
    """Runs the mode on made-up files; returns the lines, and the fault's line if there is one.

    A file has 1000 kB, 100 kB of memory and 2 ms for the whole network, less in proportion to the
    share; the small preset a fifth less, images of 32 pixels are the smallest there are.
    """

    class FakeMeter:
        whole_needs = Needs(1_000_000, 100.0, 2.0, 1.0)
        busy = None

        def __init__(self, *_):
            pass

        def needs(self, left, _):
            return Needs(int(1e6 * left), 60 + 40 * left, 2 * left, left)

    def untrained(other, _, share):
        return (0.8 if "small" in other.flag else 0.9) * (1 - share)

    monkeypatch.setattr(budget, "load_model", lambda *_: original)
    monkeypatch.setattr(budget, "Meter", FakeMeter)
    monkeypatch.setattr(budget, "random_images", lambda _: None)
    monkeypatch.setattr(budget, "untrained", untrained)
    monkeypatch.setattr(budget.Trials, "cut", lambda _, share: 1 - share)
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}

    def run(*words):
        fault = ""
        try:
            pruning.main(["--models-dir", str(finished_run), "--budget", *words])
        except UserError as error:
            fault = str(error)
        assert before == {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}
        return capsys.readouterr().out.splitlines(), fault

    return run


def rows_of(lines):
    """By what was tried, what a line says of the nearest limit."""
    rows = (re.match(r"(the whole network|--.+?)  .*  (\d[\d.]*% of --[\w-]+(: enough)?)", line)
            for line in lines)  # fmt: skip
    return {row[1]: row[2] for row in rows if row}


def test_smallest_share_and_the_commands_for_it(search, finished_run):
    lines, fault = search("--max-bytes", "700000", "--max-latency-ms", "1.9", "--seed", "3")
    assert not fault
    rows = rows_of(lines)
    # 1,000,000 * 0.69 + 1024 bytes of margin; with 0.7, these would be too many.
    assert rows["--channels 0.31"] == "98.7% of --max-bytes: enough"
    assert rows["--channels 0.3"] == "100.1% of --max-bytes"
    assert rows["the whole network"] == "143.0% of --max-bytes"
    prune, quantize, evaluate = (line.split(" ", 5)[-1] for line in lines if ".py --models" in line)
    where = f"--models-dir {finished_run}"
    assert prune.endswith(f"pruning.py {where} --channels 0.31 --sparsity 0 --seed 3")
    assert quantize.endswith(f"quantization.py {where}")
    gates = "--gate int8 --max-latency-ms 1.9 --max-bytes 700000"
    assert evaluate.endswith(f"evaluation.py {where} {gates}")


def test_printed_commands_are_accepted_by_the_scripts(search):
    import evaluation

    lines, _ = search("--max-activation-kb", "90.5", "--batch-size", "8")
    prune, quantize, evaluate = (line.split(".py ")[1] for line in lines if ".py --models" in line)
    assert pruning.parse(prune.split()).channels == 0.24
    assert pruning.parse(prune.split()).batch_size == 8, "the choice of channels depends on it"
    quantization.parse(quantize.split())
    assert evaluation.parse(evaluate.split()).max_activation_kb == 90.5


def test_whole_network_that_keeps_to_the_limits_is_not_cut(search):
    lines, fault = search("--max-bytes", str(1_000_000 + MARGINS["max_bytes"]))
    assert not fault and list(rows_of(lines)) == ["the whole network"]
    (prune,) = (line for line in lines if "pruning.py" in line)
    assert prune.endswith(" --sparsity 0") and "--channels" not in prune


def test_binding_limit_is_named_in_each_line(search):
    lines, _ = search("--max-bytes", "900000", "--max-activation-kb", "75")
    rows = rows_of(lines)
    assert rows["the whole network"] == "133.3% of --max-activation-kb"
    assert rows["--channels 0.63"] == "99.7% of --max-activation-kb: enough"


def test_impossible_budget_is_one_line_with_the_least_and_what_would_do(search):
    """The largest share leaves 10 %: 64 kB; whole, the small preset needs 92 kB, cut 63.2 kB."""
    lines, fault = search("--max-activation-kb", "63.5", "--max-bytes", "2000000")
    assert fault == (
        "no share of channels keeps to --max-activation-kb 63.5 (the least is 64, with --channels "
        "0.9); enough would be: training.py --preset small, then pruning.py --channels 0.9"
    )
    assert not any("quantization.py" in line for line in lines)
    assert "--preset small --channels 0.9" in rows_of(lines)


def test_preset_that_is_enough_as_it_is_is_not_cut(search, monkeypatch):
    monkeypatch.setattr(budget.Trials, "most", 5)
    lines, fault = search("--max-bytes", "801100")
    assert "(the least is 950000, with --channels 0.05)" in fault
    assert fault.endswith("enough would be: training.py --preset small")
    assert "--preset small --channels 0.05" not in rows_of(lines)


def test_budget_that_nothing_keeps_to(search):
    _, fault = search("--max-bytes", "0", "--max-latency-ms", "0")
    assert "--max-latency-ms 0 (the least is 0.2, with --channels 0.9) and --max-bytes 0" in fault
    assert fault.endswith("no smaller --image-size that can be built would be enough")


def test_busy_machine_is_said(search, monkeypatch):
    monkeypatch.setattr(budget.Meter, "busy", "others took 1.5 of 2 cores")
    lines, _ = search("--max-latency-ms", "1.5")
    assert any("times are unreliable: others took 1.5 of 2 cores" in line for line in lines)


# --- smaller images ---------------------------------------------------------------------------


def test_images_shrink_in_both_directions():
    sizes = [other.size for other in budget.smaller_images({"architecture": "classic"}, (96, 160))]
    assert sizes == [(64, 128), (64, 96), (32, 64), (32, 32)]
    assert budget.smaller_images({"architecture": "classic"}, (32, 32)) == []


def test_network_that_was_trained_elsewhere_has_no_presets_and_is_not_built_smaller():
    """Its record has the settings of training.py, which made none of it."""
    record = {"settings": {"architecture": "compact", "enlarge": 1.25, "preset": "default"}}
    assert budget.training_settings(record) == record["settings"]
    settings = budget.training_settings(record | {"taken": {"sha256": "ab"}})
    assert budget.smaller_images(settings, (128, 128)) == []
    assert list(budget.smaller_presets(settings, (128, 128))) == []


def test_presets_are_those_of_the_compact_network_that_enlarge_less():
    def flags(settings):
        return [other.flag for other in budget.smaller_presets(settings, (32, 32))]

    compact = {"architecture": "compact"}
    assert flags(compact | {"preset": "default", "enlarge": 1.25}) == ["training.py --preset small"]
    assert len(flags(compact | {"preset": "large", "enlarge": 1.75})) == 2
    assert flags(compact | {"preset": "small", "enlarge": 1.0}) == []
    assert flags({"architecture": "classic", "enlarge": 1.25}) == []


# --- bad input and start ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--budget", "does nothing without a limit; leave it out, or add --max-latency-ms,"),
        ("--max-bytes 5", "--max-bytes does nothing without --budget; leave it out, or add"),
        ("--budget --max-bytes -1", "argument --max-bytes: -1 is not a finite number at least 0"),
        ("--budget --max-bytes 1.5", "argument --max-bytes: invalid int value: '1.5'"),
        ("--budget --max-activation-kb nan", "--max-activation-kb: nan is not a finite number"),
        ("--budget --max-latency-ms much", "--max-latency-ms: invalid float value: 'much'"),
        ("--budget --max-bytes 5 --sensitivity", "run pruning.py once for each"),
        ("--budget --max-bytes 5 --channels 0.1", "--channels does nothing with --budget"),
    ],
)
def test_bad_input_is_one_line(words, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        pruning.main(words.split())
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_pruning_without_a_budget_loads_nothing_of_it():
    program = "import sys, pruning; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    later = ("pipeline.checks", "pipeline.quantization", "pipeline.evaluation", "ai_edge_litert")
    assert not [name for name in done.stdout.split() if name.startswith(later)]


# --- real files --------------------------------------------------------------------------------


@pytest.mark.slow
def test_file_of_the_printed_command_has_the_memory_and_bytes_that_were_promised(
    run_copy, capsys, monkeypatch
):
    """Channels are chosen anew by the command, and the weights are fine-tuned.

    The memory depends on the numbers of channels alone. The bytes depend a little on the values:
    equal vectors are stored once, and the contract holds a scale as decimal digits.
    """
    where = ["--models-dir", str(run_copy)]
    whole = artifact_path(run_copy, "int8").stat().st_size
    pruning.main([*where, "--budget", "--max-bytes", str(int(0.6 * whole))])
    lines = capsys.readouterr().out.splitlines()
    (command,) = (line.split(".py ")[1] for line in lines if "pruning.py --models-dir" in line)
    asked = pruning.parse(command.split())
    assert 0.05 < asked.channels < 0.9
    (row,) = (line for line in lines if line.startswith(f"--channels {asked.channels} "))
    promised = row.split(f"--channels {asked.channels} ")[1].replace(",", "").split()

    pruning.main([*command.split(), "--epochs", "2"])
    monkeypatch.setattr(quantization, "VARIANTS", {"int8": VARIANTS["int8"]})
    quantization.main(where)
    content = artifact_path(run_copy, "int8").read_bytes()
    assert memory_plan.plan(content).activation_bytes / 1e3 == pytest.approx(
        float(promised[1]), abs=0.05
    )
    assert abs(len(content) - int(promised[0])) <= MARGINS["max_bytes"]
    assert len(content) <= int(0.6 * whole)
    assert read_record(run_copy, "pruned")["metrics"]["channels_removed"] <= asked.channels


@pytest.mark.slow
def test_untrained_network_needs_what_the_trained_one_does(finished_run, original):
    """Its zero biases were stored once: 1.2 % of the default network's file were missing."""
    images = load_split(finished_run, "train")[0][:4]
    meter = int8_needs.Meter(finished_run, original, images)
    with small_network():
        function = networks.choose("compact", "default", 1.25)
        model = budget.untrained(budget.Other("", function, (SIZE, SIZE)), len(CLASSES), 0.0)
    needs = meter.needs(model, budget.random_images(model))
    assert needs.max_activation_kb == meter.whole_needs.max_activation_kb
    assert abs(needs.max_bytes - meter.whole_needs.max_bytes) <= MARGINS["max_bytes"]


@pytest.mark.slow
def test_impossible_budget_builds_the_networks_that_it_names(run_copy, capsys):
    done = run_script("pruning.py", "--models-dir", run_copy, "--budget", "--max-activation-kb", 1)
    assert done.returncode == 2
    (fault,) = done.stderr.splitlines()
    assert "no share of channels keeps to --max-activation-kb 1 (the least is" in fault


def test_times_of_a_busy_machine_are_taken_again(monkeypatch):
    """At most three times; if it stays busy, those count at which the whole file was fastest."""

    def times(repeats):
        left = iter(repeats)
        monkeypatch.setattr(int8_needs, "in_own_process", lambda *_: next(left))
        return int8_needs.timed({}), list(left)

    def measured(milliseconds, busy):
        return {"whole": {"quick": milliseconds, "busy": busy}}

    slow, fast, slower = (measured(number, "busy") for number in (3.0, 2.0, 4.0))
    idle = measured(2.5, None)
    assert times([slow, idle, fast]) == (idle, [fast])
    assert times([slow, fast, slower, idle]) == (fast, [idle])


def test_times_are_those_of_the_files_given(finished_run):
    import numpy as np

    content = artifact_path(finished_run, "int8").read_bytes()
    image = np.zeros((32, 32, 3), np.uint8)
    times = int8_needs.times_in_turns({"a": (content, image), "b": (content, image)})
    assert set(times) == {"a", "b"}
    assert 0 < times["a"]["quick"] <= times["a"]["median"] <= times["a"]["p90"]
    assert 0.5 < times["a"]["quick"] / times["b"]["quick"] < 2, "they are the same file"
