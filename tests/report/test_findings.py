"""Findings: their wording of speed, pruning and classes, and which file they recommend."""

import dataclasses

import pytest

from pipeline.base.artifacts import MODELS
from pipeline.report import findings, page, recommendation, tables
from pipeline.variants import VARIANTS

CONSTANT = "calling every pixel background (mean IoU 0.200)"


def row_of(numbers, name):
    return next(row for row in numbers["models"] if row["name"] == name)


def timed(milliseconds):
    return {"latency_ms": {"median": milliseconds}}


def recommended(rows):
    return recommendation.recommended_file(rows, 0.2, CONSTANT, [])


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (1.72, "1.72x slower"),
        (1 / 1.93, "1.93x faster"),
        (1.0, "same"),
        (1.01, "same"),
        (0.99, "same"),
        (1.03, "1.03x slower"),
        (0.97, "1.03x faster"),
    ],
)
def test_speed_is_told_with_a_number_above_one(milliseconds, text):
    assert findings.relative_speed(timed(milliseconds), timed(1.0)) == text


def test_speed_in_the_finding_on_a_model(numbers):
    for name, milliseconds in (("pruned_float32", 4.0), ("int8", 2.0), ("dynamic", 6.0)):
        row_of(numbers, name)["latency_ms"]["median"] = milliseconds
    row_of(numbers, "float16")["latency_ms"]["median"] = 4.02
    by_model = {text.split(":")[0]: text for text in findings.findings(numbers)}
    assert "file, 2.00 times faster, drop of mean IoU against it +0.0000." in by_model["int8"]
    assert "file, 1.50 times slower, drop of mean IoU" in by_model["dynamic"]
    assert "file, equally fast, drop of mean IoU" in by_model["float16"]


def test_file_is_compared_with_the_float32_file_of_its_own_source(numbers, monkeypatch):
    """A float16 file of the original lost what pruning cost, by the report."""
    changed = dataclasses.replace(VARIANTS["float16"], source="original")
    monkeypatch.setitem(VARIANTS, "float16", changed)
    row_of(numbers, "float32").update(timed(4.0), mean_iou=0.8, bytes=4_000_000)
    row_of(numbers, "pruned_float32").update(timed(1.0), mean_iou=0.7, bytes=1_000_000)
    row_of(numbers, "float16").update(timed(2.0), mean_iou=0.79, bytes=2_000_000)
    (text,) = (line for line in findings.findings(numbers) if line.startswith("float16: "))
    assert text == (
        "float16: 2.00 times smaller than the original float32 file, 2.00 times faster, "
        "drop of mean IoU against it +0.0100."
    )


def test_finding_on_zeros_and_on_removed_channels(numbers):
    before, after = row_of(numbers, "float32"), row_of(numbers, "pruned_float32")
    after |= {"bytes": before["bytes"], "gzip_bytes": before["gzip_bytes"] // 2}
    text = findings.finding_on_pruning(before, after)
    assert "set 60% of all weights to zero" in text and "2.00 times smaller after gzip" in text
    unpruned = after | {"nonzero_share": 0.9999}
    assert findings.finding_on_pruning(before, unpruned).startswith("Nothing was pruned: ")
    after["bytes"] = before["bytes"] // 2
    assert findings.finding_on_pruning(before, after).startswith("Pruning removed channels: ")
    assert "2.00 times smaller, " in findings.finding_on_pruning(before, after)


@pytest.mark.parametrize(
    ("pruned", "int8", "text"),
    [
        (0.0175, 0.0185, "drops mean IoU by +0.0175, and int8 by another +0.0010."),
        (0.0175, 0.0160, "drops mean IoU by +0.0175, and int8 by another -0.0015."),
        (0.0175, 0.0300, None),  # int8 alone loses too much
        (0.0100, 0.0120, None),
        (0.0110, 0.0090, None),  # int8 loses an acceptable amount
    ],
)
def test_less_pruning_is_advised_only_where_pruning_causes_the_loss(numbers, pruned, int8, text):
    """Without the advice, a user ships float32 although int8 with --sparsity 0 would do."""
    rows = {row["name"]: row for row in numbers["models"]}
    for name, drop in (("pruned_float32", pruned), ("int8", int8)):
        rows[name] |= {"mean_iou_drop": drop, "mean_iou": 0.7 - drop}
    advice = [line for line in findings.findings(numbers) if line.startswith("Pruning alone ")]
    assert len(advice) == bool(text)
    if text:
        assert text in advice[0]
        rows["pruned_float32"]["bytes"] = rows["float32"]["bytes"]
        assert "a lower --sparsity (0: no zeros)," in findings.findings_on_cost_of_pruning(rows)[0]
        rows["pruned_float32"]["bytes"] = rows["float32"]["bytes"] // 2
        assert "a lower --channels" in findings.findings_on_cost_of_pruning(rows)[0]


def test_less_pruning_is_not_advised_by_an_int8_file_of_the_original(numbers, monkeypatch):
    rows = {row["name"]: row for row in numbers["models"]}
    for name in ("pruned_float32", "int8"):
        rows[name] |= {"mean_iou_drop": 0.0175, "mean_iou": 0.6825}
    assert findings.findings_on_cost_of_pruning(rows)
    changed = dataclasses.replace(VARIANTS["int8"], source="original")
    monkeypatch.setitem(VARIANTS, "int8", changed)
    assert findings.findings_on_cost_of_pruning(rows) == []


def test_fastest_file_that_loses_little_is_recommended(numbers):
    rows = numbers["models"]
    row_of(numbers, "original")["latency_ms"]["median"] = 0.1  # a Keras model, no .tflite file
    row_of(numbers, "dynamic").update(timed(0.2), mean_iou_drop=0.011)
    row_of(numbers, "float16").update(timed(0.3), mean_iou_drop=0.010)
    assert "Recommended file: float16_quantized_model.tflite," in recommended(rows)


def test_stale_file_is_not_recommended_and_not_compared(numbers):
    """It comes from another network: its numbers say nothing of this one."""
    fastest = row_of(numbers, "int8")
    fastest["latency_ms"]["median"] = 0.1
    assert f"file: {fastest['file']}," in recommended(numbers["models"])
    fastest["stale"] = "models/int8 was made from another pruned_model.h5; make it anew with: x"
    texts = findings.findings(numbers)
    assert not any(fastest["file"] in text for text in texts)
    about = [text for text in texts if "int8" in text and "IoU drop on the class" not in text]
    assert about == [
        "STALE: int8. Their numbers do not belong to this original, and none of them is "
        f"recommended: {fastest['stale']}"
    ]
    for row in numbers["models"]:
        row["stale"] = "made from another data set"
    assert any(text.startswith("Recommended file: none.") for text in findings.findings(numbers))


def test_no_file_is_recommended_that_is_no_better_than_a_constant_class(numbers):
    rows = numbers["models"]
    for row in rows:
        row |= {"mean_iou": 0.2, "mean_iou_drop": 0.0}  # the original is as bad
    assert recommended(rows).startswith("Recommended file: none.")
    texts = findings.findings(numbers)
    assert any(f"or is no better than {CONSTANT}." in text for text in texts)
    assert f"Warning: no better than {CONSTANT}: {', '.join(MODELS)}." in texts
    row_of(numbers, "float32")["mean_iou"] = 0.21
    assert recommended(rows).startswith("Recommended file: float32_model.tflite,")
    assert recommended(rows) in findings.findings(numbers)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda numbers: row_of(numbers, "float32")["latency_ms"].update(busy="others"),
            "the machine was busy while latency was measured",
        ),
        (lambda numbers: numbers["dataset"].update(examples=29), "29 test pictures are too few"),
        (
            lambda numbers: numbers["models"][0]["iou"].update(border=0.04, pet=None),
            "the original has not learned border (IoU below 0.05)",
        ),
    ],
)
def test_no_file_is_recommended_where_the_numbers_cannot_tell(numbers, change, reason):
    (usual,) = (text for text in findings.findings(numbers) if "Recommended" in text)
    file = usual.split(": ")[1].split(",")[0]
    assert file.endswith(".tflite")
    numbers["models"][0]["latency_ms"] = {**numbers["models"][0]["latency_ms"], "busy": "others"}
    assert usual in findings.findings(numbers)  # a Keras model is not shipped
    change(numbers)
    (text,) = (text for text in findings.findings(numbers) if "Recommended" in text)
    assert text.startswith(f"Recommended file: none yet, as {reason}")
    assert text.endswith(f"By these numbers: {file}.")


def test_no_file_is_recommended_that_loses_much(numbers):
    for row in numbers["models"]:
        row["mean_iou_drop"] = 0.02
    text = recommended(numbers["models"])
    assert text.startswith("Recommended file: none.") and "more than 0.01 of mean IoU" in text


def test_loss_has_a_plus_and_there_is_no_negative_zero():
    assert findings.format_drop(0.01234) == "+0.0123"
    assert findings.format_drop(-0.01236) == "-0.0124"
    assert findings.format_drop(-0.00001) == "+0.0000"


def test_drop_has_one_sign_wherever_it_is_shown(numbers):
    """int8 lost 0.03 of mean IoU and of every class, float16 gained 0.01: the same in all texts."""
    for row in numbers["models"]:
        drop = {"int8": 0.03, "float16": -0.01}.get(row["name"], 0.0)
        row |= {"mean_iou": 0.76 - drop, "mean_iou_drop": drop}
        row["iou_drop"] = dict.fromkeys(row["iou"], drop)
    texts = findings.findings(numbers)
    by_model = {text.split(":")[0]: text for text in texts}
    assert by_model["int8"].endswith("drop of mean IoU against it +0.0300.")
    assert by_model["float16"].endswith("drop of mean IoU against it -0.0100.")
    assert "Warning: IoU drop on the class pet: int8 (+0.0300)." in texts
    terminal, readme = tables.terminal_table(numbers), tables.readme_table(numbers)
    for text in (terminal, readme):
        lines = [line.strip("| ") for line in text.splitlines()[: 2 + len(MODELS)] if line]
        rows = {line.split()[0]: line for line in lines}
        assert rows["int8"].endswith("+0.0300") and rows["float16"].endswith("-0.0100")
    assert "(+: lost)" in readme.splitlines()[0]
    head, rows = page.numbers(numbers).values()
    cells = {row[0]: row[head.index("drop")] for row in rows}
    assert (cells["int8"], cells["float16"]) == ("+0.0300", "-0.0100")
    assert findings.DROP_NOTE in " ".join(terminal.split())


@pytest.mark.parametrize(
    ("instruction_sets", "milliseconds", "text"),
    [
        (
            ["AVX2"],
            1.16,
            "int8 is 1.16 times slower than the pruned float32 file here: this processor has no "
            "VNNI, for which LiteRT's int8 kernels are made; it saves size and memory.",
        ),
        (
            ["AVX2", "AVX-512", "AVX-512 VNNI"],
            0.5,
            "2.00 times faster than the pruned float32 file here, on a processor with AVX-512 VNNI",
        ),
        (
            ["NEON"],
            1.0,
            "as fast as the pruned float32 file here: this processor has no dot products",
        ),
        (["NEON", "NEON dotprod"], 0.5, "here, on a processor with NEON dotprod."),
    ],
)
def test_speed_of_int8_is_told_with_the_instruction_sets(
    numbers, instruction_sets, milliseconds, text
):
    """On a processor without VNNI the report advised int8 for its speed."""
    row_of(numbers, "pruned_float32").update(timed(1.0))
    row_of(numbers, "int8").update(timed(milliseconds))
    numbers["environment"]["instruction_sets"] = instruction_sets
    assert sum(text in line for line in findings.findings(numbers)) == 1


@pytest.mark.parametrize("unknown", [None, []])
def test_unknown_instruction_sets_are_no_finding(numbers, unknown):
    numbers["environment"]["instruction_sets"] = unknown
    assert not any("this processor" in line for line in findings.findings(numbers))


# --- classes --------------------------------------------------------------------------------


def test_class_without_iou_is_named(numbers):
    for row in numbers["models"]:
        row["iou"]["border"] = row["iou_drop"]["border"] = None
    texts = findings.findings(numbers)
    (absent,) = (text for text in texts if text.startswith("Left out of mean IoU, "))
    assert absent.endswith(": border.")
    assert not any("IoU drop on" in text for text in texts)


def test_class_of_low_iou_is_named_even_if_no_model_loses_any(numbers):
    """Else a first model that finds no cars would be recommended without a warning."""
    for row in numbers["models"]:
        row["iou"]["border"], row["iou_drop"]["border"] = 0.07, 0.0
    texts = findings.findings_on_classes(numbers["models"])
    (text,) = (text for text in texts if "low IoU of the original on border (0.07)" in text)
    assert "--epochs" in text and "--class-weights balanced" in text


def test_worst_of_many_classes_that_lost_are_named(numbers):
    for row in numbers["models"]:
        row["iou"] = {f"c{k}": 0.5 for k in range(150)}
        row["iou_drop"] = {f"c{k}": 0.001 * k for k in range(150)}
    texts = findings.findings_on_classes(numbers["models"])
    assert len(texts) == 6
    assert texts[0].startswith("Warning: IoU drop on the class c149: original")
    assert texts[-1] == "IoU drops on 124 more classes: see the report."
