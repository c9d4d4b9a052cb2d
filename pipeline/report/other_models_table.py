"""Models of others beside ours, as a table: for the terminal and for the report."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from pipeline.base.artifacts import read_record
from pipeline.base.console import UserError
from pipeline.base.text_table import text_table

FILE = "other_models.json"  # in the models folder
OURS = ("float32", "int8")  # timed beside them; the others are compared with the last
NOT_OURS = "not ours"
WIDTH = 100  # characters per line of the terminal
MEANING = (
    "ms: one image, 1 thread, all in turns in one process. minus int8: mean IoU minus that of our "
    "int8 file, with its paired 95 % interval over the same test pictures."
)
# Column head, least width, and the key of a row.
COLUMNS = (
    *(("model", -14, "name"), ("", -9, "whose"), ("MB", 6, "megabytes"), ("ms", 7, "median")),
    *(
        ("p90", 7, "p90"),
        ("ms / int8", 10, "ratio"),
        ("mIoU", 8, "score"),
        ("minus int8", 12, "gain"),
    ),
    ("95 % interval", 20, "interval"),
)


def kept(models_dir: Path) -> dict[str, Any] | None:
    """What FILE holds, if it belongs to the present evaluation; None if not."""
    try:
        content = json.loads((models_dir / FILE).read_text(encoding="utf-8"))
        current = content["evaluation"] == read_record(models_dir, "evaluation")["sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError, UserError):
        return None
    return content if current else None


def table(content: dict[str, Any]) -> list[list[str]]:
    """The heads of COLUMNS, then the cells of ours and of the others.

    Args:
        content: from `measure`.
    """
    baseline = next(row for row in content["ours"] if row["name"] == OURS[-1])
    rows = [[head for head, *_ in COLUMNS]]
    for row in [*content["ours"], *content["others"]]:
        foreign = "gain_interval" in row
        time, low_high = row["latency_ms"], row.get("gain_interval")
        cells = {
            "name": row["name"],
            "whose": NOT_OURS if foreign else "",
            "megabytes": f"{row['bytes'] / 1e6:.2f}",
            "median": f"{time['median']:.2f}",
            "p90": f"{time['p90']:.2f}",
            "ratio": f"{time['median'] / baseline['latency_ms']['median']:.2f}",
            "score": f"{row['mean_iou']:.4f}",
            "gain": f"{row['mean_iou'] - baseline['mean_iou']:+.4f}",
            "interval": "{:+.4f} to {:+.4f}".format(*low_high) if low_high else "",
        }
        rows.append([cells[key] for *_, key in COLUMNS])
    return rows


def section(content: dict[str, Any] | None) -> dict[str, Any] | None:
    """What the report shows: `head`, `rows`, `notes`; None without models of others."""
    if content is None:
        return None
    head, *rows = table(content)
    notes = [f"{row['name']}: {row['about']}." for row in content["others"]]
    machine = content["environment"]
    notes.append(f"{MEANING} Measured on {machine['cpu']}.")
    return {"head": head, "rows": rows, "notes": notes + busy(content)}


def terminal(content: dict[str, Any]) -> str:
    """The table for the terminal, with what its columns mean."""
    heads = [(head, width) for head, width, _ in COLUMNS]
    lines = text_table(heads, table(content)[1:])
    lines += textwrap.wrap(MEANING, WIDTH)
    return "\n".join(lines + busy(content))


def busy(content: dict[str, Any]) -> list[str]:
    """The models whose times are those of a busy machine, a line each."""
    rows = [*content["ours"], *content["others"]]
    return [
        f"busy machine, {row['name']}: {reason}"
        for row in rows
        if (reason := row["latency_ms"].get("busy"))
    ]
