"""Which examples are used and for what: refused, cut into splits, decoded."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline.base.console import UserError, progress
from pipeline.data.audit import Findings
from pipeline.data.classes import IGNORED
from pipeline.data.dataset import SPLITS
from pipeline.data.image_reader import Unreadable
from pipeline.data.label_mapping import Labels, Meaning
from pipeline.data.sample_source import (
    FAULTS,
    UNREADABLE,
    Collection,
    Example,
    Fault,
    decode,
    in_threads,
)

TEST_SHARE = 0.2  # of a source that has no test split
VALIDATION_SHARE = 0.1  # of what is left for training, where the source has no validation split
FEWEST_PICTURES = 10  # in all splits together
FEW = 10  # of a split, or of a class in it: with fewer, its mean IoU is luck
FEW_CLASSES = 5  # of which that is said
LEFT_OUT = 255  # in place of an index into SPLITS


def refuse(faults: list[Fault], number: int, skip_bad: float) -> None:
    """Raises UserError if of `number` examples a larger share than `skip_bad` has faults."""
    if len(faults) <= skip_bad * number:
        return
    first = min(faults, key=lambda fault: FAULTS.index(fault.kind))
    kinds = Counter(fault.kind for fault in faults)
    same = kinds.pop(first.kind)
    more = f" ({same} such)" if same > 1 else ""
    others = "".join(
        f"; and {kind} ({count}): {next(fault.text for fault in faults if fault.kind == kind)}"
        for kind, count in kinds.items()
    )
    share = math.ceil(100 * len(faults) / max(1, number)) / 100
    without = f"; to go on without: --skip-bad {share:g}" if share < 1 else ""
    raise UserError(f"{first.text}{more}{others}{without}")


def cut(findings: Findings, seed: int) -> dict[str, np.ndarray]:
    """Which examples become training, validation and test.

    What the source has cut stays so. A missing test split is TEST_SHARE of the source's training
    split, a missing validation split then VALIDATION_SHARE of what is left; the seed says which.

    Returns:
        For each split of the source, by example, uint8 (n,): an index into SPLITS, or LEFT_OUT.
    """
    chosen = {}
    for split, held in findings.held.items():
        usable = np.array([values is not None for values in held], bool)
        chosen[split] = np.where(usable, SPLITS.index(split), LEFT_OUT).astype(np.uint8)
    for split, share in (("test", TEST_SHARE), ("validation", VALIDATION_SHARE)):
        train = np.flatnonzero(chosen["train"] == SPLITS.index("train"))
        if split not in chosen and len(train):
            cut_off = train[cut_validation(len(train), share, seed)]
            chosen["train"][cut_off] = SPLITS.index(split)
    counts = sum(np.bincount(codes, minlength=256) for codes in chosen.values())
    empty = [split for k, split in enumerate(SPLITS) if not counts[k]]
    usable = int(counts[: len(SPLITS)].sum())
    if empty or usable < FEWEST_PICTURES:
        raise UserError(
            f"only {usable} pictures with masks can be used"
            + (f", none for {empty[0]}" if empty else "")
            + f"; at least {FEWEST_PICTURES} are needed, and one in each split"
        )
    return chosen


def refuse_absent(
    labels: Labels, findings: Findings, meaning: Meaning, chosen: dict[str, np.ndarray]
) -> None:
    """Raises UserError if a class is in no mask of the training split."""
    trained = {
        meaning.table[value]
        for split, held in findings.held.items()
        for values, code in zip(held, chosen[split])
        if code == SPLITS.index("train")
        for value in values
    }
    names = meaning.classes.names
    absent = [index for index in range(len(names)) if index not in trained]
    if not absent:
        return
    elsewhere = sum(findings.pictures[v] for v, to in meaning.table.items() if to == absent[0])
    more = f" (nor {len(absent) - 1} more classes)" if len(absent) > 1 else ""
    start = f"no mask of the training split holds {names[absent[0]]!r}{more}"
    if elsewhere:
        remedy = f"{elsewhere} pictures of other splits do; cut otherwise with another --seed"
    else:
        remedy = "name only classes that are drawn: --names A,B,C"
        values = sorted(v for v, to in meaning.table.items() if to != IGNORED)
        if labels.names and not labels.by_colour and values and values[0] == 1:
            mapping = ",".join(f"{k + 1}:{k}" for k in range(len(names)))
            remedy += f"; if masks count from 1: --label-mapping {mapping}"
    raise UserError(f"{start}; {remedy}; to go on all the same: --skip-bad 0.01")


def luck(splits: dict[str, dict[str, Any]]) -> str:
    """What to say of splits, and of classes in the others, that have fewer than FEW.

    Args:
        splits: "examples" and "class_pictures" of each, as `DataSetWriter.describe` gives them.

    Returns:
        One line that names the rarest; empty if there is none.
    """
    said, rare = [], {}
    for split, facts in splits.items():
        if facts["examples"] < FEW:
            said.append(f"{split} ({facts['examples']})")
            continue
        for name, number in facts["class_pictures"].items():
            if number < FEW:
                rare.setdefault(name, []).append((number, split))
    rarest = sorted(rare, key=lambda name: min(rare[name]))
    for name in rarest[:FEW_CLASSES]:
        said.append(f"{name} (in {', '.join(f'{k} of {split}' for k, split in rare[name])})")
    if len(rare) > FEW_CLASSES:
        said.append(f"{len(rare) - FEW_CLASSES} more classes")
    start = f"note: fewer than {FEW} pictures, so that IoU is luck: "
    return start + ", ".join(said) if said else ""


def decoded(
    collection: Collection,
    chosen: dict[str, np.ndarray],
    meaning: Meaning,
    size: tuple[int, int],
    fit: str,
    faults: list[Fault],
) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """The examples that `cut` chose: split, file, image and mask, as `examples.decode` makes them.

    One whose photograph turns out to be unreadable is added to `faults`.
    """

    def work(example: Example) -> tuple[np.ndarray, np.ndarray] | Fault:
        try:
            return decode(example, meaning, collection.labels.by_colour, size, fit)
        except Unreadable as error:
            return Fault(UNREADABLE, f"{error}; mend or remove it")

    for split, (_, read) in collection.splits.items():
        codes = chosen[split]
        used = codes[codes != LEFT_OUT]
        wanted = itertools.compress(read(), (codes != LEFT_OUT).tolist())
        with progress(f"reading {split}", len(used), "images") as bar:
            for code, (example, found) in zip(used, in_threads(work, wanted, bar)):
                if isinstance(found, Fault):
                    faults.append(found)
                else:
                    yield SPLITS[code], example.file, *found


def cut_validation(number: int, share: float, seed: int) -> np.ndarray:
    """Which of the examples of an official train split become validation, bool (number,)."""
    order = np.random.default_rng(seed).permutation(number)
    chosen = np.zeros(number, bool)
    chosen[order[: max(1, round(share * number))]] = True
    return chosen
