"""Audits all masks before anything is written: their values, the class of each, and faults.

Of photographs, only the header is read, for their size. Before evaluation, no decision uses more
of the test split than this audit.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from pipeline.base.console import UserError, progress
from pipeline.base.text_table import text_table
from pipeline.data.classes import IGNORED, Colour
from pipeline.data.image_reader import Unreadable, agrees
from pipeline.data.label_mapping import NOISY, SHOWN, Labels, Meaning, settle
from pipeline.data.masks import Mask, open_mask, unpack
from pipeline.data.sample_source import (
    FAULTS,
    JPEG,
    PALETTE,
    SIZES,
    UNREADABLE,
    VALUES,
    Collection,
    Fault,
    Sample,
    in_threads,
)

LISTED = 40  # rows of the table at most, if some values have no class
# Signs that masks were once saved as JPEG, from `Mask.edges`. In a drawn mask, 1/8 of the value
# changes lie at multiples of 8 pixels, and hardly a pixel differs from both of its neighbours.
FEWEST_CHANGES = 500  # with fewer value changes, masks are not judged
ON_GRID = 0.15  # share of changes at multiples of 8 above which ...
ISOLATED = 0.12  # ... and share of isolated pixels, per change, above which masks are refused


class MaskContent(NamedTuple):
    """What one mask holds."""

    counts: dict[int, int]  # pixels per value
    palette: dict[int, Colour]  # colour of each value, if the mask has a palette
    colours: bool  # whether it is in colours that no mapping explains
    edges: np.ndarray | None  # `Mask.edges`, if neither names nor a mapping explain the values


@dataclass
class Findings:
    """What the masks of a collection hold."""

    # By split, the values of each sample's mask in ascending order; None if it has a fault.
    mask_values: dict[str, list[tuple[int, ...] | None]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    pixels: Counter[int] = field(default_factory=Counter)  # by value
    pictures: Counter[int] = field(default_factory=Counter)  # by value, masks that hold it
    first_mask: dict[int, str] = field(default_factory=dict)  # by value, the first mask with it
    # By value, its colour in the palettes, and the first mask whose palette has it.
    palette: dict[int, tuple[Colour, str]] = field(default_factory=dict)
    edges: np.ndarray = field(default_factory=lambda: np.zeros(3, np.int64))  # sum of `Mask.edges`


# --- reading the masks --------------------------------------------------------------------


def scan(collection: Collection) -> Findings:
    """Reads all masks, and the headers of the photographs for their size.

    Synthetic masks are not read: they are taken to hold every class.

    Raises:
        UserError: masks are in colours that no mapping explains.
    """
    findings = Findings(faults=list(collection.faults))
    shared: dict[tuple[int, ...], tuple[int, ...]] = {}  # equal tuples of values are stored once
    colour_counts: Counter[int] = Counter()  # pixels by colour, of masks in unexplained colours
    first_coloured = ""
    for split, (number, read) in collection.splits.items():
        if collection.synthetic:
            values = tuple(range(len(collection.labels.names or ())))
            findings.first_mask.update(dict.fromkeys(values, collection.title))
            findings.mask_values[split] = [values] * number
            continue
        per_mask = findings.mask_values[split] = []
        with progress(f"checking {split}", number, "masks") as bar:
            results = in_threads(lambda sample: inspect_mask(sample, collection), read(), bar)
            for sample, result in results:
                if isinstance(result, MaskContent) and result.colours:
                    first_coloured = first_coloured or sample.mask.name
                    colour_counts.update(result.counts)
                elif isinstance(result, MaskContent):
                    result = add_content(findings, sample, result)
                if isinstance(result, Fault):
                    findings.faults.append(result)
                    per_mask.append(None)
                else:
                    values = tuple(sorted(result.counts))
                    per_mask.append(shared.setdefault(values, values))
    if colour_counts:
        raise UserError(explain_colours(first_coloured, colour_counts))
    return findings


def inspect_mask(sample: Sample, collection: Collection) -> MaskContent | Fault:
    """Reads the mask of a sample; returns its content, or what is wrong with the sample."""
    labels, name = collection.labels, sample.mask.name
    try:
        mask: Mask = open_mask(sample.mask.fetch(), name, labels.by_colour)
        size = mask.picture.size
        fits, image_size = (True, size)
        if not collection.any_shape:
            fits, image_size = agrees(sample.image.fetch(), sample.image.name, size)
    except Unreadable as error:
        return Fault(UNREADABLE, f"{error}; {collection.remedy}")
    if mask.jpeg:
        reason = "which adds values between those of the classes"
        return Fault(JPEG, f"{name} is a JPEG, {reason}; export masks as PNG")
    if not fits:
        sizes = f"{size[0]} x {size[1]} pixels, and its image {image_size[0]} x {image_size[1]}"
        return Fault(SIZES, f"{name} has {sizes}; draw the mask on this image")
    counts = mask.counts
    if not counts:
        reason = "thousands of values, like a photograph or a mask once saved as JPEG"
        return Fault(VALUES, f"{name} holds {reason}; save masks as PNG, with one value per class")
    colours = mask.picture.mode == "RGB" and not labels.by_colour
    unexplained = labels.names is None and not labels.mapping and mask.picture.mode == "L"
    return MaskContent(counts, mask.palette, colours, mask.edges if unexplained else None)


def add_content(findings: Findings, sample: Sample, content: MaskContent) -> MaskContent | Fault:
    """Adds the content of one mask to the findings and returns it.

    Returns a fault instead if its palette gives a value another colour than an earlier mask does.
    """
    for value, colour in content.palette.items():
        earlier, earlier_mask = findings.palette.setdefault(value, (colour, sample.mask.name))
        if earlier != colour:
            return Fault(
                PALETTE,
                f"the value {value} has the colour {format_colour(colour)} in the palette of "
                f"{sample.mask.name}, and {format_colour(earlier)} in that of {earlier_mask}, so "
                "its class is not clear; map colours instead: --label-mapping R,G,B:CLASS,...",
            )
    if content.edges is not None:
        findings.edges += content.edges
    for value, count in content.counts.items():
        findings.pixels[value] += count
        findings.pictures[value] += 1
        findings.first_mask.setdefault(value, sample.mask.name)
    return content


def format_colour(colour: Colour) -> str:
    """A colour as the command line takes it: "255,0,0"."""
    return ",".join(map(str, colour))


def explain_colours(name: str, counts: Counter[int]) -> str:
    """The message on masks in colours that no mapping explains.

    Args:
        name: of the first such mask.
        counts: pixels by colour in all such masks, colours numbered by `pack`.
    """
    if len(counts) > NOISY:
        return (
            f"{name} is a colour picture, with {len(counts)} different colours in all masks, as a "
            "photograph or a mask once saved as JPEG has; save masks as PNG, one colour per class"
        )
    common = [format_colour(unpack(value)) for value, _ in counts.most_common(SHOWN)]
    example = ",".join(f"{colour}:{index}" for index, colour in enumerate(common))
    more = ",..." if len(counts) > SHOWN else ""
    return (
        f"{name} is a colour picture ({len(counts)} colours in all masks), and no mapping says "
        f"which class each one is; map them, most frequent first: --label-mapping {example}{more}"
    )


# --- deciding on classes ------------------------------------------------------------------


def judge(collection: Collection, findings: Findings, padded: bool) -> Meaning:
    """Decides which class each value is; adds a fault for every sample with an unknown value.

    Args:
        collection: the data set.
        findings: result of `scan`; its `faults` and `mask_values` are changed in place.
        padded: whether padding adds ignored pixels.

    Raises:
        UserError: masks were once saved as JPEG; or like `label_mapping.settle`.
    """
    palette = {value: colour for value, (colour, _) in findings.palette.items()}
    labels = collection.labels
    if labels.by_colour:
        palette = {value: unpack(value) for value in findings.pixels}
    meaning = settle(labels, findings.first_mask, palette, padded)
    changes, on_grid, isolated = findings.edges
    if changes >= FEWEST_CHANGES and on_grid > ON_GRID * changes and isolated > ISOLATED * changes:
        raise UserError(
            f"the masks were probably once saved as JPEG ({on_grid / changes:.0%} of their value "
            "changes lie on its grid of 8 pixels), which adds values; export them again as PNG; "
            "if all values are classes, name these: --names A,B,C"
        )
    names = meaning.classes.names
    listed = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    for split, per_mask in findings.mask_values.items():
        if not any(meaning.unknown.intersection(values or ()) for values in per_mask):
            continue
        for row, sample in enumerate(collection.splits[split].read()):
            if unknown := sorted(meaning.unknown.intersection(per_mask[row] or ())):
                value = labels.format_value(unknown[0])
                text = (
                    f"{sample.mask.name} holds the value {value}, which is not a class (there are "
                    f"{len(names)}: {listed}); map it: --label-mapping {value}:CLASS, or "
                    f"{value}:ignore"
                )
                findings.faults.append(Fault(VALUES, text))
                per_mask[row] = None
    return meaning


def table(labels: Labels, findings: Findings, meaning: Meaning | None) -> list[str]:
    """Lines of a table: the class, share of pixels and number of pictures of each mask value.

    Args:
        labels: how to write values.
        findings: result of `scan`.
        meaning: result of `judge`; None if it failed, then classes are "?".

    Returns:
        A header and one line per value; [] for synthetic masks, which are not read.
    """
    if not findings.pixels:
        return []
    total = max(1, findings.pixels.total())
    rows = []
    for value in sorted(findings.pixels):
        index = meaning.table.get(value) if meaning else None
        name = "no class: ignored" if index == IGNORED else "no class: refused" if meaning else "?"
        if meaning and index is not None and index != IGNORED:
            name = meaning.classes.names[index]
        share = f"{findings.pixels[value] / total:.4f}"
        rows.append((labels.format_value(value), name, share, str(findings.pictures[value])))
    shown = rows[: LISTED - 1] if not meaning or meaning.unknown else rows
    columns = ("value", 1), ("class", -1), ("share of pixels", 1), ("pictures", 1)
    return text_table(columns, shown, gap="  ")


def record(findings: Findings, meaning: Meaning) -> dict[str, Any]:
    """For dataset.json: class, pixels and pictures by value; number of faults by kind."""
    values = {
        str(value): {
            "class": None if (index := meaning.table[value]) == IGNORED else index,
            "pixels": pixels,
            "pictures": findings.pictures[value],
        }
        for value, pixels in sorted(findings.pixels.items())
        if value in meaning.table
    }
    left_out = Counter(fault.kind for fault in findings.faults)
    return {"values": values, "left_out": {kind: left_out[kind] for kind in FAULTS}}
