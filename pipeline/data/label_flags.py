"""The flags that name classes and map mask values to them."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.base.console import UserError
from pipeline.data.classes import IGNORED
from pipeline.data.label_mapping import Labels, fault_of_names, index_of
from pipeline.data.masks import pack
from pipeline.data.text_files import lines_of

SHOWN_NAMES = 60  # characters of --names that a message repeats
VALUE_FLAGS = ("--ignore-index", "--label-mapping")  # their values may be negative


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that name classes and map mask values to them."""
    parser.add_argument(
        "--names",
        type=parse_names,
        metavar="A,B,C",
        help="class names in the order of their indices, or a file with one name per line",
    )
    parser.add_argument(
        "--ignore-index",
        type=parse_value,
        metavar="VALUE",
        help="mask value of pixels that are left out of loss and metrics, often 255",
    )
    parser.add_argument(
        "--label-mapping",
        type=parse_mapping,
        metavar="VALUE:CLASS,...",
        help="class of mask values or colours: 255:1,7:ignore or 255,0,0:1,0,0,0:0",
    )


def parse_names(text: str) -> list[str]:
    """argparse type: class names from `a,b,c`, or from a file with one name per line."""
    lines = text.split(",")
    if os.path.isfile(text):  # Path.is_file raises if a list is longer than a file name can be
        lines = lines_of(Path(text))
    names = [line.strip() for line in lines if line.strip()]
    if fault := fault_of_names(names):
        shown = text if len(text) <= SHOWN_NAMES else f"{text[:SHOWN_NAMES]}..."
        raise argparse.ArgumentTypeError(f"{shown}: {fault}")
    return names


def parse_value(text: str) -> int:
    """argparse type: a mask value, any whole number; also -9999.0, or -3.4028235e+38."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
    if not number.is_integer():  # false for infinity and NaN, too
        raise argparse.ArgumentTypeError(f"{text} is not a whole number, as mask values are")
    return int(number)


def parse_mapping(text: str) -> dict[str, int | str]:
    """argparse type: a mapping of mask values to classes.

    Args:
        text: "255:1,0:0" or, for colours, "255,0,0:1,0,0,0:0". A class is an index, a name, or
            "ignore".

    Returns:
        Class by value; values as text, whole numbers of any size and sign.
    """
    number = r"\s*-?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?\s*"
    entry = rf"({number}(?:,{number},{number})?):([^:,]+)"
    entries = re.findall(entry, text)
    if not entries or not re.fullmatch(rf"{entry}(?:,{entry})*", text):
        raise argparse.ArgumentTypeError(
            f"{text} is not a mapping; write VALUE:CLASS, as in 255:1,0:0, or R,G,B:CLASS"
        )
    if len({"," in value for value, _ in entries}) > 1:
        raise argparse.ArgumentTypeError(f"{text} mixes values and colours; use only one of them")
    pairs = [
        (",".join(str(parse_value(part)) for part in value.split(",")), target.strip())
        for value, target in entries
    ]
    return {value: int(name) if name.isdecimal() else name for value, name in pairs}


def with_user(
    labels: Labels,
    names: list[str] | None,
    ignore_index: int | None,
    mapping: dict[str, int | str] | None,
) -> Labels:
    """Returns the labels of a data set, overridden by the flags of the command line.

    Args:
        names: --names. ignore_index: --ignore-index. mapping: --label-mapping.

    Raises:
        UserError: the mapping names an unknown class, or a colour out of range; or an ignore index
            is given with colours.
    """
    if names and names != list(labels.names or ()):
        if set(names) <= set(labels.names or ()):
            labels = chosen(labels, names)
        labels = replace(labels, names=tuple(names), colours=None)
    labels = replace(labels, of_source=labels.of_source and not names)
    table: dict[int, int] = {}
    by_colour = labels.by_colour
    for value, target in (mapping or {}).items():
        parts = [int(part) for part in value.split(",")]
        by_colour = len(parts) == 3
        if by_colour and not 0 <= min(parts) <= max(parts) <= 255:
            raise UserError(f"--label-mapping: {value} is no colour; its parts are 0..255")
        table[pack(parts) if by_colour else parts[0]] = index_of(target, labels.names)
    if by_colour == labels.by_colour:
        table = {**labels.mapping, **table}
    if ignore_index is not None and by_colour:
        raise UserError(
            "--ignore-index takes a value; to ignore a colour: --label-mapping R,G,B:ignore"
        )
    if ignore_index is not None:
        table[ignore_index] = IGNORED
    return replace(labels, mapping=table, by_colour=by_colour)


def chosen(labels: Labels, names: list[str]) -> Labels:
    """Labels whose mapping leads to some of the data set's own classes, in another order.

    Values of the others get no class.
    """
    before = labels.names or ()
    mapping = dict(labels.mapping)
    if not labels.by_colour:
        taken = set(mapping.values())
        mapping |= {k: k for k in range(len(before)) if k not in taken and k not in mapping}
    kept = {
        value: IGNORED if index == IGNORED else names.index(before[index])
        for value, index in mapping.items()
        if index == IGNORED or before[index] in names
    }
    return replace(labels, mapping=kept)


def with_negative_values(argv: Sequence[str] | None) -> list[str]:
    """Joins a flag and a negative value, which argparse would take for another flag.

    Args:
        argv: the command line; None for `sys.argv`.
    """
    joined: list[str] = []
    for argument in sys.argv[1:] if argv is None else argv:
        if joined and joined[-1] in VALUE_FLAGS and re.match(r"-\d", argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined
