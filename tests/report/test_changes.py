"""The comparison in words: better, worse or within the spread; in 100 columns; quiet if nothing."""

import copy

import pytest

from pipeline.report import changes, page

CAUSES = {
    "settings": [
        ["pruning.py", "sparsity", 0.6, 0.8],
        ["quantization.py", "max_drop", None, 0.01],
        ["quantization.py", "qat", False, True],
    ],
    "code": {"edited": ["pipeline/pruning/magnitude.py"], "new": [], "gone": []},
    "packages": [["numpy", "2", "3"]],
    "data": False,
}
ROW = {
    "name": "int8",
    "bytes": [1_256_327, 1_020_000],
    "activation_kb": [276.0, 276.0],
    "validation": [None, None],
    "mean_iou": [0.8098, 0.8013],
    "interval": [-0.0101, -0.0069],
    "iou": {"pet": [0.8, 0.79], "background": [0.9, 0.9], "border": [0.7, 0.71]},
    "iou_intervals": {"pet": [-0.02, -0.001], "background": [-0.1, 0.1], "border": [0.001, 0.02]},
}


@pytest.fixture
def changed():
    """A comparison of two models, of which one changed."""
    about = {"against": None, "same_pictures": True, "same": ["original"], "new": [], "gone": []}
    return about | copy.deepcopy(CAUSES) | {"models": [copy.deepcopy(ROW)], "photos": None}


@pytest.fixture
def quiet(changed):
    """A comparison in which nothing differs."""
    nothing = {"settings": [], "packages": [], "models": [], "same": ["original", "int8"]}
    return changed | nothing | {"code": {"edited": [], "new": [], "gone": []}}


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ([0.001, 0.002], "better"),
        ([-0.002, -0.001], "worse"),
        ([-0.001, 0.002], "within the spread"),
        ([0.0, 0.002], "within the spread"),
        ([-0.002, -0.00004], "within the spread"),  # its end is printed as 0.0000
        ([-0.00002, 0.00001], "within the spread"),
        ([0.0, 0.0], "the same"),
        (None, "other pictures"),
    ],
)
def test_word_is_what_the_interval_allows(interval, expected):
    assert changes.word(interval) == expected


def test_code_that_is_not_known_is_not_called_the_same(quiet):
    """An evaluation of an older version holds no code; "settings, code and data are the same"."""
    first, second = changes.causes(quiet | {"code_known": False, "same": []})
    assert first == "settings and data are the same"
    assert second.startswith("the code of then is not known")
    (line,) = changes.causes(quiet | {"same": []})
    assert line == "settings, code and data are the same"


def test_terminal_says_what_was_changed_and_what_came_of_it(changed, numbers):
    numbers["dataset"]["test_pictures"] = "ef"
    numbers["test_reads"] = {"ef": 4, "other": 9}
    text = changes.terminal(changed, numbers)
    lines = text.splitlines()
    assert lines[0] == "What changed since the evaluation before"
    assert "  pruning --sparsity 0.6 \N{RIGHTWARDS ARROW} 0.8" in lines
    assert "  quantization --max-drop none \N{RIGHTWARDS ARROW} 0.01" in lines
    assert "  quantization --qat off \N{RIGHTWARDS ARROW} on" in lines
    assert "  edited: pipeline/pruning/magnitude.py" in lines
    assert "  numpy 2 \N{RIGHTWARDS ARROW} 3" in lines
    assert "  the same file as then: original" in lines
    (row,) = (line.split() for line in lines if line.startswith("int8"))
    assert row == [
        "int8",
        "-236,327",
        "same",
        "-",
        "0.8013",
        "-0.0085",
        "-0.0101",
        "to",
        "-0.0069",
        "worse",
    ]
    assert "pet -0.0100 (-0.0200 to -0.0010); border +0.0100 (+0.0010 to +0.0200)" in text
    assert "over the same 3,669 test pictures" in text
    assert "read at least 4 times" in text
    assert "Times are not compared" in text and "--against models_before" in text
    assert "--seed alone moves mean IoU by up to 0.0022" in text


def test_terminal_stays_within_its_width(changed, numbers):
    changed["models"] = [
        changed["models"][0] | {"name": "pruned_float32", "validation": [0.8, 0.7]}
    ]
    changed["models"][0]["interval"] = [-0.0101, 0.0069]
    changed["models"][0]["bytes"] = [104_928_752, 3_928_752]
    changed["code"]["edited"] = [f"pipeline/training/long_name_{k}.py" for k in range(9)]
    names = [f"class_with_a_long_name_{k}" for k in range(12)]
    changed["models"][0]["iou"] = {name: [0.1, 0.2] for name in names}
    changed["models"][0]["iou_intervals"] = {name: [0.1, 0.2] for name in names}
    text = changes.terminal(changed, numbers)
    assert max(map(len, text.splitlines())) <= changes.WIDTH == 100
    assert "and 4 more" in text and "7 more classes in the report" in text


def test_nothing_is_one_line(quiet, numbers):
    assert changes.terminal(quiet, numbers) == "What changed since the evaluation before: nothing."
    assert changes.terminal(quiet | {"against": "before"}, numbers) == (
        "What changed against before: nothing."
    )


@pytest.mark.parametrize("what", ["settings", "code", "packages", "data", "gone", "models"])
def test_anything_that_differs_is_not_quiet(changed, quiet, numbers, what):
    value = {"data": True, "gone": ["float16"]}.get(what, changed[what])
    assert "\n" in changes.terminal(quiet | {what: value}, numbers)


def test_other_pictures_are_said_and_have_no_interval(changed, numbers):
    changed |= {"data": True, "same_pictures": False}
    changed["models"][0] |= {"interval": None, "iou_intervals": None}
    text = changes.terminal(changed, numbers)
    assert "another data set, with other test pictures" in text
    assert "there is no interval" in text and "bootstrap" not in text
    (row,) = (line for line in text.splitlines() if line.startswith("int8"))
    assert row.endswith(" other pictures") and " to " not in row


def test_times_stand_beside_each_other(changed, numbers):
    times = [{"median": 3.0, "p90": 3.5, "busy": None}, {"median": 2.0, "p90": 2.5, "busy": None}]
    changed["models"][0]["latency_ms"] = times
    text = changes.terminal(changed | {"against": "before"}, numbers)
    assert "2.00 ms (p90 2.50), there 3.00 ms (p90 3.50): 1.50x faster.\n" in text
    assert "Times are not compared" not in text and "in turns, in one process" in text
    times[1]["busy"] = "others took 2.0 of 2 cores"
    assert "THE MACHINE WAS BUSY" in changes.terminal(changed | {"against": "before"}, numbers)
    del changed["models"][0]["latency_ms"]
    text = changes.terminal(changed | {"against": "x", "not_timed": "another size"}, numbers)
    assert "Times could not be compared: another size" in text


# --- the report -----------------------------------------------------------------------------


@pytest.fixture
def undrawn(monkeypatch):
    """Leaves the charts empty."""
    empty = {"picture": "", "caption": "", "name": ""}
    monkeypatch.setattr(page, "chart", lambda *_, **__: empty)


def test_report_has_the_comparison_as_its_second_section(changed, numbers, tmp_path, undrawn):
    photos = {
        "what": "test photo",
        "colours": [("pet", (1, 2, 3))],
        "head": ["test photo", "photo, ground truth", "int8"],
        "rows": [{"rank": "-0.210", "called": "cat.jpg", "cells": []}],
    }
    html = page.page(numbers, tmp_path, None, changed, photos)
    heads = [part.partition("</h2>")[0] for part in html.split("<h2>")[1:]]
    assert heads[1] == "What changed since the evaluation before"
    section = html.split("<h2>")[2]
    assert "<li>pruning --sparsity 0.6 \N{RIGHTWARDS ARROW} 0.8</li>" in section
    assert "<td>worse</td>" in section and "-0.0101 to -0.0069" in section
    rows = [row.split("<td>")[1:] for row in section.split("<tr>") if "<td>border</td>" in row]
    assert [cell.partition("<")[0] for cell in rows[0]] == [
        *("border", "0.7100", "+0.0100", "+0.0010 to +0.0200", "better")
    ]
    assert "cat" in section and "-0.210" in section and "int8 model sees them now" in section


def test_report_without_a_comparison_has_no_section(numbers, tmp_path, undrawn):
    assert "What changed" not in page.page(numbers, tmp_path)


def test_report_escapes_names(changed, numbers, tmp_path, undrawn):
    evil = "<script>alert(1)</script>"
    changed["against"], changed["code"]["edited"] = evil, [evil]
    changed["settings"] = [["training.py", "names", evil, evil + evil]]
    changed["models"][0]["iou"][evil] = [0.1, 0.2]
    html = page.page(numbers, tmp_path, None, changed)
    assert "<script" not in html and html.count("&lt;script&gt;") >= 5


def test_file_that_predicts_the_same_is_one_line(changed, numbers, tmp_path, undrawn):
    """As with other bytes in its contract."""
    (row,) = changed["models"]
    row |= {"interval": [0.0, 0.0], "mean_iou": [0.8, 0.8]}
    row["iou"] = {name: [0.7, 0.7] for name in row["iou"]}
    lines = changes.terminal(changed, numbers).splitlines()
    (index,) = (k for k, line in enumerate(lines) if line.startswith("int8"))
    assert lines[index].endswith("the same") and "IoU: " not in lines[index + 1]
    html = page.page(numbers, tmp_path, comparison=changed)
    assert "changes of each model" in html and "changes of the IoU of each class" not in html
