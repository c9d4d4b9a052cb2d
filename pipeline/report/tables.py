"""The numbers of an evaluation as tables: for the terminal, the README and a spreadsheet.

A new column is one entry: of COLUMNS for the terminal, of README_COLUMNS for the README.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

from pipeline.base.text_table import text_table
from pipeline.report.findings import (
    DROP_NOTE,
    SHOWN_CLASSES,
    Row,
    baseline_of,
    findings,
    format_activations,
    format_class_iou,
    format_drop,
    format_number,
    interval_half_width,
    relative_speed,
)

WIDTH = 80  # characters per line of the terminal

# --- the terminal ---------------------------------------------------------------------------

Cell = Callable[[Row, Row], str]  # a model and the baseline of its speed -> the cell's text
# Column head, least width in characters (negative: aligned left), and what fills a cell.
COLUMNS: list[tuple[str, int, Cell]] = [
    ("model", -14, lambda row, _: row["name"]),
    ("MB", 5, lambda row, _: format_number(row["bytes"] / 1e6)),
    ("gzip", 5, lambda row, _: format_number(row["gzip_bytes"] / 1e6)),
    ("RAM, KB", 8, lambda row, _: format_activations(row)),
    ("ms", 6, lambda row, _: format_number(row["latency_ms"]["median"])),
    ("p90", 6, lambda row, _: format_number(row["latency_ms"]["p90"])),
    ("speed", 14, relative_speed),
    ("mIoU", 7, lambda row, _: f"{row['mean_iou']:.4f}"),
    ("+-", 7, lambda row, _: f"{interval_half_width(row):.4f}"),
    ("drop", 8, lambda row, _: format_drop(row["mean_iou_drop"])),
]


def terminal_table(evaluation: dict[str, Any]) -> str:
    """The numbers as a table of at most WIDTH characters per line, then notes and findings.

    Args:
        evaluation: the content of evaluation.json.
    """
    rows, data = evaluation["models"], evaluation["dataset"]
    baseline = baseline_of(rows)

    heads = [(head, width) for head, width, _ in COLUMNS]
    cells = [[cell(row, baseline) for *_, cell in COLUMNS] for row in rows]
    head, *of_rows = text_table(heads, cells)
    lines = [head]
    for row, line in zip(rows, of_rows):
        lines.append(line)
        if row.get("stale"):
            lines += textwrap.wrap(f"stale: {row['stale']}", WIDTH, initial_indent="  ")
    synthetic = " SYNTHETIC DATA." if data["synthetic"] else ""
    notes = (
        "RAM: memory for activations, laid out as in TFLite Micro. ms: one image, "
        f"{evaluation['environment']['threads']} thread, median; p90: 90th percentile. speed: "
        "compared with float32. mIoU: mean IoU. +-: half of its 95 % interval. "
        f"{DROP_NOTE}{synthetic}"
    )
    lines += [*textwrap.wrap(notes, WIDTH), ""]
    for finding in findings(evaluation):
        lines += textwrap.wrap(finding, WIDTH, subsequent_indent="  ")
    return "\n".join(lines)


# --- the README and a spreadsheet -----------------------------------------------------------


def mean_iou_with_interval(row: Row) -> str:
    """Mean IoU and its 95 % interval."""
    low, high = row["mean_iou_interval"]
    return f"{row['mean_iou']:.4f} ({low:.4f} to {high:.4f})"


def median_with_p90(row: Row) -> str:
    """Median latency and its 90th percentile, in milliseconds."""
    return f"{row['latency_ms']['median']:.2f} ({row['latency_ms']['p90']:.2f})"


# Column head and the function that fills a cell. The IoU by class goes before the last column.
README_COLUMNS: list[tuple[str, Cell]] = [
    ("model", lambda row, _: row["name"]),
    ("file, MB", lambda row, _: f"{row['bytes'] / 1e6:.2f}"),
    ("gzip, MB", lambda row, _: f"{row['gzip_bytes'] / 1e6:.2f}"),
    ("median ms (p90), 1 thread", lambda row, _: median_with_p90(row)),
    ("against float32", lambda row, baseline: relative_speed(row, baseline, " times")),
    ("mean IoU (95 % interval)", lambda row, _: mean_iou_with_interval(row)),
    ("drop of mean IoU (+: lost)", lambda row, _: format_drop(row["mean_iou_drop"])),
]


# The models and columns of the README's own table; docs/ shows all of both.
SHORT_MODELS = ("original", "pruned", "dynamic", "int8", "float16")
SHORT_COLUMNS: list[tuple[str, Cell]] = [
    *README_COLUMNS[:3],
    ("ms", lambda row, _: f"{row['latency_ms']['median']:.2f}"),
    ("mean IoU", lambda row, _: f"{row['mean_iou']:.4f}"),
    ("drop (+: lost)", README_COLUMNS[-1][1]),
]


def readme_table(evaluation: dict[str, Any]) -> str:
    """The models as a table in GitHub's Markdown, with the SHOWN_CLASSES of the lowest IoU.

    Args:
        evaluation: the content of evaluation.json.
    """
    iou = evaluation["models"][0]["iou"]
    present = (name for name in iou if iou[name] is not None)
    lowest = sorted(present, key=iou.get)[:SHOWN_CLASSES]
    names = [name for name in iou if name in lowest]
    columns = [
        *README_COLUMNS[:-1],
        (f"{' / '.join(names)} IoU", lambda row, _: format_class_iou(row, names)),
        README_COLUMNS[-1],
    ]
    return markdown(evaluation["models"], columns)


def short_table(evaluation: dict[str, Any]) -> str:
    """SHORT_MODELS as a table in GitHub's Markdown."""
    return markdown(
        [row for row in evaluation["models"] if row["name"] in SHORT_MODELS], SHORT_COLUMNS
    )


def markdown(rows: list[Row], columns: list[tuple[str, Cell]]) -> str:
    """Models as lines of a table in GitHub's Markdown."""
    baseline = baseline_of(rows)
    lines = [[head for head, _ in columns], ["---"] + ["---:"] * (len(columns) - 1)]
    lines += [[cell(row, baseline) for _, cell in columns] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def flat_rows(evaluation: dict[str, Any]) -> list[Row]:
    """The rows of evaluation.csv: one per model, nested numbers under keys like iou_border.

    Args:
        evaluation: the content of evaluation.json.
    """
    flat_models = []
    for row in evaluation["models"]:
        flat = {key: value for key, value in row.items() if not isinstance(value, (dict, list))}
        for key in ("latency_ms", "latency_ms_all_threads", "iou"):
            flat |= {f"{key}_{inner}": value for inner, value in row[key].items()}
        flat["mean_iou_low"], flat["mean_iou_high"] = row["mean_iou_interval"]
        flat_models.append(flat)
    return flat_models
