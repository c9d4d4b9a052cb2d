"""Gates: limits on quantised files, set on the command line, and which of them are broken."""

from __future__ import annotations

import argparse
from typing import Any

from pipeline.base.cli import bounded
from pipeline.base.flag_rules import has_limit
from pipeline.variants import quantised


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the limits, and --gate, which names the models that they apply to."""
    number, fraction = bounded(float, 0.0), bounded(float, 0.0, 1.0)
    for flag, value_type, metavar, text in (
        ("--max-drop", fraction, "IOU", "largest allowed drop of mean IoU (+: loss)"),
        (
            "--max-latency-ms",
            number,
            "MS",
            "largest allowed median latency; if the machine was busy, its times are unreliable "
            "and the exit code is 2",
        ),
        ("--max-bytes", bounded(int, 0), "BYTES", "largest allowed file size"),
        ("--min-mean-iou", fraction, "IOU", "smallest allowed mean IoU"),
    ):
        parser.add_argument(flag, type=value_type, metavar=metavar, help=f"limit: {text}")
    parser.add_argument(
        "--gate",
        nargs="+",
        action="extend",
        choices=quantised(),
        metavar="MODEL",
        help=f"the models that the limits apply to: {', '.join(quantised())} (default: all); the "
        "exit code is 2 if one of them is stale",
    )


def judge(arguments: argparse.Namespace, evaluation: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Compares the quantised models of an evaluation with the limits.

    Args:
        arguments: the command line, with the flags of `add_flags`.
        evaluation: the content of evaluation.json.

    Returns:
        One line per broken limit; and one line per model that cannot be compared: it is stale, or
        the machine was busy while its latency was measured.
    """
    broken: list[str] = []
    undecided: list[str] = []
    for row in evaluation["models"]:
        if row["name"] not in (arguments.gate or quantised()) or not has_limit(vars(arguments)):
            continue
        if row.get("stale"):  # its drop is against a network that it was not made from
            undecided.append(f"{row['name']} cannot be judged: {row['stale']}")
            continue
        latency, max_latency = row["latency_ms"], arguments.max_latency_ms
        if max_latency is not None and latency.get("busy"):
            undecided.append(
                f"{row['name']} cannot be compared with --max-latency-ms: {latency['busy']}"
            )
            max_latency = None
        for flag, value, limit, is_maximum in (
            ("--max-drop", row["mean_iou_drop"], arguments.max_drop, True),
            ("--max-latency-ms", latency["median"], max_latency, True),
            ("--max-bytes", row["bytes"], arguments.max_bytes, True),
            ("--min-mean-iou", row["mean_iou"], arguments.min_mean_iou, False),
        ):
            if limit is not None and not (value <= limit if is_maximum else value >= limit):
                broken.append(f"{row['name']} breaks {flag} {limit}: {value}")
    return broken, undecided
