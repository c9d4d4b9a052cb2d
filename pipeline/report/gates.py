"""Gates: limits on quantised files, set on the command line, and which of them are broken."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import Any

from pipeline.base.cli import bounded
from pipeline.base.flag_rules import has_limit
from pipeline.variants import quantised

Limit = tuple[str, Callable[[str], Any], str, str]
NUMBER, FRACTION = bounded(float, 0.0), bounded(float, 0.0, 1.0)
# What a device can have too little of: flag, type, name of the value, help.
OF_A_DEVICE = (
    ("--max-latency-ms", NUMBER, "MS", "largest allowed median latency, on one thread"),
    ("--max-bytes", bounded(int, 0), "BYTES", "largest allowed file size"),
    ("--max-activation-kb", NUMBER, "KB", "most memory for activations, in kB of 1000 bytes"),
)
OF_ACCURACY = (
    ("--max-drop", FRACTION, "IOU", "largest allowed drop of mean IoU (+: loss)"),
    ("--min-mean-iou", FRACTION, "IOU", "smallest allowed mean IoU"),
)


def add_limits(parser: argparse.ArgumentParser, limits: Iterable[Limit], of: str) -> None:
    """Adds flags of limits; `of` is what they are of, for the help."""
    for flag, value_type, metavar, text in limits:
        parser.add_argument(flag, type=value_type, metavar=metavar, help=f"{of}: {text}")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the limits, and --gate, which names the models that they apply to."""
    add_limits(parser, (*OF_ACCURACY, *OF_A_DEVICE), "limit")
    parser.add_argument(
        "--gate",
        nargs="+",
        action="extend",
        choices=quantised(),
        metavar="MODEL",
        help=f"the models that the limits apply to: {', '.join(quantised())} (default: all); the "
        "exit code is 2 if one of them is stale, or if the machine was busy while it was timed",
    )


def add_budget(parser: argparse.ArgumentParser) -> None:
    """Adds --budget of pruning.py, and its limits."""
    parser.add_argument(
        "--budget",
        action="store_true",
        help="find the smallest --channels whose int8 file keeps to the limits; prunes nothing",
    )
    add_limits(parser, OF_A_DEVICE, "limit of --budget")


def judge(arguments: argparse.Namespace, evaluation: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Compares the quantised models of an evaluation with the limits.

    Args:
        arguments: the command line, with the flags of `add_flags`.
        evaluation: the content of evaluation.json.

    Returns:
        One line per broken limit; and one line per model that cannot be compared: it is stale, the
        machine was busy while its latency was measured, or its memory has no fixed plan.
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
        memory, max_memory = row["activation_kb"], arguments.max_activation_kb
        if max_memory is not None and memory is None:
            undecided.append(
                f"{row['name']} cannot be compared with --max-activation-kb: its memory has no "
                "fixed plan"
            )
            max_memory = None
        for flag, value, limit, is_maximum in (
            ("--max-drop", row["mean_iou_drop"], arguments.max_drop, True),
            ("--max-latency-ms", latency["median"], max_latency, True),
            ("--max-bytes", row["bytes"], arguments.max_bytes, True),
            ("--max-activation-kb", memory, max_memory, True),
            ("--min-mean-iou", row["mean_iou"], arguments.min_mean_iou, False),
        ):
            if limit is not None and not (value <= limit if is_maximum else value >= limit):
                broken.append(f"{row['name']} breaks {flag} {limit}: {value}")
    return broken, undecided
