"""Assigns examples to splits.

Refuses data sets with too many faults (`refuse`), cuts missing splits (`cut`) of pictures whose
masks are not ignored altogether, and decodes the examples that are used (`decoded`).
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from pipeline.base import commands
from pipeline.base.console import UserError, progress, say
from pipeline.data.audit import Findings
from pipeline.data.classes import IGNORED
from pipeline.data.dataset import SPLITS
from pipeline.data.image_reader import Unreadable
from pipeline.data.label_mapping import Labels, Meaning
from pipeline.data.sample_source import (
    FAULTS,
    UNREADABLE,
    Collection,
    Fault,
    Sample,
    decode,
    in_threads,
)
from pipeline.data.split_rules import SHARES, Choose

FEWEST_PICTURES = 10  # needed in all splits together
SEEDS = 100  # that are tried to find one that leaves every class in the training split
LEFT_OUT = 255  # in place of an index into SPLITS: the example is in no split


def refuse(faults: list[Fault], number: int, skip_bad: float) -> None:
    """Raises UserError if more than the share `skip_bad` of `number` examples has faults."""
    if len(faults) <= skip_bad * number:
        return
    first = min(faults, key=lambda fault: FAULTS.index(fault.kind))
    kinds = Counter(fault.kind for fault in faults)
    same_kind = kinds.pop(first.kind)
    more = f" ({same_kind} such faults)" if same_kind > 1 else ""
    others = "".join(
        f"; also {kind} ({count}): {next(fault.text for fault in faults if fault.kind == kind)}"
        for kind, count in kinds.items()
    )
    share = math.ceil(100 * len(faults) / max(1, number)) / 100
    skip = f"; to skip faulty examples: --skip-bad {share:g}" if share < 1 else ""
    raise UserError(f"{first.text}{more}{others}{skip}")


def labelled(findings: Findings, meaning: Meaning, split: str) -> np.ndarray:
    """Whether the mask of each example has a pixel of a class, bool (n,); not so with a fault.

    Args:
        split: of the data set.
    """
    per_mask = findings.mask_values[split]
    return np.array([bool(meaning.classes_of(values or ())) for values in per_mask], bool)


def note_unlabelled(collection: Collection, findings: Findings, meaning: Meaning) -> None:
    """Prints a note if every pixel of some masks is ignored."""
    number, first = 0, ""
    for split, per_mask in findings.mask_values.items():
        usable = np.array([values is not None for values in per_mask], bool)
        rows = np.flatnonzero(usable & ~labelled(findings, meaning, split))
        if len(rows) and not first:
            first = next(itertools.islice(collection.splits[split].read(), int(rows[0]), None)).id
        number += len(rows)
    if number:
        say(
            f"note: every pixel of {number} masks is ignored, such as the mask of {first}: nothing "
            "is learned from them or measured on them, and none is cut off for validation or test"
        )


def cut(findings: Findings, choose: Choose, meaning: Meaning) -> dict[str, np.ndarray]:
    """Assigns every example to training, validation or test.

    Splits of the data set stay as they are. `choose` cuts a missing test split off the training
    split, then a missing validation split off the rest. It takes only examples whose masks have
    pixels of classes.

    Returns:
        By split of the data set, uint8 (n,): for each example an index into SPLITS, or LEFT_OUT.

    Raises:
        UserError: a split has no mask with pixels of classes, or there are fewer than
            FEWEST_PICTURES examples.
    """
    chosen, useful = {}, {}
    for split, per_mask in findings.mask_values.items():
        usable = np.array([values is not None for values in per_mask], bool)
        chosen[split] = np.where(usable, SPLITS.index(split), LEFT_OUT).astype(np.uint8)
        useful[split] = labelled(findings, meaning, split)
    for split in SHARES:
        if split not in chosen:
            rows = np.flatnonzero((chosen["train"] == SPLITS.index("train")) & useful["train"])
            if len(rows):
                chosen["train"][rows[choose(rows, split)]] = SPLITS.index(split)
    counts, useful_counts = np.zeros(256, int), np.zeros(256, int)
    for split, codes in chosen.items():
        counts += np.bincount(codes, minlength=256)
        useful_counts += np.bincount(codes[useful[split]], minlength=256)
    empty = [split for k, split in enumerate(SPLITS) if not useful_counts[k]]
    number = int(counts[: len(SPLITS)].sum())
    if empty or number < FEWEST_PICTURES:
        ignored = " with labelled pixels" * bool(empty and counts[SPLITS.index(empty[0])])
        raise UserError(
            f"only {number} pictures with masks can be used"
            + (f", none{ignored} for {empty[0]}" if empty else "")
            + f"; add more: at least {FEWEST_PICTURES} are needed, at least one in each split"
        )
    return chosen


def refuse_absent(
    labels: Labels,
    findings: Findings,
    meaning: Meaning,
    chosen: dict[str, np.ndarray],
    with_seed: Callable[[int], Choose],
) -> None:
    """Raises UserError if a class is in no mask of the training split.

    Args:
        labels: what was known before the masks were read.
        findings, meaning: of the audit.
        chosen: result of `cut`.
        with_seed: the rule that cut the splits, with another seed.
    """
    names = meaning.classes.names
    absent = absent_classes(findings, meaning, chosen)
    if not absent:
        return
    others = len(absent) - 1
    more = f" (nor {others} more {'class' if others == 1 else 'classes'})" if others else ""
    start = f"no mask of the training split holds the class {names[absent[0]]!r}{more}"
    holders = {
        split: sum(
            absent[0] in meaning.classes_of(values or ()) and code != LEFT_OUT
            for values, code in zip(per_mask, chosen[split])
        )
        for split, per_mask in findings.mask_values.items()
    }
    if holders.get("train"):
        cuts = ((seed, cut(findings, with_seed(seed), meaning)) for seed in range(SEEDS))
        good = (seed for seed, codes in cuts if not absent_classes(findings, meaning, codes))
        seed = next(good, None)
        remedy = f"{holders['train']} pictures of other splits do; "
        remedy += "add more of them" if seed is None else f"cut the splits anew: --seed {seed}"
    elif any(holders.values()):
        listed = " and ".join(f"{number} of {split}" for split, number in holders.items() if number)
        remedy = f"pictures of other splits do ({listed}); move some of them to the training split"
    else:
        remedy = f"name only classes that the masks hold: {flags_without(absent, labels, meaning)}"
        values = sorted(v for v, index in meaning.table.items() if index != IGNORED)
        if labels.names and not labels.by_colour and values[:1] == [1] and values[-1] <= len(names):
            listed = commands.line(",".join(names[value - 1] for value in values))
            mapping = ",".join(f"{value}:{k}" for k, value in enumerate(values))
            remedy += f"; if mask values start at 1: --names {listed} --label-mapping {mapping}"
    raise UserError(f"{start}; {remedy}; to accept this: --skip-bad 0.01")


def absent_classes(
    findings: Findings, meaning: Meaning, chosen: dict[str, np.ndarray]
) -> list[int]:
    """The classes that no mask of the training split holds; arguments as of `refuse_absent`."""
    trained = {
        meaning.table[value]
        for split, per_mask in findings.mask_values.items()
        for values, code in zip(per_mask, chosen[split])
        if code == SPLITS.index("train")
        for value in values or ()
    }
    return [index for index in range(len(meaning.classes.names)) if index not in trained]


def flags_without(absent: list[int], labels: Labels, meaning: Meaning) -> str:
    """The flags that name all classes but some, and map the values to what is left of them."""
    kept = [index for index in range(len(meaning.classes.names)) if index not in absent]
    names = ",".join(meaning.classes.names[index] for index in kept)
    pairs = [
        f"{labels.format_value(value)}:{kept.index(index)}"
        for value, index in sorted(meaning.table.items())
        if index in kept and (labels.by_colour or kept.index(index) != value)
    ]
    if labels.by_colour:  # what a file says of the others
        others = sorted(value for value, index in meaning.table.items() if index in absent)
        pairs += [f"{labels.format_value(value)}:ignore" for value in others]
    flags = f"--names {commands.line(names)}"
    return flags + (f" --label-mapping {','.join(pairs)}" if pairs else "")


class Example(NamedTuple):
    """One decoded sample of a split."""

    split: str
    id: str  # of the sample
    image: np.ndarray  # as `sample_source.decode` returns it
    mask: np.ndarray
    held: frozenset[int] | None  # classes in the mask before it was resized; None: as in `mask`
    origin: tuple[str, int]  # split of the data set, and the sample's number in it


def decoded(
    collection: Collection,
    chosen: dict[str, np.ndarray],
    meaning: Meaning,
    findings: Findings,
    size: tuple[int, int],
    fit: str,
) -> Iterator[Example]:
    """Yields every sample that `cut` assigned to a split, decoded and resized.

    Args:
        collection: the data set.
        chosen: result of `cut`.
        meaning: class of each mask value.
        findings: of the audit; samples that cannot be decoded are added to its faults and not
            yielded.
        size: height and width of the results.
        fit: one of `fitting.FITS`.
    """

    def work(sample: Sample) -> tuple[np.ndarray, np.ndarray] | Fault:
        try:
            return decode(sample, meaning, findings.reading, size, fit)
        except Unreadable as error:
            return Fault(UNREADABLE, f"{error}; {collection.remedy}")

    for split, (_, read) in collection.splits.items():
        codes = chosen[split]
        used = np.flatnonzero(codes != LEFT_OUT)
        samples = itertools.compress(read(), (codes != LEFT_OUT).tolist())
        with progress(f"reading {split}", len(used), "images") as bar:
            for row, (sample, result) in zip(used, in_threads(work, samples, bar)):
                if isinstance(result, Fault):
                    findings.faults.append(result)
                    continue
                values = findings.mask_values[split][row] or ()
                held = None if collection.synthetic else meaning.classes_of(values)
                yield Example(SPLITS[codes[row]], sample.id, *result, held, (split, int(row)))
