"""Writes the prepared data set, which `dataset` reads.

`DataSetWriter` writes images and masks as .npy shards, and a CSV list of the file name of each
example. `dataset.json`, the record, names them all and is written last, by the stage. `leftovers`
finds files in the folder that the present record does not name; `rollback` removes those of a
failed run.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.artifacts import Record
from pipeline.base.files import atomic, sha256
from pipeline.data.classes import IGNORED, Classes
from pipeline.data.dataset import SPLITS, Rows
from pipeline.data.same_pictures import Hashes, record

SHARD_BYTES = 64 << 20  # of images per file, and so the memory that writing a split needs
NAMES = re.compile(  # of arrays and lists
    rf"(?:{'|'.join(SPLITS)})_(?:images|masks)-\d{{4,}}-[0-9a-f]{{8}}\.npy|examples-[0-9a-f]{{8}}\.csv"
)
HEADER = ("split", "number", "picture")  # columns of the list


class DataSetWriter:
    """Writes examples into shards; holds at most one unfinished shard per split in memory.

    An old data set in the folder stays valid: names contain the hash of the content.
    """

    def __init__(self, folder: Path, classes: Classes) -> None:
        self.folder, self.classes = folder, classes
        self.waiting: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {key: [] for key in SPLITS}
        self.files: dict[str, list[tuple[str, str]]] = {}
        self.pixels = {split: np.zeros(256, np.int64) for split in SPLITS}  # per mask value
        self.pictures = {split: np.zeros(256, np.int64) for split in SPLITS}  # with that value
        self.held = {split: np.zeros(256, np.int64) for split in SPLITS}  # before resizing
        self.number = dict.fromkeys(SPLITS, 0)
        self.hashes = Hashes()
        folder.mkdir(parents=True, exist_ok=True)

    def add(
        self,
        split: str,
        image: np.ndarray,
        mask: np.ndarray,
        held: Collection[int] | None = None,
    ) -> None:
        """Adds one example.

        Args:
            split: one of SPLITS.
            image: uint8 RGB (height, width, 3).
            mask: uint8 (height, width).
            held: classes in the mask before it was resized; None: those in `mask`.
        """
        counts = np.bincount(mask.ravel(), minlength=256)
        self.pixels[split] += counts
        self.pictures[split] += counts > 0
        self.held[split][np.flatnonzero(counts) if held is None else list(held)] += 1
        self.hashes.add(split, image)
        self.number[split] += 1
        self.waiting[split].append((image, mask))
        if image.nbytes * len(self.waiting[split]) >= SHARD_BYTES:
            self.write_shard(split)

    def write_shard(self, split: str) -> None:
        """Writes the waiting examples of a split as one file of images and one of masks."""
        for kind, arrays in zip(("images", "masks"), zip(*self.waiting[split])):
            array, files = np.stack(arrays), self.files.setdefault(f"{split}_{kind}", [])
            digest = hashlib.sha256(array.data).hexdigest()
            path = self.folder / f"{split}_{kind}-{len(files):04}-{digest[:8]}.npy"
            with atomic(path) as temporary:
                np.save(temporary, array)
            files.append((path.name, sha256(path)))
        self.waiting[split] = []

    def describe(self) -> tuple[dict[str, Any], str]:
        """Writes the last shards and summarises what was written.

        Returns:
            By split, the number of examples, each class's share of the pixels that are not
            ignored and its number of pictures, as written and before resizing, and the share of
            ignored pixels; and a SHA-256 over names and hashes of all files.
        """
        splits = {}
        for split in SPLITS:
            if self.waiting[split]:
                self.write_shard(split)
            counts, names = self.pixels[split], self.classes.names
            classified = max(1, int(counts[: len(names)].sum()))
            splits[split] = {
                "examples": self.number[split],
                "class_shares": {n: round(float(c / classified), 6) for n, c in zip(names, counts)},
                "class_pictures": {n: int(c) for n, c in zip(names, self.pictures[split])},
                "class_pictures_before": {n: int(c) for n, c in zip(names, self.held[split])},
                "ignored_share": round(float(counts[IGNORED] / max(1, counts.sum())), 6),
            }
        return splits, hashlib.sha256(repr(sorted(self.files.items())).encode()).hexdigest()

    def same_pictures(self, names: dict[str, list[str]] | None) -> dict[str, Any]:
        """What `same_pictures.record` finds in the written pictures, after `describe`."""
        images = {
            split: Rows(self.folder / name for name, _ in self.files[f"{split}_images"])
            for split in SPLITS
            if f"{split}_images" in self.files
        }
        return record(self.hashes, images, names)

    def facts(self) -> dict[str, Any]:
        """What the record has to say of classes and files."""
        return {
            "class_names": self.classes.names,
            "class_colours": self.classes.colours,
            "ignored": self.classes.ignored,
            "files": self.files,
        }


def write_list(folder: Path, names: dict[str, list[str]]) -> list[str]:
    """Writes the list of the file names of the examples.

    The name of the list contains its hash, so that the list of an old data set stays.

    Args:
        names: by split, in the order of the arrays.

    Returns:
        File name and SHA-256 of the list.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for split in SPLITS:
        writer.writerows((split, number, name) for number, name in enumerate(names[split]))
    content = text.getvalue().encode("utf-8", "replace")  # a name may be any bytes
    digest = hashlib.sha256(content).hexdigest()
    path = folder / f"examples-{digest[:8]}.csv"
    with atomic(path) as temporary:
        temporary.write_bytes(content)
    return [path.name, digest]


@contextlib.contextmanager
def rollback(folder: Path) -> Iterator[None]:
    """Removes the arrays and lists that are written in the `with` block if it fails."""
    before = leftovers(folder)
    try:
        yield
    except BaseException:
        for path in leftovers(folder, before):
            path.unlink(missing_ok=True)
        raise


def remove_leftovers(folder: Path, record: Record) -> None:
    """Removes the arrays and lists in `folder` that the record of the data set does not name."""
    for path in leftovers(folder, record.files):
        path.unlink(missing_ok=True)


def leftovers(folder: Path, kept: Collection[Path] = ()) -> list[Path]:
    """Arrays and lists in `folder` that have names as this module gives, except the files `kept`.

    Other arrays and tables are the user's.
    """
    return [path for path in folder.glob("*-*") if NAMES.fullmatch(path.name) and path not in kept]
