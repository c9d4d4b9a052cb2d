"""Maps mask values to classes, from what the data set, the command line and the masks say.

`Labels` holds what is known before the masks are read, `Meaning` the final table, which `settle`
makes once all values are known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.base.console import UserError
from pipeline.data.classes import FEWEST, IGNORED, MOST, Classes, Colour, make_classes
from pipeline.data.masks import pack, unpack
from pipeline.data.text_files import lines_of

NOISY = 40  # more values than this without class names: a photograph, or once a JPEG
SHOWN = 12  # values or names that a message lists at most
UNDECODED = re.compile(r"[\udc80-\udcff]")  # bytes that are not UTF-8, in a class name
UNWRITABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
MOST_LIKELY = 65535  # this value, larger and negative ones mark pixels without data
IGNORE = ("ignore", "ignored", "ignore_label")  # words for IGNORED in a mapping


@dataclass(frozen=True)
class Labels:
    """What is known about mask values before any mask is read."""

    names: tuple[str, ...] | None = None
    colours: tuple[Colour, ...] | None = None  # display colour per class
    mapping: dict[int, int] = field(default_factory=dict)  # value to class index or IGNORED
    by_colour: bool = False  # values are colours, numbered by `pack`
    ignored_if_present: frozenset[int] = frozenset()  # values that are ignored where they occur
    # Whether the data set itself names the classes: then those that no mask holds are left out.
    of_source: bool = False

    def format_value(self, value: int) -> str:
        """A value as the command line takes it: "7", or "255,0,0" for a colour."""
        return ",".join(map(str, unpack(value))) if self.by_colour else str(value)


@dataclass(frozen=True)
class Meaning:
    """The final mapping of a data set, made once all of its mask values are known."""

    classes: Classes
    table: dict[int, int]  # value to class index or IGNORED
    unknown: frozenset[int]  # values that occur and are not in `table`
    unused: tuple[str, ...] = ()  # classes that are left out, because no mask holds them

    def classes_of(self, values: Iterable[int]) -> frozenset[int]:
        """The classes of some values, without IGNORED."""
        return frozenset(self.table.get(value, IGNORED) for value in values) - {IGNORED}


# --- before the masks are read ------------------------------------------------------------


def fault_of_names(names: Sequence[str]) -> str:
    """What is wrong with class names, for a message; "" if nothing is."""
    if duplicates := [name for name in names if names.count(name) > 1]:
        return f"the class {duplicates[0]!r} is named twice"
    if not FEWEST <= len(names) <= MOST:
        return f"{len(names)} classes, but {FEWEST} to {MOST} are supported"
    # labels.txt in a .tflite file is UTF-8 with one name per line.
    if undecoded := [name for name in names if UNDECODED.search(name)]:
        return f"the class name {undecoded[0]!r} is not UTF-8 text; save its file as UTF-8"
    if unwritable := [name for name in names if not name or UNWRITABLE.search(name)]:
        return f"the class name {unwritable[0]!r} is not one line of text; rename it"
    return ""


def index_of(target: int | str, names: tuple[str, ...] | None) -> int:
    """Class index (or IGNORED) for a target of a mapping; raises UserError if it is no class."""
    if target in IGNORE or target == IGNORED:
        return IGNORED
    if names and target in names:
        return names.index(target)
    number = len(names) if names else MOST
    if isinstance(target, int) and 0 <= target < number:
        return target
    choice = f"0..{number - 1}" + (f", {', '.join(names[:SHOWN])}" if names else "")
    raise UserError(f"the label mapping has an unknown class {target!r}; use {choice}, or ignore")


def by_colour(
    path: Path, names: Sequence[str], fields: Iterable[Sequence[str]], form: str
) -> tuple[tuple[Colour, ...], dict[int, int]]:
    """The colours of classes, from texts for red, green and blue, and the index of each colour.

    Args:
        form: what each line of the file must be, for the message.

    Raises:
        UserError: a colour has another form or stands twice, or the names have a fault.
    """
    try:
        colours = tuple((int(red), int(green), int(blue)) for red, green, blue in fields)
        if not all(0 <= min(colour) <= max(colour) <= 255 for colour in colours):
            raise ValueError
    except (ValueError, IndexError):
        raise UserError(f"{path}: each {form}, with 0..255") from None
    mapping = {pack(colour): index for index, colour in enumerate(colours)}
    if len(mapping) < len(colours):
        raise UserError(f"{path}: two classes have the same colour; give each its own")
    if fault := fault_of_names(tuple(names)):
        raise UserError(f"{path}: {fault}")
    return colours, mapping


def read_labelmap(path: Path, void: Colour) -> Labels:
    """Reads CVAT's labelmap.txt: one line `name:r,g,b:parts:actions` per class.

    Args:
        path: of the file.
        void: colour that is ignored where it occurs, unless it is the colour of a class.

    Raises:
        UserError: a line has another form, or two classes have the same colour.
    """
    parts = [
        line.split(":") for line in lines_of(path) if line.strip() and not line.startswith("#")
    ]
    names = tuple(part[0].strip() for part in parts)
    fields = (part[1].split(",") for part in parts)
    colours, mapping = by_colour(path, names, fields, "line must be NAME:RED,GREEN,BLUE::")
    return Labels(names, colours, mapping, True, frozenset({pack(void)}), True)


# --- final mapping ------------------------------------------------------------------------


def settle(
    labels: Labels, first_mask: dict[int, str], palette: dict[int, Colour], padded: bool
) -> Meaning:
    """Decides which class each mask value is.

    A value without a mapping is the class with that index, unless another value is mapped to it.
    Masks whose values are 1..k instead of 0..k-1, like the trimaps of Oxford-IIIT Pet, are shifted
    by one.

    Args:
        labels: what is known before the masks are read.
        first_mask: for every value that occurs, the name of a mask that holds it.
        palette: colour of values in the palettes of the masks, if they have palettes.
        padded: whether padding adds ignored pixels.

    Raises:
        UserError: values are not class indices and have no mapping, or the classes are invalid.
    """
    # What the mapping says, and which values are left that it says nothing of.
    mapping = dict.fromkeys(labels.ignored_if_present & first_mask.keys(), IGNORED) | labels.mapping
    values = sorted(value for value in first_mask if mapping.get(value) != IGNORED)
    mapped_to = {index for index in mapping.values() if index != IGNORED}
    limit = 0 if labels.by_colour else MOST
    unmapped = {v: v for v in values if 0 <= v < limit and v not in mapping and v not in mapped_to}
    # Names; with 1..k for k classes, the values that are left move down by one.
    names = labels.names
    if counts_from_one(values, mapped_to, names):
        unmapped = {value: value - 1 for value in values}
        names = names or tuple(f"class {value}" for value in values)
    if names is None:
        names = unnamed({**unmapped, **mapping}, values, labels, first_mask)
    if fault := fault_of_names(names):
        raise UserError(f"classes of the masks: {fault}")
    if above := [index for index in mapped_to if index >= len(names)]:
        raise UserError(mapped_above(max(above), len(names)))
    # The table of all values, and the colours of the classes.
    table = {value: index for value, index in unmapped.items() if index < len(names)} | mapping
    used = sorted({table[value] for value in values if value in table} - {IGNORED})
    if not labels.of_source or len(used) < FEWEST:
        used = list(range(len(names)))
    unused = tuple(name for index, name in enumerate(names) if index not in used)
    place = {index: position for position, index in enumerate(used)} | {IGNORED: IGNORED}
    table = {value: place[index] for value, index in table.items() if index in place}
    names = tuple(names[index] for index in used)
    colours = tuple(labels.colours[index] for index in used) if labels.colours else None
    colours = colours or colours_of(table, palette, len(names))
    classes = make_classes(names, colours, padded or IGNORED in table.values())
    return Meaning(classes, table, frozenset(values) - table.keys(), unused)


def counts_from_one(values: list[int], mapped_to: set[int], names: tuple[str, ...] | None) -> bool:
    """Whether the sorted values are 1..k for k classes, and no value is mapped to a class."""
    if mapped_to or not values or values[0] < 1:
        return False
    return values[-1] == len(names) if names else values == list(range(1, len(values) + 1))


def colours_of(
    table: dict[int, int], palette: dict[int, Colour], number: int
) -> tuple[Colour, ...] | None:
    """Colours of `number` classes from a palette; None unless each class has its own colour."""
    by_class = {table[value]: colour for value, colour in palette.items() if value in table}
    colours = tuple(by_class[index] for index in range(number) if index in by_class)
    return colours if len(set(colours)) == number else None


def unnamed(
    table: dict[int, int], values: list[int], labels: Labels, first_mask: dict[int, str]
) -> tuple[str, ...]:
    """Makes up names ("class 0", ...) for classes without names.

    Args:
        table: class index or IGNORED, by value, as far as it is known.
        values: all values that occur and are not ignored, sorted.
        labels: what is known before the masks are read.
        first_mask: for every value that occurs, the name of a mask that holds it.

    Raises:
        UserError: the class indices are not 0, 1, 2 ... without gaps, or fewer than FEWEST.
    """
    # A mapping of colours names all classes, also those that no mask holds.
    named = table.keys() if labels.by_colour else table.keys() & set(values)
    indices = sorted({table[value] for value in named} - {IGNORED})
    number = max(indices, default=-1) + 1
    complete = labels.by_colour or (table.keys() >= set(values) and indices == list(range(number)))
    if complete and number >= FEWEST:
        return tuple(f"class {index}" for index in range(number))
    if labels.by_colour:
        raise UserError(one_colour_mapped())
    if table.keys() >= set(values) and len(indices) < FEWEST:
        raise UserError(too_few_values(values, first_mask))
    raise UserError(values_without_class(values, first_mask))


# --- messages -----------------------------------------------------------------------------


def listed(values: list[int]) -> str:
    """The first SHOWN values."""
    return ", ".join(map(str, values[:SHOWN])) + (", ..." if len(values) > SHOWN else "")


def mapped_above(index: int, number: int) -> str:
    """The message on a mapping to a class index, where there are `number` classes."""
    return (
        f"the label mapping has a class {index}, but there are {number} classes, "
        f"0..{number - 1}; correct --label-mapping, or name more classes: --names A,B,C"
    )


def one_colour_mapped() -> str:
    """The message on a mapping of colours to fewer than FEWEST classes."""
    return f"the label mapping has one class, but at least {FEWEST} are needed; add the others"


def too_few_values(values: list[int], first_mask: dict[int, str]) -> str:
    """The message on masks that hold fewer than FEWEST classes; arguments as of `unnamed`."""
    example = first_mask[values[0]] if values else "no mask"
    return (
        f"the masks hold {'only the value ' + listed(values) if values else 'no value'} "
        f"({example}), but at least {FEWEST} classes are needed; draw each class with a value of "
        "its own"
    )


def values_without_class(values: list[int], first_mask: dict[int, str]) -> str:
    """The message on values that are not 0, 1, 2 ... without gaps; arguments as of `unnamed`.

    Its remedy is a mapping of all values, or to ignore 255 if the others are classes without it.
    Negative and large values are ignored in it. Values without gaps have no class only where a
    mapping of the user's names others.
    """
    pairs = [f"{value}:{index}" for index, value in enumerate(values)]
    if values == list(range(MOST + 1)):  # as ADE20K has them
        start = f"the masks hold {len(values)} values, 0 to {MOST}, and {MOST} classes are the most"
        return f"{start}; if 0 is no class: --ignore-index 0"
    if values == list(range(values[0], values[0] + len(values))) and values[0] in (0, 1):
        return (
            f"all masks hold {listed(values)}, as in {first_mask[values[-1]]}, and --label-mapping "
            f"gives not all of them a class; leave it out, or: --label-mapping {','.join(pairs)}"
        )
    unexpected = next((v for k, v in enumerate(values) if v != k), values[-1])
    start = (
        f"{first_mask[unexpected]} holds the value {unexpected}; all masks hold {listed(values)}"
    )
    if len(values) > NOISY:
        return (
            f"{start} ({len(values)} values), like photographs or masks once saved as JPEG; "
            "save masks as PNG whose pixel values are class indices"
        )
    no_data = [value for value in values if not 0 <= value < MOST_LIKELY]
    others = [value for value in values if value not in no_data]
    classes = [value for value in others if value != IGNORED]
    may_ignore = IGNORED in others and len(classes) >= FEWEST
    classes, to_ignore = (classes, [IGNORED, *no_data]) if may_ignore else (others, no_data)
    no_gap = classes in (list(range(len(classes))), list(range(1, len(classes) + 1)))
    ignored = to_ignore if no_gap else no_data
    pairs = [] if no_gap else [f"{v}:{k}" for k, v in enumerate(others) if v != k]
    pairs += [f"{value}:ignore" for value in ignored]
    remedies = [f"--label-mapping {','.join(pairs)}"]
    if to_ignore and no_gap and len(to_ignore) == 1:
        remedies = [f"--ignore-index {to_ignore[0]} if that is not a class"]
    elif may_ignore and not no_gap:
        remedies.append("--ignore-index 255 if that is not a class")
    rule = "class indices must be 0, 1, 2 ... without gaps; map the values"
    return f"{start}; {rule}: {', or '.join(remedies)}"
