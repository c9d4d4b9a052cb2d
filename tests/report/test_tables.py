"""Tables: they fit a terminal, and show every number and class that they should."""

import csv
import re

import pytest

from pipeline.base.artifacts import MODELS
from pipeline.base.files import write_csv
from pipeline.report import tables

STALE = "models/int8_quantized_model.tflite was made from another pruned_model.h5; " * 2


def row_of(numbers, name):
    return next(row for row in numbers["models"] if row["name"] == name)


# --- the terminal ---------------------------------------------------------------------------


def test_printed_table_fits_a_terminal(numbers):
    row_of(numbers, "int8")["stale"] = STALE
    numbers["models"][0] |= {"bytes": 99_999_999, "gzip_bytes": 99_999_999, "mean_iou_drop": -0.7}
    numbers["models"][0]["latency_ms"] = {"median": 1234.56, "p90": 2345.67}
    text = tables.terminal_table(numbers)
    assert max(map(len, text.splitlines())) <= 80
    assert all(f"\n{name} " in text for name in MODELS)
    assert "stale: models/int8_quantized_model.tflite was made" in text
    assert "Warning: IoU drop on the class border: " in text
    assert "int8 (+0.0300)" in " ".join(text.split())
    assert "SYNTHETIC" not in text
    numbers["dataset"]["synthetic"] = True
    assert "SYNTHETIC DATA" in tables.terminal_table(numbers)


@pytest.mark.parametrize(
    ("megabytes", "milliseconds", "float32_milliseconds"),
    [(99.99, 1234.56, 80.0), (4.9, 123.45, 1.2), (123.4, 23456.7, 2.0)],
    ids=["large", "a hundred times slower", "very large"],
)
def test_columns_stay_apart_for_numbers_of_any_size(
    numbers, megabytes, milliseconds, float32_milliseconds
):
    for row in numbers["models"]:
        row |= {"bytes": 1e6 * megabytes, "gzip_bytes": 1e6 * megabytes, "mean_iou_drop": -0.7654}
        row["latency_ms"] = {"median": milliseconds, "p90": milliseconds}
    row_of(numbers, "float32")["latency_ms"]["median"] = float32_milliseconds
    for line in tables.terminal_table(numbers).splitlines()[1 : 1 + len(MODELS)]:
        assert len(line) <= 80
        cells = line.replace(" slower", "-slower").split()
        assert len(cells) == len(tables.COLUMNS)
        assert cells[6] == "same" if line.startswith("float32 ") else "-slower" in cells[6]


def test_one_entry_adds_a_column(numbers, monkeypatch):
    entry = ("weights", 12, lambda row, _: f"{row['parameters']:,}")
    monkeypatch.setattr(tables, "COLUMNS", [*tables.COLUMNS[:3], entry])
    lines = tables.terminal_table(numbers).splitlines()
    assert lines[0].endswith("weights")
    assert all(line.endswith("   1,000,000") for line in lines[1 : 1 + len(MODELS)])


def test_no_number_below_one_is_called_faster(numbers):
    """However slow a quantised file is, no text says "0.58 times faster"."""
    speeds = []
    for factor in (0.125, 0.5, 0.9, 0.99, 1.0, 1.01, 1.1, 2.0, 8.0):
        for name in ("pruned_float32", "int8", "dynamic", "float16"):
            row_of(numbers, name)["latency_ms"]["median"] = factor * 4.0  # float32 takes 4 ms
        for text in (tables.terminal_table(numbers), tables.readme_table(numbers)):
            speeds += re.findall(r"([\d.]+)(?:x| times)\s+(faster|slower)", text)
    assert {word for _, word in speeds} == {"faster", "slower"}
    assert min(float(ratio) for ratio, _ in speeds) > 1


# --- the README and a spreadsheet -----------------------------------------------------------


def test_readme_table_is_markdown(numbers):
    lines = tables.readme_table(numbers).splitlines()
    assert len(lines) == 2 + len(MODELS)
    assert {line.count("|") for line in lines} == {9}
    assert "| against float32 |" in lines[0]
    float32, int8 = (line for line in lines if line.startswith(("| float32 |", "| int8 |")))
    assert "| same |" in float32
    assert "| 1.75 times slower |" in int8  # 7 ms against 4 ms
    assert "| pet / background / border IoU |" in lines[0] and "| 0.850 / 0.920 / 0.510 |" in int8


def test_readme_table_of_many_classes_shows_the_worst(numbers):
    for row in numbers["models"]:
        row["iou"] = {f"c{k}": 0.9 - 0.1 * k for k in range(8)} | {"nowhere": None}
    lines = tables.readme_table(numbers).splitlines()
    assert "| c3 / c4 / c5 / c6 / c7 IoU |" in lines[0]
    assert "| 0.600 / 0.500 / 0.400 / 0.300 / 0.200 |" in lines[2]


def test_spreadsheet_has_a_flat_row_per_model(numbers, tmp_path):
    write_csv(tmp_path / "evaluation.csv", tables.flat_rows(numbers))
    with (tmp_path / "evaluation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == list(MODELS)
    assert rows[0]["latency_ms_median"] == "2.0" and rows[0]["iou_border"] == "0.51"
    assert (rows[0]["mean_iou_low"], rows[0]["mean_iou_high"]) == ("0.7512", "0.7688")
    assert not any("{" in value or "[" in value for row in rows for value in row.values())
