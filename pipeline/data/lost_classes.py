"""Classes that vanish when masks are resized, and the size that keeps them.

Nearest-neighbour resizing steps over objects that are smaller than a pixel of the result. A picture
then counts as one without the class, and the IoU says nothing of what was lost.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline.base.console import progress
from pipeline.data.audit import Findings
from pipeline.data.dataset_writer import DataSetWriter
from pipeline.data.image_reader import Unreadable
from pipeline.data.image_size import flag_of, larger
from pipeline.data.label_mapping import Meaning
from pipeline.data.masks import classify
from pipeline.data.sample_source import (
    Collection,
    Reading,
    Sample,
    fit_mask,
    in_threads,
    open_sample,
)
from pipeline.data.split_selection import LEFT_OUT

# A class that keeps less of its pictures, or of its share of pixels, gets a warning.
PICTURES_KEPT, SHARE_KEPT = 0.9, 0.5
FACTORS = (1, 1.5, 2, 3, 4, 6, 8, 12, 16)  # larger sizes that are tried
PROBED = 100  # masks that are read again to find the size, if there is a warning

Resizing = tuple[tuple[int, int], str]  # height and width, one of `fitting.FITS`


def record(
    collection: Collection,
    codes: dict[str, np.ndarray],
    meaning: Meaning,
    findings: Findings,
    resizing: Resizing,
    writer: DataSetWriter,
) -> dict[str, Any]:
    """For dataset.json: the classes that resizing takes too much of, and what would keep them.

    Reads up to PROBED masks again if there is such a class, else none.

    Args:
        collection: the data set.
        codes: split of every sample, from `split_selection.cut`.
        meaning: class of each mask value.
        findings: of the audit.
        resizing: how images and masks were resized.
        writer: after `describe`.

    Returns:
        {} if there is no such class. "classes": by name, "pictures" (before and after) and
        "share" of the pixels (before and after, in the masks that were read again); "remedy": the
        flags, or "".
    """
    number = len(meaning.classes.names)
    held, kept, pixels = (
        np.sum(list(by_split.values()), axis=0)[:number]
        for by_split in (writer.held, writer.pictures, writer.pixels)
    )
    shares = np.zeros(number)
    for value, share in findings.shares.items():
        for index in meaning.classes_of((value,)):
            shares[index] += share
    few = kept < PICTURES_KEPT * held
    suspects = set(np.flatnonzero(few | ~keeps_share(shares, pixels)).tolist())
    if collection.synthetic or not suspects:
        return {}
    sizes = sizes_to_try(*resizing)
    samples = read_again(collection, codes, meaning, findings, suspects)
    pictures, probed = probe(*samples, meaning, findings.reading, [resizing, *sizes])
    lost = [k for k in sorted(suspects) if few[k] or not keeps_share(probed[0], probed[1])[k]]
    if not lost:
        return {}
    remedy = ""
    for row, (size, fit) in enumerate(sizes, start=2):
        enough = pictures[row] >= PICTURES_KEPT * pictures[0]
        if (enough & keeps_share(probed[0], probed[row]))[lost].all():
            flags = [flag_of(size)] if size != resizing[0] else []
            remedy = " ".join(flags + ([f"--fit {fit}"] if fit != resizing[1] else []))
            break
    return {
        "classes": {
            meaning.classes.names[k]: {
                "pictures": [int(held[k]), int(kept[k])],
                "share": [
                    round(float(probed[row][k] / max(1e-9, probed[row].sum())), 6) for row in (0, 1)
                ],
            }
            for k in lost
        },
        "remedy": remedy,
    }


def keeps_share(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Whether each class keeps SHARE_KEPT of its share; both are proportional to shares, (n,)."""
    return after / max(1e-9, after.sum()) >= SHARE_KEPT * before / max(1e-9, before.sum())


def sizes_to_try(size: tuple[int, int], fit: str) -> list[Resizing]:
    """Larger sizes, the smallest first; of each also "pad" if the fit cuts sides off."""
    fits = (fit, "pad") if fit == "crop" else (fit,)
    sizes = [(larger(size, factor), fit) for factor in FACTORS for fit in fits]
    return [(larger_size, fit) for larger_size, fit in sizes if larger_size][1:]


def read_again(
    collection: Collection,
    codes: dict[str, np.ndarray],
    meaning: Meaning,
    findings: Findings,
    suspects: set[int],
) -> tuple[int, Iterator[Sample]]:
    """At most PROBED samples that hold one of the classes, evenly spaced: number and samples."""
    chosen = {
        split: np.array(
            [code != LEFT_OUT and bool(meaning.classes_of(v or ()) & suspects)
             for code, v in zip(codes[split], findings.mask_values[split])],
            bool,
        )
        for split in collection.splits
    }  # fmt: skip
    total = sum(int(part.sum()) for part in chosen.values())
    step = max(1, -(-total // PROBED))
    samples = itertools.chain.from_iterable(
        itertools.compress(collection.splits[split].read(), part.tolist())
        for split, part in chosen.items()
    )
    return len(range(0, total, step)), itertools.islice(samples, 0, None, step)


def probe(
    number: int,
    samples: Iterator[Sample],
    meaning: Meaning,
    reading: Reading,
    resizings: list[Resizing],
) -> tuple[np.ndarray, np.ndarray]:
    """What masks hold at their own size and in each way of resizing.

    Args:
        number: of the samples.
        samples: photographs and masks.
        meaning: class of each mask value.
        reading: how the files are read.
        resizings: ways to resize.

    Returns:
        Number of pictures with each class, and sum of its shares of the pixels, both
        (1 + ways, classes); row 0 is at the masks' own size.
    """
    classes = len(meaning.classes.names)
    work = functools.partial(
        shares_of, meaning=meaning, reading=reading, resizings=resizings, classes=classes
    )
    pictures = np.zeros((1 + len(resizings), classes), np.int64)
    shares = np.zeros((1 + len(resizings), classes))
    with progress("looking for a size that keeps all classes", number, "masks") as bar:
        for _, result in in_threads(work, samples, bar):
            pictures += result > 0
            shares += result
    return pictures, shares


def shares_of(
    sample: Sample, meaning: Meaning, reading: Reading, resizings: list[Resizing], classes: int
) -> np.ndarray:
    """Shares of the pixels of one mask, see `probe`; zeros if the sample cannot be read."""
    try:
        image, mask, levels = open_sample(sample, reading)
        whole = np.asarray(classify(mask, meaning.table, levels))
        resized = (fit_mask(mask, levels, image.size, meaning, *way) for way in resizings)
        counts = [np.bincount(m.ravel(), minlength=256)[:classes] for m in (whole, *resized)]
    except (Unreadable, ValueError):  # changed since the audit
        return np.zeros((1 + len(resizings), classes))
    return np.array([count / max(1, count.sum()) for count in counts])
