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


def figure(value: float) -> str:
    """Three digits that count, or all before the point: 0.98, 12.3, 123, 12345."""
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"


def speed(row: Row, baseline: Row, unit: str = "x") -> str:
    """How a model's latency compares with another's: "1.93x faster", "1.72x slower", "same"."""
    return ratio_words(baseline["latency_ms"]["median"] / row["latency_ms"]["median"], unit)


def ratio_words(ratio: float, unit: str = "x") -> str:
    """A ratio of speeds so that nobody has to think what a figure below 1 means."""
    if abs(ratio - 1) < SAME:
        return "same"
    return f"{figure(ratio)}{unit} faster" if ratio > 1 else f"{figure(1 / ratio)}{unit} slower"


def half_interval(row: Row) -> float:
    """Half the width of the 95 % interval of the mean IoU, to its longer side."""
    low, high = row["mean_iou_interval"]
    return max(high - row["mean_iou"], row["mean_iou"] - low)


def activations(row: Row) -> str:
    """Activation memory in KB; a Keras model has no plan."""
    return f"{row['activation_kb']:.0f}" if row.get("activation_kb") else "-"


def baseline_of(rows: list[Row]) -> Row:
    """The model that latencies are compared with."""
    return next((row for row in rows if row["name"] == "float32"), rows[0])


# --- the terminal ---------------------------------------------------------------------------

# Head, width (negative: to the left), and what makes the cell of a row and of the baseline.
Cell = Callable[[Row, Row], str]
COLUMNS: list[tuple[str, int, Cell]] = [
    ("model", -14, lambda row, _: row["name"]),
    ("MB", 5, lambda row, _: figure(row["bytes"] / 1e6)),
    ("gzip", 5, lambda row, _: figure(row["gzip_bytes"] / 1e6)),
    ("RAM, KB", 8, lambda row, _: activations(row)),
    ("ms", 6, lambda row, _: figure(row["latency_ms"]["median"])),
    ("p90", 6, lambda row, _: figure(row["latency_ms"]["p90"])),
    ("speed", 14, speed),
    ("mIoU", 7, lambda row, _: f"{row['mean_iou']:.4f}"),
    ("+-", 7, lambda row, _: f"{half_interval(row):.4f}"),
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
        "RAM: activations as TFLite Micro would lay them out. ms: one image, "
        f"{evaluation['environment']['threads']} thread, median and 90th percentile. speed: "
        "against float32. mIoU: mean IoU. +-: 95 % interval. drop: mean IoU of the original less "
        f"this model's.{synthetic}"
    )
    lines += [*textwrap.wrap(notes, WIDTH), ""]
    for sentence in sentences(evaluation):
        lines += textwrap.wrap(sentence, WIDTH, subsequent_indent="  ")
    return "\n".join(lines)


# --- in words -------------------------------------------------------------------------------


def sentences(evaluation: dict[str, Any]) -> list[str]:
    """What the numbers mean on this machine."""
    rows = {row["name"]: row for row in evaluation["models"]}
    said = [*about_busy(rows)]
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
    if rows.get("int8", {}).get("activation_kb"):
        said.append(about_memory(rows["int8"]))
    said.append(to_ship(list(rows.values()), evaluation["dataset"]["all_background_mean_iou"]))
    for name in CLASSES:
        lost = {key: row["iou_drop"][name] for key, row in rows.items()}
        worse = [f"{key} ({value:.3f})" for key, value in lost.items() if value > CLASS_COLLAPSE]
        if worse:
            said.append(f"Look out, IoU lost on the class {name}: {', '.join(worse)}.")
    return said


def about_busy(rows: dict[str, Row]) -> list[str]:
    """That times are not to be trusted, if they are not, and why: in one sentence."""
    reasons: dict[str, list[str]] = {}
    for name, row in rows.items():
        if reason := row["latency_ms"].get("busy"):
            reasons.setdefault(reason, []).append(name)
    if not reasons:
        return []
    of = [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()]
    return [
        f"THE MACHINE WAS BUSY while latency was taken ({'; '.join(of)}): the times say little of "
        "the models; close other programs and run evaluation.py again."
    ]


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


def about_memory(row: Row) -> str:
    """What a device needs for a file, and which layers would have to shrink to change it."""
    parts = [f"{name} {size / 1e3:.0f}" for name, size in row["activation_peak"]]
    return (
        f"{row['name']} needs {activations(row)} KB of memory for activations beside the file and "
        f"{row['multiply_accumulates'] / 1e6:.0f} million multiply-accumulates an image; most "
        f"at once, in KB: {', '.join(parts)}."
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
