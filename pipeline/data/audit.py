"""All masks looked at before anything is written: what they hold, what it means, what is wrong.

Photographs are looked at for their size only. Of the test split nothing else is ever looked at.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from pipeline.base.console import UserError, progress
from pipeline.data.classes import IGNORED
from pipeline.data.image_reader import Unreadable, agrees
from pipeline.data.label_mapping import NOISY, SHOWN, Labels, Meaning, settle
from pipeline.data.masks import Colour, Mask, open_mask, unpack
from pipeline.data.sample_source import (
    FAULTS,
    JPEG,
    PALETTE,
    SIZES,
    UNREADABLE,
    VALUES,
    Collection,
    Example,
    Fault,
    fetch,
    in_threads,
)

LISTED = 40  # rows of the table of values that nothing explains
# What masks have that were once JPEG: an eighth of all changes from pixel to pixel lies at
# multiples of 8 by chance, and hardly a pixel differs from both neighbours where things are drawn.
FEWEST_EDGES, ON_GRID, ALONE = 500, 0.15, 0.12


class Look(NamedTuple):
    """What one mask holds."""

    counts: dict[int, int]  # pixels of each value
    palette: dict[int, Colour]
    colours: bool  # that nothing was said of
    edges: np.ndarray | None  # `Mask.edges`, where nothing tells the classes from noise


@dataclass
class Findings:
    """What the masks of a collection hold."""

    held: dict[str, list[tuple[int, ...] | None]] = field(default_factory=dict)
    # by split, for each example the values of its mask; None for one that has a fault
    faults: list[Fault] = field(default_factory=list)
    pixels: Counter[int] = field(default_factory=Counter)
    pictures: Counter[int] = field(default_factory=Counter)
    first: dict[int, str] = field(default_factory=dict)  # by value, a mask that holds it
    palette: dict[int, tuple[Colour, str]] = field(default_factory=dict)  # and who has it so
    edges: np.ndarray = field(default_factory=lambda: np.zeros(3, np.int64))


# --- looking ------------------------------------------------------------------------------


def scan(collection: Collection) -> Findings:
    """Looks at all masks, and at the heads of the photographs for their size.

    Raises:
        UserError: masks are colours that nothing was said of.
    """
    findings = Findings(faults=list(collection.faults))
    labels, seen = collection.labels, {}  # equal tuples of values are kept once
    colourful: Counter[int] = Counter()
    first_colourful = ""
    for split, (number, read) in collection.splits.items():
        if collection.drawn:
            held = tuple(range(len(labels.names)))
            findings.first.update(dict.fromkeys(held, collection.title))
            findings.held[split] = [held] * number
            continue
        held = findings.held[split] = []
        with progress(f"looking at {split}", number, "masks") as bar:
            looks = in_threads(lambda one: look(one, labels, collection.any_shape), read(), bar)
            for example, found in looks:
                if isinstance(found, Look) and found.colours:
                    first_colourful = first_colourful or example.mask_name
                    colourful.update(found.counts)
                elif isinstance(found, Look):
                    found = note(findings, example, found)
                if isinstance(found, Fault):
                    findings.faults.append(found)
                    held.append(None)
                else:
                    values = tuple(sorted(found.counts))
                    held.append(seen.setdefault(values, values))
    if colourful:
        raise UserError(explain_colours(first_colourful, colourful))
    return findings


def look(example: Example, labels: Labels, any_shape: bool) -> Look | Fault:
    """What one mask holds, or what is wrong with its example."""
    try:
        mask: Mask = open_mask(fetch(example.mask), example.mask_name, labels.by_colour)
        size = mask.picture.size
        good, other = (True, size)
        if not any_shape:
            good, other = agrees(fetch(example.image), example.image_name, size)
    except Unreadable as error:
        return Fault(UNREADABLE, f"{error}; mend or remove it")
    name = example.mask_name
    if mask.jpeg:
        blur = "which invents values between those of the classes"
        return Fault(JPEG, f"{name} is a JPEG, {blur}; export masks as PNG")
    if not good:
        sizes = f"{size[0]} x {size[1]} pixels, and its image {other[0]} x {other[1]}"
        return Fault(SIZES, f"{name} has {sizes}; draw it on this image")
    counts = mask.counts
    if not counts:
        many = "thousands of values, as a photograph or a mask that was once saved as JPEG does"
        return Fault(VALUES, f"{name} holds {many}; save masks as PNG, one number for each class")
    colours = mask.picture.mode == "RGB" and not labels.by_colour
    unsaid = labels.names is None and not labels.mapping and mask.picture.mode == "L"
    return Look(counts, mask.palette, colours, mask.edges if unsaid else None)


def note(findings: Findings, example: Example, found: Look) -> Look | Fault:
    """Adds what one mask holds to what all hold, unless its palette contradicts the others'."""
    for value, colour in found.palette.items():
        known, where = findings.palette.setdefault(value, (colour, example.mask_name))
        if known != colour:
            return Fault(
                PALETTE,
                f"in the palette of {example.mask_name} {value} is the colour {written(colour)}, "
                f"in that of {where} {written(known)}, so that the same number would mean two "
                "things; say what the colours mean instead: --label-mapping R,G,B:CLASS,...",
            )
    if found.edges is not None:
        findings.edges += found.edges
    for value, count in found.counts.items():
        findings.pixels[value] += count
        findings.pictures[value] += 1
        findings.first.setdefault(value, example.mask_name)
    return found


def written(colour: Colour) -> str:
    """A colour as the command line takes it."""
    return ",".join(map(str, colour))


def explain_colours(name: str, found: Counter[int]) -> str:
    """What is said of masks in colours that nothing explains."""
    if len(found) > NOISY:
        return (
            f"{name} is a picture in colours, {len(found)} different ones in all masks, as a "
            "photograph or a mask that was once saved as JPEG has; save masks as PNG"
        )
    common = [written(unpack(value)) for value, _ in found.most_common(SHOWN)]
    example = ",".join(f"{colour}:{index}" for index, colour in enumerate(common))
    more = ",..." if len(found) > SHOWN else ""
    return (
        f"{name} is a picture in colours ({len(found)} in all masks), and nothing says which "
        f"class each one is; say it, most frequent first: --label-mapping {example}{more}"
    )


# --- judging ------------------------------------------------------------------------------


def judge(collection: Collection, findings: Findings, padded: bool) -> Meaning:
    """What the values mean; examples with values of no class get their fault.

    Args:
        padded: whether pictures get an edge, which is no class.

    Raises:
        UserError: as `labels.settle`.
    """
    palette = {value: colour for value, (colour, _) in findings.palette.items()}
    labels = collection.labels
    if labels.by_colour:
        palette = {value: unpack(value) for value in findings.pixels}
    meaning = settle(labels, findings.first, palette, padded)
    changes, on_grid, alone = findings.edges
    if changes >= FEWEST_EDGES and on_grid > ON_GRID * changes and alone > ALONE * changes:
        raise UserError(
            f"the masks look as if they were once saved as JPEG ({on_grid / changes:.0%} of the "
            "edges in them lie on its grid of 8 pixels), which invents values: export them again "
            "as PNG; if all values are classes indeed, name these: --names A,B,C"
        )
    names = meaning.classes.names
    known = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    for split, held in findings.held.items():
        if not any(meaning.unknown.intersection(values or ()) for values in held):
            continue
        for row, example in enumerate(collection.splits[split].read()):
            if odd := sorted(meaning.unknown.intersection(held[row] or ())):
                value = labels.said(odd[0])
                text = (
                    f"{example.mask_name} holds the value {value}, which is no class (there are "
                    f"{len(names)}: {known}); say what it is: --label-mapping {value}:CLASS, or "
                    f"{value}:ignore"
                )
                findings.faults.append(Fault(VALUES, text))
                held[row] = None
    return meaning


def table(labels: Labels, findings: Findings, meaning: Meaning | None) -> list[str]:
    """What each value is, its share of all pixels and how many pictures hold it, as lines.

    Nothing for drawn masks, which nobody need look at; no classes without a meaning.
    """
    if not findings.pixels:
        return []
    total = max(1, findings.pixels.total())
    rows = [("value", "class", "share of pixels", "pictures")]
    for value in sorted(findings.pixels):
        index = meaning.table.get(value) if meaning else None
        name = "no class: ignored" if index == IGNORED else "no class: refused" if meaning else "?"
        if index is not None and index != IGNORED:
            name = meaning.classes.names[index]
        share = f"{findings.pixels[value] / total:.4f}"
        rows.append((labels.said(value), name, share, str(findings.pictures[value])))
    if len(rows) > LISTED and (not meaning or meaning.unknown):
        rows = rows[:LISTED]
    left, wide = (max(len(row[column]) for row in rows) for column in (0, 1))
    return [f"{row[0]:>{left}}  {row[1]:<{wide}}  {row[2]:>15}  {row[3]:>8}" for row in rows]


def record(findings: Findings, meaning: Meaning) -> dict[str, Any]:
    """What the record of a data set keeps: of each value its meaning and pixels, and faults."""
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
