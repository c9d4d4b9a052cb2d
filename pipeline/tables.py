"""The numbers of an evaluation as text: for the terminal, the README, a spreadsheet, in words.

Columns of the terminal's table are in COLUMNS, of the README's in README_COLUMNS: one entry each.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

from pipeline.dataset import CLASSES
from pipeline.variants import quantised

WIDTH = 80  # columns of the terminal
SAME = 0.02  # a ratio of times so close to 1 is no difference
CLASS_COLLAPSE = 0.02  # a class that loses more IoU than this is called out
BEARABLE_DROP = 0.01  # of mean IoU, for the model that is recommended

Row = dict[str, Any]  # a model of evaluation.json


def signed(value: float) -> str:
    """A difference of mean IoU to four places, without a negative zero."""
    return f"{round(value, 4) + 0.0:+.4f}"


def speed(row: Row, baseline: Row, unit: str = "x") -> str:
    """How a model's latency compares with another's: "1.93x faster", "1.72x slower", "same"."""
    ratio = baseline["latency_ms"]["median"] / row["latency_ms"]["median"]
    if abs(ratio - 1) < SAME:
        return "same"
    return f"{ratio:.2f}{unit} faster" if ratio > 1 else f"{1 / ratio:.2f}{unit} slower"


def half_interval(row: Row) -> float:
    """Half the width of the 95 % interval of the mean IoU, to its longer side."""
    low, high = row["mean_iou_interval"]
    return max(high - row["mean_iou"], row["mean_iou"] - low)


def baseline_of(rows: list[Row]) -> Row:
    """The model that latencies are compared with."""
    return next((row for row in rows if row["name"] == "float32"), rows[0])


# --- the terminal ---------------------------------------------------------------------------

# Head, width (negative: to the left), and what makes the cell of a row and of the baseline.
Cell = Callable[[Row, Row], str]
COLUMNS: list[tuple[str, int, Cell]] = [
    ("model", -14, lambda row, _: row["name"]),
    ("MB", 6, lambda row, _: f"{row['bytes'] / 1e6:.2f}"),
    ("gzip", 6, lambda row, _: f"{row['gzip_bytes'] / 1e6:.2f}"),
    ("ms", 8, lambda row, _: f"{row['latency_ms']['median']:.2f}"),
    ("p90", 8, lambda row, _: f"{row['latency_ms']['p90']:.2f}"),
    ("speed", 13, speed),
    ("mean IoU", 9, lambda row, _: f"{row['mean_iou']:.4f}"),
    ("+-", 8, lambda row, _: f"{half_interval(row):.4f}"),
    ("drop", 8, lambda row, _: signed(row["mean_iou_drop"])),
]


def terminal_table(evaluation: dict[str, Any]) -> str:
    """The numbers as a table of at most WIDTH columns, with what they mean below."""
    rows, data = evaluation["models"], evaluation["dataset"]
    baseline = baseline_of(rows)

    def line(cells: list[str]) -> str:
        widths = [width for _, width, _ in COLUMNS]
        return "".join(f"{text:{'<' if w < 0 else '>'}{abs(w)}}" for text, w in zip(cells, widths))

    lines = [line([head for head, *_ in COLUMNS])]
    for row in rows:
        lines.append(line([cell(row, baseline) for *_, cell in COLUMNS]))
        if row.get("stale"):
            lines += textwrap.wrap(f"stale: {row['stale']}", WIDTH, initial_indent="  ")
    synthetic = " SYNTHETIC DATA." if data["synthetic"] else ""
    notes = (
        f"ms: one image, {evaluation['environment']['threads']} thread, median and 90th "
        "percentile. speed: against float32. +-: 95 % interval. drop: mean IoU of the original "
        f"less this model's.{synthetic}"
    )
    lines += [*textwrap.wrap(notes, WIDTH), ""]
    for sentence in sentences(evaluation):
        lines += textwrap.wrap(sentence, WIDTH, subsequent_indent="  ")
    return "\n".join(lines)


# --- in words -------------------------------------------------------------------------------


def sentences(evaluation: dict[str, Any]) -> list[str]:
    """What the numbers mean on this machine."""
    rows = {row["name"]: row for row in evaluation["models"]}
    said = []
    if {"float32", "pruned_float32"} <= rows.keys():
        said.append(about_pruning(rows["float32"], rows["pruned_float32"]))
    for name in quantised():
        if {name, "pruned_float32"} <= rows.keys():
            row, source = rows[name], rows["pruned_float32"]
            said.append(
                f"{name}: {source['bytes'] / row['bytes']:.2f} times smaller than the pruned "
                f"float32 file, {in_words(row, source)}, "
                f"mean IoU {signed(row['mean_iou'] - source['mean_iou'])}."
            )
    said.append(to_ship(list(rows.values()), evaluation["dataset"]["all_background_mean_iou"]))
    for row in rows.values():
        for name, lost in row["iou_drop"].items():
            if lost > CLASS_COLLAPSE:
                said.append(f"Look out: {row['name']} loses {lost:.3f} IoU on the class {name}.")
    return said


def in_words(row: Row, baseline: Row) -> str:
    """`speed` in words."""
    text = speed(row, baseline, " times")
    return "as fast" if text == "same" else text


def about_pruning(before: Row, after: Row) -> str:
    """What pruning did to the unquantised file."""
    packed = f"{before['gzip_bytes'] / after['gzip_bytes']:.2f} times smaller"
    if after["bytes"] < 0.98 * before["bytes"]:
        return (
            "Pruning removed channels: the float32 file is "
            f"{before['bytes'] / after['bytes']:.2f} times smaller, {packed} after gzip, and "
            f"{in_words(after, before)}."
        )
    return (
        f"Pruning set {1 - after['nonzero_share']:.0%} of the weights to zero: the file is as "
        f"large as before, {packed} after gzip. Here it runs {in_words(after, before)}: dense "
        "kernels also multiply zeros."
    )


def to_ship(rows: list[Row], all_background: float) -> str:
    """Which file to ship: the fastest that loses little and is better than no network at all."""
    fit = [
        row
        for row in rows
        if row["file"].endswith(".tflite")
        and row["mean_iou_drop"] <= BEARABLE_DROP
        and row["mean_iou"] > all_background
    ]
    if not fit:
        return (
            f"None to ship: every file loses more than {BEARABLE_DROP} mean IoU, or has no more "
            f"than the {all_background:.3f} of calling everything background."
        )
    fastest = min(fit, key=lambda row: row["latency_ms"]["median"])
    return f"To ship: {fastest['file']}, the fastest that loses at most {BEARABLE_DROP} mean IoU."


# --- the README and a spreadsheet -----------------------------------------------------------


def with_interval(row: Row) -> str:
    """Mean IoU and its 95 % interval."""
    low, high = row["mean_iou_interval"]
    return f"{row['mean_iou']:.4f} ({low:.4f} to {high:.4f})"


def with_p90(row: Row) -> str:
    """Median latency and its 90th percentile."""
    return f"{row['latency_ms']['median']:.2f} ({row['latency_ms']['p90']:.2f})"


README_COLUMNS: list[tuple[str, Cell]] = [
    ("model", lambda row, _: row["name"]),
    ("file, MB", lambda row, _: f"{row['bytes'] / 1e6:.2f}"),
    ("gzip, MB", lambda row, _: f"{row['gzip_bytes'] / 1e6:.2f}"),
    ("median ms (p90), 1 thread", lambda row, _: with_p90(row)),
    ("against float32", lambda row, baseline: speed(row, baseline, " times")),
    ("mean IoU (95 % interval)", lambda row, _: with_interval(row)),
    (
        " / ".join(CLASSES) + " IoU",
        lambda row, _: " / ".join(f"{row['iou'][name]:.3f}" for name in CLASSES),
    ),
    ("drop of mean IoU", lambda row, _: signed(row["mean_iou_drop"])),
]


def readme_table(evaluation: dict[str, Any]) -> str:
    """The models as a table in GitHub's Markdown."""
    rows = evaluation["models"]
    baseline = baseline_of(rows)
    lines = [[head for head, _ in README_COLUMNS], ["---"] + ["---:"] * (len(README_COLUMNS) - 1)]
    lines += [[cell(row, baseline) for _, cell in README_COLUMNS] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def flat_rows(evaluation: dict[str, Any]) -> list[Row]:
    """The models' numbers as rows of a flat table, for evaluation.csv."""
    rows = []
    for row in evaluation["models"]:
        flat = {key: value for key, value in row.items() if not isinstance(value, (dict, list))}
        for key in ("latency_ms", "latency_ms_all_threads", "iou"):
            flat |= {f"{key}_{inner}": value for inner, value in row[key].items()}
        flat["mean_iou_low"], flat["mean_iou_high"] = row["mean_iou_interval"]
        rows.append(flat)
    return rows
