"""What data preparation prints of a finished data set: its splits, and where they are small."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.base.artifacts import Record
from pipeline.base.text_table import shortened
from pipeline.report import data_warnings

LEFT_OUT = "left_out.txt"  # beside dataset.json: what is left out, and why
FEW = 10  # pictures of a split or of a class in it; with fewer, IoU is not reliable
FEW_CLASSES = 5  # classes that the note on this lists at most
FEW_REASONS = 3  # why files were skipped, that the line on them names at most
OF_CLASSES = ("has no object", "no mask holds it")  # reasons why a class is left out
# Reasons that need no word: of files that are no pictures, and of classes.
USUAL = ("hidden", "not the suffix of a picture", "drawn by evaluation.py", *OF_CLASSES)
MOST_SHARES = 4  # classes of a split that are listed; the table of mask values has all


def lines(record: Record, folder: Path, skipped: Sequence[tuple[str, str]]) -> list[str]:
    """A line for each split, notes and warnings, and where files are listed.

    Args:
        record: of the data set.
        folder: of the data set.
        skipped: files that were skipped without a fault, each with the reason.
    """
    rows = []
    faulty = sum(record["metrics"]["audit"]["left_out"].values())
    for split, facts in record["splits"].items():
        shares = [f"{shortened(name)} {share:.3f}" for name, share in facts["class_shares"].items()]
        more = " ..." if len(shares) > MOST_SHARES else ""
        listed = ", ".join(shares[:MOST_SHARES]) + more
        rows.append(f"{split:10} {facts['examples']:5} examples   {listed}")
    for note in (
        data_warnings.lost_pictures(record["splits"], record["image_size"]),
        few_pictures_note(record["splits"]),
        *data_warnings.lines(record),
    ):
        rows += [note] if note else []
    if faulty or skipped:
        classes = sum(reason in OF_CLASSES for _, reason in skipped)
        number = f"{len(skipped) - classes} skipped files" + (
            f", {classes} classes" * bool(classes)
        )
        rows.append(
            f"left out: {faulty} faulty examples, {number}{examples(skipped)}; "
            f"{folder / LEFT_OUT} lists them"
        )
    if record["listing"]:
        rows.append(f"file and split of each example: {folder / record['listing'][0]}")
    return rows


def examples(skipped: Sequence[tuple[str, str]]) -> str:
    """An example of each of the commonest reasons why files were skipped, with their number."""
    names: dict[str, list[str]] = {}
    for name, reason in skipped:
        if reason not in USUAL:
            names.setdefault(reason, []).append(name)
    commonest = sorted(names, key=lambda reason: -len(names[reason]))[:FEW_REASONS]
    return "".join(
        f", {len(names[reason])} of them such as {names[reason][0]} ({reason})"
        for reason in commonest
    )


def few_pictures_note(splits: dict[str, dict[str, Any]]) -> str:
    """A note on splits, and on classes in the other splits, with fewer than FEW pictures.

    Args:
        splits: "examples" and "class_pictures" by split, from `DataSetWriter.describe`.

    Returns:
        One line, rarest classes first; "" if there is nothing to note.
    """
    parts: list[str] = []
    rare: dict[str, list[tuple[int, str]]] = {}  # by class, its pictures in each split with few
    for split, facts in splits.items():
        if facts["examples"] < FEW:
            parts.append(f"{split} ({facts['examples']})")
            continue
        for name, number in facts["class_pictures"].items():
            if number < FEW:
                rare.setdefault(name, []).append((number, split))
    rarest = sorted(rare, key=lambda name: min(rare[name]))
    for name in rarest[:FEW_CLASSES]:
        parts.append(f"{name} (in {', '.join(f'{k} of {split}' for k, split in rare[name])})")
    if len(rare) > FEW_CLASSES:
        parts.append(f"{len(rare) - FEW_CLASSES} more classes")
    start = f"note: fewer than {FEW} pictures, so IoU is not reliable: "
    return start + ", ".join(parts) if parts else ""
