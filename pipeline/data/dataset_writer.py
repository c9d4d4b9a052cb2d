"""Writes the prepared data set, which `dataset` reads.

`DataSetWriter` writes images and masks as .npy shards, then `dataset.json`, which names them.
`ListWriter` writes a CSV list of the file name of each example. `leftovers` finds files in the
folder that the present `dataset.json` does not name; `rollback` removes those of a failed run.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.artifacts import atomic, sha256, write_record
from pipeline.data.classes import IGNORED, Classes
from pipeline.data.dataset import SPLITS

SHARD_BYTES = 64 << 20  # of images per file, and so the memory that writing a split needs
HEADER = "split,number,picture\n"


class DataSetWriter:
    """Writes examples into shards; holds at most one unfinished shard per split in memory.

    An old data set in the folder stays valid until `finish`, which replaces `dataset.json` and
    then removes the old files.
    """

    def __init__(self, folder: Path, classes: Classes) -> None:
        self.folder, self.classes = folder, classes
        self.waiting: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {key: [] for key in SPLITS}
        self.files: dict[str, list[tuple[str, str]]] = {}
        self.pixels = {split: np.zeros(256, np.int64) for split in SPLITS}  # per mask value
        self.pictures = {split: np.zeros(256, np.int64) for split in SPLITS}  # with that value
        self.number = dict.fromkeys(SPLITS, 0)
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, split: str, image: np.ndarray, mask: np.ndarray) -> None:
        """Adds one example: uint8 RGB image (height, width, 3), uint8 mask (height, width)."""
        counts = np.bincount(mask.ravel(), minlength=256)
        self.pixels[split] += counts
        self.pictures[split] += counts > 0
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
            ignored and its number of pictures, and the share of ignored pixels; and a SHA-256
            over names and hashes of all files.
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
                "ignored_share": round(float(counts[IGNORED] / max(1, counts.sum())), 6),
            }
        return splits, hashlib.sha256(repr(sorted(self.files.items())).encode()).hexdigest()

    def finish(self, about: dict[str, Any]) -> None:
        """Writes `dataset.json` and removes the files of the data set that it replaces.

        Args:
            about: its content besides classes and files; "image_size" is [width, height].
        """
        classes = {
            "class_names": self.classes.names,
            "class_colours": self.classes.colours,
            "ignored": self.classes.ignored,
        }
        record = {**about, **classes, "files": self.files}
        write_record(self.folder / "dataset.json", record)
        for path in leftovers(self.folder, record):
            path.unlink()


class ListWriter:
    """Collects the names of examples, in the order of the arrays, in temporary files."""

    def __init__(self) -> None:
        # They live as long as the writer. A file name may be any bytes, not only UTF-8.
        self.parts = {
            split: tempfile.TemporaryFile(  # noqa: SIM115
                "w+", encoding="utf-8", errors="replace", newline=""
            )
            for split in SPLITS
        }
        self.number = dict.fromkeys(SPLITS, 0)
        self.named = False

    def add(self, split: str, name: str) -> None:
        """Adds the next example of a split; `name` is empty if its source has none."""
        row = split, self.number[split], name
        csv.writer(self.parts[split], lineterminator="\n").writerow(row)
        self.number[split] += 1
        self.named |= bool(name)

    def write(self, folder: Path) -> list[str] | None:
        """Writes the list and returns [file name, SHA-256]; None, and no file, without any name.

        The file name contains the hash, so that the list of an old data set stays until the end.
        """
        if not self.named:
            return None
        digest = hashlib.sha256(HEADER.encode())
        for part in self.parts.values():
            part.seek(0)
            for line in part:
                digest.update(line.encode())
        path = folder / f"examples-{digest.hexdigest()[:8]}.csv"
        with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(HEADER)
            for part in self.parts.values():
                part.seek(0)
                shutil.copyfileobj(part, file)
        return [path.name, digest.hexdigest()]


@contextlib.contextmanager
def rollback(folder: Path) -> Iterator[None]:
    """Removes the arrays and lists that are written in the `with` block if it fails."""
    before = leftovers(folder, {})
    try:
        yield
    except BaseException:
        for path in set(leftovers(folder, {})).difference(before):
            path.unlink(missing_ok=True)
        raise


def leftovers(folder: Path, record: dict[str, Any]) -> list[Path]:
    """Arrays and lists in `folder` that do not belong to the data set of `record`; {}: all."""
    kept = {name for parts in record.get("files", {}).values() for name, _ in parts}
    kept |= set((record.get("listing") or [])[:1])  # [name of the list, SHA-256]
    files = (*folder.glob("*.npy"), *folder.glob("examples-*.csv"))
    return [path for path in files if path.name not in kept]
