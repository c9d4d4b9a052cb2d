"""The numbers in words: they speak plainly of speed and of classes, and recommend nothing bad."""

import pytest

from pipeline.base.artifacts import MODELS
from pipeline.report import findings, page, tables


def row_of(numbers, name):
    return next(row for row in numbers["models"] if row["name"] == name)


def timed(milliseconds):
    return {"latency_ms": {"median": milliseconds}}


def ship(rows):
    return findings.to_ship(rows, 0.2, "calling every pixel background (0.200)")


@pytest.mark.parametrize(
    ("milliseconds", "said"),
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
def test_speed_is_said_with_a_figure_above_one(milliseconds, said):
    assert findings.speed(timed(milliseconds), timed(1.0)) == said


def test_speed_in_words(numbers):
    for name, milliseconds in (("pruned_float32", 4.0), ("int8", 2.0), ("dynamic", 6.0)):
        row_of(numbers, name)["latency_ms"]["median"] = milliseconds
    row_of(numbers, "float16")["latency_ms"]["median"] = 4.02
    said = {text.split(":")[0]: text for text in findings.sentences(numbers)}
    assert "file, 2.00 times faster, drop of mean IoU against it +0.0000." in said["int8"]
    assert "file, 1.50 times slower, drop of mean IoU" in said["dynamic"]
    assert "file, as fast, drop of mean IoU" in said["float16"]


def test_what_pruning_did(numbers):
    before, after = row_of(numbers, "float32"), row_of(numbers, "pruned_float32")
    after |= {"bytes": before["bytes"], "gzip_bytes": before["gzip_bytes"] // 2}
    text = findings.about_pruning(before, after)
    assert "set 60% of the weights to zero" in text and "2.00 times smaller after gzip" in text
    whole = after | {"nonzero_share": 0.9999}
    assert findings.about_pruning(before, whole).startswith("Nothing was pruned: ")
    after["bytes"] = before["bytes"] // 2
    assert findings.about_pruning(before, after).startswith("Pruning removed channels: ")
    assert "2.00 times smaller, " in findings.about_pruning(before, after)


@pytest.mark.parametrize(
    ("pruned", "int8", "said"),
    [
        (0.0175, 0.0185, "+0.0175 of mean IoU, and int8 +0.0010 on top of it."),
        (0.0175, 0.0160, "+0.0175 of mean IoU, and int8 -0.0015 on top of it."),
        (0.0175, 0.0300, None),  # int8 costs as much
        (0.0100, 0.0120, None),
        (0.0110, 0.0090, None),  # int8 can be shipped
    ],
)
def test_pruning_is_blamed_only_where_it_is_what_costs(numbers, pruned, int8, said):
    """Else a user ships float32 for a loss that --sparsity 0 would have spared the int8 file."""
    rows = {row["name"]: row for row in numbers["models"]}
    for name, drop in (("pruned_float32", pruned), ("int8", int8)):
        rows[name] |= {"mean_iou_drop": drop, "mean_iou": 0.7 - drop}
    texts = [text for text in findings.sentences(numbers) if text.startswith("It is pruning ")]
    assert len(texts) == bool(said)
    if said:
        assert said in texts[0]
        rows["pruned_float32"]["bytes"] = rows["float32"]["bytes"]
        assert "a lower --sparsity (0: none)," in findings.about_cost_of_pruning(rows)[0]
        rows["pruned_float32"]["bytes"] = rows["float32"]["bytes"] // 2
        assert "a lower --channels" in findings.about_cost_of_pruning(rows)[0]


def test_to_ship_is_the_fastest_file_that_loses_little(numbers):
    rows = numbers["models"]
    row_of(numbers, "original")["latency_ms"]["median"] = 0.1  # no file that an app can load
    row_of(numbers, "dynamic").update(timed(0.2), mean_iou_drop=0.011)
    row_of(numbers, "float16").update(timed(0.3), mean_iou_drop=0.010)
    assert "To ship: float16_quantized_model.tflite," in ship(rows)


def test_nothing_is_recommended_that_is_no_better_than_background_everywhere(numbers):
    rows = numbers["models"]
    for row in rows:
        row |= {"mean_iou": 0.2, "mean_iou_drop": 0.0}  # nothing lost, because nothing was there
    assert ship(rows).startswith("None to ship: ")
    said = findings.sentences(numbers)
    assert any("no more than calling every pixel background (0.200)." in text for text in said)
    every = ", ".join(MODELS)
    assert (
        f"Look out, no more mean IoU than calling every pixel background (0.200): {every}." in said
    )
    row_of(numbers, "float32")["mean_iou"] = 0.21
    assert ship(rows).startswith("To ship: float32_model.tflite,")
    assert any("To ship: float32_model.tflite" in text for text in findings.sentences(numbers))


def test_nothing_is_recommended_that_loses_much(numbers):
    for row in numbers["models"]:
        row["mean_iou_drop"] = 0.02
    text = ship(numbers["models"])
    assert text.startswith("None to ship: ") and "loses more than 0.01 mean IoU" in text


def test_what_is_lost_has_a_plus_and_there_is_no_negative_zero():
    assert findings.lost(0.01234) == "+0.0123"
    assert findings.lost(-0.01236) == "-0.0124"
    assert findings.lost(-0.00001) == "+0.0000"


def test_drop_has_one_sign_wherever_it_is_shown(numbers):
    """int8 lost 0.03 of mean IoU and of every class, float16 gained 0.01: in all texts alike."""
    for row in numbers["models"]:
        drop = {"int8": 0.03, "float16": -0.01}.get(row["name"], 0.0)
        row |= {"mean_iou": 0.76 - drop, "mean_iou_drop": drop}
        row["iou_drop"] = dict.fromkeys(row["iou"], drop)
    said = {text.split(":")[0]: text for text in findings.sentences(numbers)}
    assert said["int8"].endswith("drop of mean IoU against it +0.0300.")
    assert said["float16"].endswith("drop of mean IoU against it -0.0100.")
    assert said["Look out, IoU lost on the class pet"].endswith(": int8 (+0.0300).")
    shown = [tables.terminal_table(numbers), tables.readme_table(numbers)]
    for text in shown:
        lines = [line.strip("| ") for line in text.splitlines()[: 2 + len(MODELS)] if line]
        rows = {line.split()[0]: line for line in lines}
        assert rows["int8"].endswith("+0.0300") and rows["float16"].endswith("-0.0100")
    assert "(+: lost)" in shown[1].splitlines()[0]
    head, rows = page.numbers(numbers).values()
    cells = {row[0]: row[head.index("drop")] for row in rows}
    assert (cells["int8"], cells["float16"]) == ("+0.0300", "-0.0100")
    assert findings.DROP in " ".join(shown[0].split())


# --- classes --------------------------------------------------------------------------------


def test_class_that_is_nowhere_is_said(numbers):
    for row in numbers["models"]:
        row["iou"]["border"] = row["iou_drop"]["border"] = None
    said = findings.sentences(numbers)
    assert any("counts for nothing in the mean: border." in text for text in said)
    assert not any("IoU lost" in text for text in said)


def test_class_that_was_not_learned_is_said_whatever_was_lost(numbers):
    """A first model that finds no cars is not to be shipped without a word."""
    for row in numbers["models"]:
        row["iou"]["border"], row["iou_drop"]["border"] = 0.07, 0.0
    said = findings.about_classes(numbers["models"])
    (text,) = (text for text in said if "hardly learned border (0.07)" in text)
    assert "--epochs" in text and "--class-weights balanced" in text


def test_of_many_classes_that_lost_the_worst_are_named(numbers):
    for row in numbers["models"]:
        row["iou"] = {f"c{k}": 0.5 for k in range(150)}
        row["iou_drop"] = {f"c{k}": 0.001 * k for k in range(150)}
    said = findings.about_classes(numbers["models"])
    assert len(said) == 6 and said[0].startswith("Look out, IoU lost on the class c149: original")
    assert said[-1] == "And on 124 more classes: see the report."
