"""What changed since the evaluation before, or against another models folder, in words."""

from __future__ import annotations

import textwrap
from typing import Any

from pipeline.base import cli
from pipeline.base.text_table import text_table
from pipeline.evaluation.bootstrap import BOOTSTRAP_SAMPLES
from pipeline.report.findings import (
    SHOWN_CLASSES,
    format_drop,
    format_names,
    format_number,
    speed_text,
)

WIDTH = 100  # characters per line of the terminal
# Mean IoU of runs that differ in --seed alone, highest minus lowest: docs/choices.md, "What does
# another seed move?". Measured with `make demo`, on test; and with short trainings, on validation.
SEED_ON_DRAWN, SEED_ON_PETS = 0.0022, 0.003
TO = "\N{RIGHTWARDS ARROW}"
WITHIN = "within the spread"  # over pictures

Changes = dict[str, Any]  # as from `comparison.compare`
Row = dict[str, Any]  # one model in it


def word(interval: list[float] | None) -> str:
    """What the 95 % interval of a change of IoU says: "better", "worse" or WITHIN.

    Args:
        interval: of now minus then; None where the pictures differ.
    """
    if interval is None:
        return "other pictures"
    if not any(interval):
        return "the same"
    low, high = (round(end, 4) for end in interval)  # as they are printed
    return "better" if low > 0 else "worse" if high < 0 else WITHIN


def is_quiet(changes: Changes) -> bool:
    """Whether nothing differs."""
    keys = ("settings", "packages", "data", "new", "gone", "models")
    return not any(changes[key] for key in keys) and not any(changes["code"].values())


def title(changes: Changes) -> str:
    """The head of the comparison."""
    if changes["against"] is not None:
        return f"What changed against {changes['against']}"
    return "What changed since the evaluation before"


def causes(changes: Changes) -> list[str]:
    """What was changed: settings, edited files, packages, data; a line each."""
    lines = [
        f"{script.removesuffix('.py')} --{flag.replace('_', '-')} {shown(then)} {TO} {shown(now)}"
        for script, flag, then, now in changes["settings"]
    ]
    for kind, names in changes["code"].items():
        if names:
            lines.append(f"{kind}: {format_names(names)}")
    lines += [f"{name} {then} {TO} {now}" for name, then, now in changes["packages"]]
    if changes["data"]:
        test = "the same test pictures" if changes["same_pictures"] else "other test pictures"
        lines.append(f"another data set, with {test}")
    lines += [f"{name}: a new model" for name in changes["new"]]
    lines += [f"{name}: no longer made" for name in changes["gone"]]
    code_known = changes.get("code_known", True)
    if not lines:
        same = "settings, code and data" if code_known else "settings and data"
        lines = [f"{same} are the same"]
    if not code_known:
        lines.append("the code of then is not known: an older version of this pipeline ran")
    if changes["same"]:
        lines.append(f"the same file as then: {', '.join(changes['same'])}")
    return lines


def shown(value: Any) -> str:
    """The value of a flag as it is typed; "none" and "on" or "off" for flags without one."""
    if value is None:
        return "none"
    return ("on" if value else "off") if isinstance(value, bool) else cli.typed(value)


# --- the models -----------------------------------------------------------------------------


def cells(row: Row) -> dict[str, str]:
    """The cells of a model in the table, by column."""
    then, now = row["mean_iou"]
    return {
        "model": row["name"],
        "bytes": difference(row["bytes"], "{:+,.0f}"),
        "RAM, KB": difference(row["activation_kb"], "{:+,.0f}"),
        "val. mIoU": difference(row["validation"], "{:+.4f}"),
        "mIoU": f"{now:.4f}",
        "change": format_drop(now - then),
        "95 % interval": format_interval(row["interval"]),
        "verdict": word(row["interval"]),
    }


def difference(pair: list[Any] | None, form: str) -> str:
    """Now minus then; "same", or a dash where one of both is unknown."""
    if not pair or None in pair:
        return "-"
    text = form.format(pair[1] - pair[0])
    return "same" if pair[0] == pair[1] or not text.strip("+-0.") else text


def format_interval(interval: list[float] | None) -> str:
    """The interval of a change; a dash if there is none."""
    if interval is None:
        return "-"
    return f"{format_drop(interval[0])} to {format_drop(interval[1])}"


def class_changes(row: Row) -> list[tuple[str, str, str]]:
    """By class whose IoU both evaluations have: its name, change, and interval; largest first.

    Empty if every resample has the same mean IoU: then there is nothing to tell.
    """
    if row["interval"] == [0, 0]:
        return []
    known = {name: pair for name, pair in row["iou"].items() if None not in pair}
    order = sorted(known, key=lambda name: -abs(known[name][1] - known[name][0]))
    intervals = row["iou_intervals"] or {}
    return [
        (name, format_drop(known[name][1] - known[name][0]), format_interval(intervals.get(name)))
        for name in order
    ]


def speed(row: Row) -> str:
    """Latency of both files of a model, as they were timed in turns; "" if they were not."""
    if "latency_ms" not in row:
        return ""
    then, now = row["latency_ms"]
    texts = [
        f"{format_number(t['median'])} ms (p90 {format_number(t['p90'])})" for t in (now, then)
    ]
    busy = " THE MACHINE WAS BUSY: unreliable." if then.get("busy") or now.get("busy") else ""
    return f"{texts[0]}, there {texts[1]}: {speed_text(then['median'] / now['median'])}.{busy}"


# --- what it is worth -----------------------------------------------------------------------


def notes(changes: Changes, evaluation: dict[str, Any]) -> list[str]:
    """What the numbers are worth: the interval, another seed, the times the split was read."""
    if not changes["models"]:
        return []
    lines = [
        f"Another --seed alone moves mean IoU by up to {SEED_ON_DRAWN} (measured on the drawn "
        f"animals of make demo, three seeds) or {SEED_ON_PETS} (pets, short trainings, on "
        "validation), which no interval over pictures knows: a smaller change may be luck, "
        "whatever the verdict."
    ]
    if changes["same_pictures"]:
        examples = evaluation["dataset"]["examples"]
        lines.append(
            f"Interval: of the change, over the same {examples:,} test pictures "
            f"({BOOTSTRAP_SAMPLES} paired bootstrap samples). {WITHIN.capitalize()} over pictures: "
            "their choice alone may explain the change."
        )
    else:
        lines.append("The test pictures or their masks are others, so there is no interval.")
    if times := evaluation.get("test_reads", {}).get(evaluation["dataset"].get("test_pictures")):
        lines.append(
            f"This test split has been read at least {times} time{'s' * (times > 1)}: what is "
            "chosen by it looks better than it is; choose by validation."
        )
    if changes["against"] is None:
        lines.append(
            "Times are not compared: they are of another moment on a machine that was not equally "
            "busy. To compare them: cp -r models models_before; later evaluation.py --against "
            "models_before."
        )
    elif reason := changes.get("not_timed"):
        lines.append(f"Times could not be compared: {reason}")
    else:
        lines.append("Times: the files that differ, in turns, in one process, on 1 thread.")
    return lines


def terminal(changes: Changes | None, evaluation: dict[str, Any]) -> str:
    """The comparison for the terminal, lines of at most WIDTH characters; "" if there is none."""
    if changes is None:
        return ""
    if is_quiet(changes):
        return f"{title(changes)}: nothing."
    lines = [title(changes)]
    for line in causes(changes):
        lines += textwrap.wrap(line, WIDTH, initial_indent="  ", subsequent_indent="    ")
    rows = [cells(row) for row in changes["models"]]
    if rows:
        heads = [(head, -1 if head in ("model", "verdict") else 1) for head in rows[0]]
        head, *of_rows = text_table(heads, [list(row.values()) for row in rows], " ")
        lines += ["", head.rstrip()]
        for row, line in zip(changes["models"], of_rows):
            lines.append(line.rstrip())
            parts = [f"{name} {change} ({between})" for name, change, between in class_changes(row)]
            text = "IoU: " + "; ".join(parts[:SHOWN_CLASSES]) if parts else ""
            more = len(parts) - SHOWN_CLASSES
            text += f"; {more} more classes in the report" if more > 0 else ""
            for part in (text, speed(row)):
                if part:
                    lines += textwrap.wrap(
                        part, WIDTH, initial_indent="    ", subsequent_indent="      "
                    )
        lines.append("")
    for note in notes(changes, evaluation):
        lines += textwrap.wrap(note, WIDTH, subsequent_indent="  ")
    return "\n".join(lines)


def section(changes: Changes | None, evaluation: dict[str, Any]) -> dict[str, Any] | None:
    """The comparison for the report: `title`, `causes`, tables `models` and `classes`, `notes`.

    None if there is nothing to compare with.
    """
    if changes is None:
        return None
    rows = [cells(row) | {"time": speed(row)} for row in changes["models"]]
    if not any(row["time"] for row in rows):
        rows = [{key: text for key, text in row.items() if key != "time"} for row in rows]
    classes = [
        [row["name"], name, f"{row['iou'][name][1]:.4f}", change, between, word_of(row, name)]
        for row in changes["models"]
        for name, change, between in class_changes(row)
    ]
    return {
        "title": title(changes),
        "causes": ["nothing"] if is_quiet(changes) else causes(changes),
        "models": {"head": list(rows[0]) if rows else [], "rows": [list(r.values()) for r in rows]},
        "classes": {
            "head": ["model", "class", "IoU", "change", "95 % interval", "verdict"],
            "rows": classes,
        },
        "notes": notes(changes, evaluation),
    }


def word_of(row: Row, name: str) -> str:
    """`word` on a class of a model."""
    return word((row["iou_intervals"] or {}).get(name))
