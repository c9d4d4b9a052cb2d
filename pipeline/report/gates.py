"""What a quantised file must keep to, asked for on the command line, and whether it does."""

from __future__ import annotations

import argparse
from typing import Any

from pipeline.base.cli import bounded
from pipeline.variants import quantised


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the limits, and which models they are for."""
    number, share = bounded(float, 0.0), bounded(float, 0.0, 1.0)
    for flag, kind, metavar, text in (
        ("--max-drop", share, "IOU", "largest allowed drop of mean IoU (+: lost)"),
        (
            "--max-latency-ms",
            number,
            "MS",
            "largest allowed median latency; on a busy machine, whose times say nothing, it is "
            "refused with exit code 2",
        ),
        ("--max-bytes", bounded(int, 0), "BYTES", "largest allowed file"),
        ("--min-mean-iou", share, "IOU", "least allowed mean IoU"),
    ):
        parser.add_argument(flag, type=kind, metavar=metavar, help=f"limit: {text}")
    parser.add_argument(
        "--gate",
        nargs="+",
        action="extend",
        choices=quantised(),
        metavar="MODEL",
        help=f"the models that the limits are for, of {', '.join(quantised())} (default: all)",
    )


def judge(arguments: argparse.Namespace, evaluation: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Holds an evaluation against the limits.

    Returns:
        Which model breaks which limit, and which cannot be judged by one: its times are those of
        a busy machine.
    """
    broken, unknown = [], []
    for row in evaluation["models"]:
        if row["name"] not in (arguments.gate or quantised()):
            continue
        latency, slowest = row["latency_ms"], arguments.max_latency_ms
        if slowest is not None and latency.get("busy"):
            unknown.append(f"{row['name']} cannot be held to --max-latency-ms: {latency['busy']}")
            slowest = None
        for flag, value, limit, above in (
            ("--max-drop", row["mean_iou_drop"], arguments.max_drop, True),
            ("--max-latency-ms", latency["median"], slowest, True),
            ("--max-bytes", row["bytes"], arguments.max_bytes, True),
            ("--min-mean-iou", row["mean_iou"], arguments.min_mean_iou, False),
        ):
            if limit is not None and not (value <= limit if above else value >= limit):
                broken.append(f"{row['name']} breaks {flag} {limit}: {value}")
    return broken, unknown
