"""Audits all masks before anything is written: their values, the class of each, and faults.

Of most photographs, only the header is read. Before evaluation, no decision uses more of the test
split than this audit.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pipeline.base.console import UserError, progress
from pipeline.base.text_table import shortened, text_table
from pipeline.data import mask_causes, orientation
from pipeline.data.classes import IGNORED
from pipeline.data.inspection import (
    Content,
    Kind,
    inspect,
    too_many_values,
    unless_contradicting,
)
from pipeline.data.label_mapping import SHOWN, Labels, Meaning, settle
from pipeline.data.mask_causes import Rims
from pipeline.data.masks import ALPHA, COLOUR, GREY, INDEX, OPAQUE, unpack
from pipeline.data.palettes import Palettes, Reference, meaning_of
from pipeline.data.photo_audit import Photos
from pipeline.data.sample_source import (
    FAULTS,
    READING,
    VALUES,
    Collection,
    Fault,
    Reading,
    Sample,
    in_threads,
)

LISTED = 40  # rows of the table at most, if some values have no class
# Signs that masks were once saved as JPEG, from `Mask.edges`. In a drawn mask, 1/8 of the value
# changes lie at multiples of 8 pixels, and hardly a pixel differs from both of its neighbours.
FEWEST_CHANGES = 500  # with fewer value changes, masks are not judged
ON_GRID = 0.15  # share of changes at multiples of 8 above which ...
ISOLATED = 0.12  # ... and share of isolated pixels, per change, above which masks are refused


@dataclass
class Findings:
    """What the masks of a collection hold, and how its files are to be read."""

    # By split, the values of each sample's mask in ascending order; None if it has a fault.
    mask_values: dict[str, list[tuple[int, ...] | None]] = field(default_factory=dict)
    kinds: dict[str, list[Kind | None]] = field(default_factory=dict)  # by split, of each sample
    faults: list[Fault] = field(default_factory=list)
    pixels: Counter[int] = field(default_factory=Counter)  # by value
    shares: Counter[int] = field(default_factory=Counter)  # by value, sum of its shares of a mask
    pictures: Counter[int] = field(default_factory=Counter)  # by value, masks that hold it
    first_mask: dict[int, str] = field(default_factory=dict)  # by value, the first mask with it
    palettes: Palettes = field(default_factory=Palettes)
    photos: Photos = field(default_factory=Photos)
    drawn_on: Counter[str] = field(default_factory=Counter)  # what masks were drawn on
    edges: np.ndarray = field(default_factory=lambda: np.zeros(3, np.int64))  # sum of `Mask.edges`
    by_alpha: Counter[bool | None] = field(default_factory=Counter)  # by `Content.says_by_alpha`
    without_mask: int = 0  # pictures that are taken as background
    rims: Rims = field(default_factory=Rims)  # along the edges of classes
    skipped: list[tuple[str, str]] = field(default_factory=list)  # pages that are not read; why
    flat: set[int] = field(default_factory=set)  # values of masks that hold no other
    reading: Reading = READING
    notes: list[str] = field(default_factory=list)  # what was decided, one line each

    @property
    def in_alpha(self) -> bool:
        """Whether the masks differ in transparency only."""
        return self.by_alpha[True] > 0 == self.by_alpha[False] and len(self.flat) < 2


# --- reading the masks --------------------------------------------------------------------


def scan(collection: Collection, mask_orientation: str | None = None) -> Findings:
    """Reads all masks, and what is needed of the photographs; decides how the files are read.

    Synthetic masks are not read: they are taken to hold every class. Indexed masks are read again
    if their palettes differ.

    Args:
        collection: the data set.
        mask_orientation: of --mask-orientation: what masks were drawn on of which nothing tells.

    Raises:
        UserError: masks are in colours that no mapping explains, or nothing tells what the values
            of indexed masks mean.
    """
    labels, notes = collection.labels, []
    findings = read_all(collection, COLOUR if labels.by_colour else INDEX)
    meaning, note = meaning_of(findings.palettes, labels)
    if findings.in_alpha and not labels.by_colour:
        meaning = ALPHA
        notes.append(
            f"note: {findings.by_alpha[True]} masks differ in transparency only: transparent "
            f"pixels are 0, opaque ones {OPAQUE}"
        )
        findings = read_all(collection, ALPHA)
    elif meaning == GREY:
        notes.append(note)
        kinds = findings.kinds  # with the palettes
        findings = read_all(collection, GREY)
        findings.kinds = kinds
    elif findings.palettes.used and findings.palettes.disagree():
        findings = read_all(collection, INDEX, findings.palettes.reference())
    if number := collection.without_mask:
        findings.without_mask = number
        notes.append(f"note: {number} pictures without a mask are taken as background all over")
    rule = mask_orientation or orientation.rule_for(findings.drawn_on)
    notes.append(orientation.note(findings.drawn_on, rule, mask_orientation is not None))
    notes.append(findings.rims.note())
    findings.notes = [line for line in notes + findings.photos.notes() if line]
    masks = COLOUR if labels.by_colour else meaning
    findings.reading = Reading(masks, rule, findings.photos.rules())
    return findings


def read_all(collection: Collection, meaning: str, reference: Reference | None = None) -> Findings:
    """Reads all masks with one meaning of indices; a mask that contradicts `reference` is a fault.

    Raises:
        UserError: masks are in colours that no mapping explains.
    """
    findings = Findings(faults=list(collection.faults))
    labels = collection.labels
    shared: dict[Any, Any] = {}  # equal tuples of values, and equal words, are stored once
    colour_counts: Counter[int] = Counter()  # pixels by colour, of masks in unexplained colours
    first_coloured = ""
    work = functools.partial(inspect, collection=collection, meaning=meaning)
    for split, (number, read) in collection.splits.items():
        if collection.synthetic:
            values = tuple(range(len(labels.names or ())))
            findings.first_mask.update(dict.fromkeys(values, collection.title))
            findings.mask_values[split] = [values] * number
            continue
        per_mask: list[tuple[int, ...] | None] = []
        kinds: list[Kind | None] = []
        findings.mask_values[split], findings.kinds[split] = per_mask, kinds
        with progress(f"checking {split}", number, "masks") as bar:
            for sample, result in in_threads(work, read(), bar):
                if isinstance(result, Content) and reference:
                    result = unless_contradicting(result, sample, reference)
                if isinstance(result, Content):
                    if (pages := result.photo.pages) > 1:
                        reason = f"the first of its {pages} pages is read, the others are not"
                        findings.skipped.append((sample.image.name, reason))
                    findings.by_alpha[result.says_by_alpha] += 1
                    findings.flat |= result.counts.keys() if len(result.counts) == 1 else set()
                    result = result if result.counts else too_many_values(sample.mask.name)
                if isinstance(result, Fault):
                    findings.faults.append(result)
                    per_mask.append(None)
                    kinds.append(None)
                    continue
                if result.colours:
                    first_coloured = first_coloured or sample.mask.name
                    colour_counts.update(result.counts)
                else:
                    add_content(findings, sample, result)
                values = tuple(sorted(result.counts))
                per_mask.append(shared.setdefault(values, values))
                kinds.append(shared.setdefault(result.kind, result.kind))
    if colour_counts and not findings.in_alpha:
        raise UserError(mask_causes.explain_colours(first_coloured, colour_counts))
    return findings


def add_content(findings: Findings, sample: Sample, content: Content) -> None:
    """Adds the content of one mask to the findings."""
    findings.palettes.add(content.palette, content.counts)
    findings.photos.add(content.photo)
    findings.rims.add(content.rims, sample.mask.name)
    findings.drawn_on[content.drawn_on] += 1
    if content.edges is not None:
        findings.edges += content.edges
    total = sum(content.counts.values())
    for value, count in content.counts.items():
        findings.pixels[value] += count
        findings.shares[value] += count / total  # type: ignore[assignment]
        findings.pictures[value] += 1
        findings.first_mask.setdefault(value, sample.mask.name)


# --- deciding on classes ------------------------------------------------------------------


def judge(collection: Collection, findings: Findings, padded: bool) -> Meaning:
    """Decides which class each value is; adds a fault for every sample with an unknown value.

    Args:
        collection: the data set.
        findings: result of `scan`; its `faults` and `mask_values` are changed in place.
        padded: whether padding adds ignored pixels.

    Raises:
        UserError: masks were once saved as JPEG or resized smoothly; or like
            `label_mapping.settle`.
    """
    palette, labels = {}, collection.labels
    if findings.reading.masks == ALPHA:
        labels = replace(labels, mapping={OPAQUE: 1, **labels.mapping})
    if findings.palettes.used and not findings.palettes.greys_only():
        palette = findings.palettes.reference().colours
    if labels.by_colour:
        palette = {value: unpack(value) for value in findings.pixels}
    try:
        meaning = settle(labels, findings.first_mask, palette, padded)
    except UserError as error:
        values = itertools.chain(*findings.mask_values.values())
        raise UserError(mask_causes.explain(str(error), findings.rims, values)) from None
    changes, on_grid, isolated = findings.edges
    noisy = on_grid > ON_GRID * changes and isolated > ISOLATED * changes
    if changes >= FEWEST_CHANGES and noisy and findings.rims.are_smooth:
        raise UserError(
            f"{findings.rims.note().removeprefix('note: ')}; if all values are classes, name "
            "these: --names A,B,C"
        )
    if changes >= FEWEST_CHANGES and noisy:
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
            name = shortened(meaning.classes.names[index])
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
    content = {"values": values, "left_out": {kind: left_out[kind] for kind in FAULTS}}
    number = findings.without_mask
    return {**content, "without_mask": number} if number else content
