"""What the values in masks mean: which class each is, or none; said by a source and its user."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.base.console import UserError
from pipeline.data.classes import FEWEST, IGNORED, MOST, Classes, make_classes
from pipeline.data.masks import Colour, pack, unpack

NOISY = 40  # values without names: so many are a photograph, or were once a JPEG
SHOWN = 12  # values that a message lists
IGNORE = ("ignore", "ignored", "ignore_label")  # what a mapping calls no class


@dataclass(frozen=True)
class Labels:
    """What is said of the values before any mask was looked at."""

    names: tuple[str, ...] | None = None
    colours: tuple[Colour, ...] | None = None  # of the classes
    mapping: dict[int, int] = field(default_factory=dict)  # value to index, or to IGNORED
    by_colour: bool = False  # values are colours, packed
    if_found: frozenset[int] = frozenset()  # values that, where they occur, are no class

    def said(self, value: int) -> str:
        """A value as the user writes it."""
        return ",".join(map(str, unpack(value))) if self.by_colour else str(value)


@dataclass(frozen=True)
class Meaning:
    """What the values of one data set mean, all of its masks seen."""

    classes: Classes
    table: dict[int, int]  # by value, index or IGNORED
    unknown: frozenset[int]  # values that occur and are no class


# --- said on the command line -------------------------------------------------------------


def parse_names(text: str) -> list[str]:
    """Names of classes from `a,b,c`, or from a file with one a line; an argparse type."""
    lines = text.split(",")
    if os.path.isfile(text):  # Path.is_file raises on a list that is longer than names of files
        lines = Path(text).read_text(encoding="utf-8", errors="replace").splitlines()
    names = [line.strip() for line in lines if line.strip()]
    if fault := fault_of_names(names):
        raise argparse.ArgumentTypeError(f"{text}: {fault}")
    return names


def fault_of_names(names: Sequence[str]) -> str:
    """What is wrong with names of classes; empty if nothing is."""
    if twice := [name for name in names if names.count(name) > 1]:
        return f"the class {twice[0]!r} is named twice"
    if not FEWEST <= len(names) <= MOST:
        return f"{len(names)} classes, and {FEWEST} to {MOST} are possible"
    return ""


def parse_mapping(text: str) -> dict[str, int | str]:
    """`255:1,0:0` or, for colours, `255,0,0:1,0,0,0:0`: value or colour to class or `ignore`.

    An argparse type.
    """
    number = r"\s*\d+\s*"
    entry = rf"({number}(?:,{number},{number})?):([^:,]+)"
    found = re.findall(entry, text)
    if not found or not re.fullmatch(rf"{entry}(?:,{entry})*", text):
        raise argparse.ArgumentTypeError(
            f"{text} is no mapping; write VALUE:CLASS, as in 255:1,0:0, or R,G,B:CLASS"
        )
    if len({"," in value for value, _ in found}) > 1:
        raise argparse.ArgumentTypeError(f"{text} mixes values and colours")
    pairs = [(re.sub(r"\s", "", value), target.strip()) for value, target in found]
    return {value: int(to) if to.isdecimal() else to for value, to in pairs}


def with_user(
    labels: Labels,
    names: list[str] | None,
    ignore_index: int | None,
    mapping: dict[str, int | str] | None,
) -> Labels:
    """What a source says, and over it what the user says.

    Raises:
        UserError: a class of the mapping that there is not, a number where there are colours.
    """
    if names and names != list(labels.names or ()):
        labels = replace(labels, names=tuple(names), colours=None)
    table: dict[int, int] = {}
    by_colour = labels.by_colour
    for value, target in (mapping or {}).items():
        parts = [int(part) for part in value.split(",")]
        by_colour = len(parts) == 3
        if max(parts) > (255 if by_colour else 65535):
            raise UserError(f"--label-mapping: no mask holds {value}")
        table[pack(tuple(parts)) if by_colour else parts[0]] = index_of(target, labels.names)
    if by_colour == labels.by_colour:
        table = {**labels.mapping, **table}
    if ignore_index is not None and by_colour:
        raise UserError("--ignore-index is for numbers; of colours: --label-mapping R,G,B:ignore")
    if ignore_index is not None:
        table[ignore_index] = IGNORED
    return replace(labels, mapping=table, by_colour=by_colour)


def index_of(target: int | str, names: tuple[str, ...] | None) -> int:
    """The index of the class that a mapping names by number or name; raises UserError if none."""
    if target in IGNORE or target == IGNORED:
        return IGNORED
    if target in (names or ()):
        return names.index(target)
    most = len(names) if names else MOST
    if isinstance(target, int) and 0 <= target < most:
        return target
    known = f"the classes are 0..{most - 1}" + (f", {', '.join(names[:SHOWN])}" if names else "")
    raise UserError(f"the label mapping names a class {target!r}; {known}, or ignore")


def read_labelmap(path: Path, void: Colour) -> Labels:
    """CVAT's labelmap.txt: `name:r,g,b:parts:actions` a line, in the order of the classes.

    Args:
        void: the colour of no class, where masks have it and no class does.

    Raises:
        UserError: a line is something else, or two classes have one colour.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    parts = [line.split(":") for line in lines if line.strip() and not line.startswith("#")]
    names = tuple(part[0].strip() for part in parts)
    try:
        colours = tuple(tuple(int(value) for value in part[1].split(",")) for part in parts)
        if not all(len(c) == 3 and 0 <= min(c) <= max(c) <= 255 for c in colours):
            raise ValueError
    except (ValueError, IndexError):
        raise UserError(f"{path}: each line must be NAME:RED,GREEN,BLUE::, with 0..255") from None
    mapping = {pack(colour): index for index, colour in enumerate(colours)}
    if len(mapping) < len(colours):
        raise UserError(f"{path}: two classes have one colour; give each its own")
    if fault := fault_of_names(names):
        raise UserError(f"{path}: {fault}")
    return Labels(names, colours, mapping, True, frozenset({pack(void)}))


# --- settled when all masks are seen ------------------------------------------------------


def settle(
    labels: Labels, found: dict[int, str], palette: dict[int, Colour], padded: bool
) -> Meaning:
    """The classes, and what each value means.

    A value that no mapping names stands for the class of its own number, unless another value
    was mapped to that. Masks that know no 0 count from 1, as the trimaps of Oxford-IIIT Pet do.

    Args:
        found: by value, the name of a mask that holds it.
        palette: by value, the colour that masks give it, if they do.
        padded: whether there will be pixels of no class in any case.

    Raises:
        UserError: the values are no classes, and nothing says what they are.
    """
    mapping = dict.fromkeys(labels.if_found & found.keys(), IGNORED) | labels.mapping
    values = sorted(value for value in found if mapping.get(value) != IGNORED)
    taken = {to for to in mapping.values() if to != IGNORED}
    most = 0 if labels.by_colour else MOST
    own = {v: v for v in values if v < most and v not in mapping and v not in taken}
    names = labels.names
    if counts_from_one(values, taken, names):
        own = {value: value - 1 for value in values}
        names = names or tuple(f"class {value}" for value in values)
    if names is None:
        names = unnamed({**own, **mapping}, values, labels, found)
    if fault := fault_of_names(names):
        raise UserError(f"the masks hold {fault}")
    known = {value: to for value, to in own.items() if to < len(names)} | mapping
    if over := [to for to in taken if to >= len(names)]:
        raise UserError(f"the label mapping names a class {max(over)}; there are {len(names)}")
    colours = labels.colours or colours_of(known, palette, len(names))
    classes = make_classes(names, colours, padded or IGNORED in known.values())
    return Meaning(classes, known, frozenset(values) - known.keys())


def counts_from_one(values: list[int], taken: set[int], names: tuple[str, ...] | None) -> bool:
    """Whether values are 1..k for k classes: nothing is mapped to a class, and there is no 0."""
    if taken or not values or values[0] < 1:
        return False
    return values[-1] == len(names) if names else values == list(range(1, len(values) + 1))


def colours_of(
    table: dict[int, int], palette: dict[int, Colour], number: int
) -> tuple[Colour, ...] | None:
    """The colours of so many classes, if a palette gives each one of its own."""
    given = {table[value]: colour for value, colour in palette.items() if value in table}
    colours = tuple(given[index] for index in range(number) if index in given)
    return colours if len(set(colours)) == number else None


def unnamed(
    meant: dict[int, int], values: list[int], labels: Labels, found: dict[int, str]
) -> tuple[str, ...]:
    """Names of classes that have none, if their numbers count from 0 without a gap."""
    targets = sorted({to for value, to in meant.items() if to != IGNORED and value in values})
    number = len(targets)
    if labels.by_colour:
        number = max((to for to in meant.values() if to != IGNORED), default=0) + 1
        if number < FEWEST:
            raise UserError(f"the label mapping knows one class; {FEWEST} are the fewest")
        return tuple(f"class {index}" for index in range(number))
    all_meant = all(value in meant for value in values)
    if all_meant and number >= FEWEST and targets == list(range(number)):
        return tuple(f"class {index}" for index in targets)
    listed = ", ".join(map(str, values[:SHOWN])) + (", ..." if len(values) > SHOWN else "")
    if all_meant and number < FEWEST:
        where = found[values[0]] if values else "no mask"
        raise UserError(
            f"the masks hold {'the one value ' + listed if values else 'no value'} ({where}), and "
            f"{FEWEST} classes are the fewest: draw what is to be told apart in them"
        )
    odd = next((v for k, v in enumerate(values) if v != k), values[-1])
    start = f"{found[odd]} holds the value {odd}, and the masks together {listed}"
    if len(values) > NOISY:
        raise UserError(
            f"{start} ({len(values)} values): that is a photograph, or was saved as JPEG once; "
            "save masks as PNG whose pixels are the numbers of classes"
        )
    plain = [value for value in values if value != 255]
    remedy = ",".join(f"{v}:{k}" for k, v in enumerate(values) if v != k)
    gap = plain in (list(range(len(plain))), list(range(1, len(plain) + 1)))
    ignore = ""
    if 255 in values and len(plain) >= FEWEST:
        ignore = f"{', or ' if not gap else ''}--ignore-index 255 if that is no class"
        remedy = "" if gap else remedy
    raise UserError(
        f"{start}: numbers of classes go 0, 1, 2 without a gap; say what is meant: "
        + (f"--label-mapping {remedy}" if remedy else "")
        + ignore
    )
