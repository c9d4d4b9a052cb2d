"""The numbers of an evaluation as text: for the terminal, the README, a spreadsheet, in words.

Columns of the terminal's table are in COLUMNS, of the README's in README_COLUMNS: one entry each.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

from pipeline.report.findings import (
    DROP,
    SHOWN_CLASSES,
    Row,
    activations,
    baseline_of,
    figure,
    half_interval,
    lost,
    per_class,
    sentences,
    speed,
)

WIDTH = 80  # columns of the terminal

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
    ("drop", 8, lambda row, _: lost(row["mean_iou_drop"])),
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
        f"against float32. mIoU: mean IoU. +-: 95 % interval. {DROP}{synthetic}"
    )
    lines += [*textwrap.wrap(notes, WIDTH), ""]
    for sentence in sentences(evaluation):
        lines += textwrap.wrap(sentence, WIDTH, subsequent_indent="  ")
    return "\n".join(lines)


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
    ("drop of mean IoU (+: lost)", lambda row, _: lost(row["mean_iou_drop"])),
]


def readme_table(evaluation: dict[str, Any]) -> str:
    """The models as a table in GitHub's Markdown, with the classes of the lowest IoU."""
    rows = evaluation["models"]
    baseline, iou = baseline_of(rows), rows[0]["iou"]
    lowest = sorted((n for n in iou if iou[n] is not None), key=iou.get)[:SHOWN_CLASSES]
    names = [name for name in iou if name in lowest]
    columns = [
        *README_COLUMNS[:-1],
        (f"{' / '.join(names)} IoU", lambda row, _: per_class(row, names)),
    ]
    columns.append(README_COLUMNS[-1])
    lines = [[head for head, _ in columns], ["---"] + ["---:"] * (len(columns) - 1)]
    lines += [[cell(row, baseline) for _, cell in columns] for row in rows]
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
