"""Writes the prepared data set: memory-mapped shards, what is in them, and the list of pictures."""

from __future__ import annotations

import csv
import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.artifacts import atomic, sha256, write_record
from pipeline.data.classes import IGNORED, Classes
from pipeline.data.dataset import SPLITS

SHARD_BYTES = 64 << 20  # of images in one file: what is held in memory while a split is written
HEAD = "split,number,picture\n"


class DataSetWriter:
    """Writes examples, split by split, into shards, holding no more than one of each split.

    Nothing of an old data set is touched before `finish`: it replaces `dataset.json`, which names
    the new files, and only then removes the old ones.
    """

    def __init__(self, folder: Path, classes: Classes) -> None:
        self.folder, self.classes = folder, classes
        self.waiting: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {key: [] for key in SPLITS}
        self.files: dict[str, list[tuple[str, str]]] = {}
        self.pixels = {split: np.zeros(256, np.int64) for split in SPLITS}  # of each mask value
        self.pictures = {split: np.zeros(256, np.int64) for split in SPLITS}  # that hold it
        self.number = dict.fromkeys(SPLITS, 0)
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, split: str, image: np.ndarray, mask: np.ndarray) -> None:
        """Takes one example: uint8 image (height, width, 3), uint8 mask of indices or IGNORED."""
        counts = np.bincount(mask.ravel(), minlength=256)
        self.pixels[split] += counts
        self.pictures[split] += counts > 0
        self.number[split] += 1
        self.waiting[split].append((image, mask))
        if image.nbytes * len(self.waiting[split]) >= SHARD_BYTES:
            self.write_shard(split)

    def write_shard(self, split: str) -> None:
        """Writes what waits of a split as one file of images and one of masks."""
        for kind, arrays in zip(("images", "masks"), zip(*self.waiting[split])):
            array, files = np.stack(arrays), self.files.setdefault(f"{split}_{kind}", [])
            digest = hashlib.sha256(array).hexdigest()
            path = self.folder / f"{split}_{kind}-{len(files):04}-{digest[:8]}.npy"
            with atomic(path) as temporary:
                np.save(temporary, array)
            files.append((path.name, sha256(path)))
        self.waiting[split] = []

    def describe(self) -> tuple[dict[str, Any], str]:
        """Writes what waits. Then, for each split, its number of examples, share of pixels and
        number of pictures of each class; and one fingerprint of every byte."""
        splits = {}
        for split in SPLITS:
            if self.waiting[split]:
                self.write_shard(split)
            counts, names = self.pixels[split], self.classes.names
            known = max(1, int(counts[: len(names)].sum()))
            splits[split] = {
                "examples": self.number[split],
                "class_shares": {n: round(float(c / known), 6) for n, c in zip(names, counts)},
                "class_pictures": {n: int(c) for n, c in zip(names, self.pictures[split])},
                "ignored_share": round(float(counts[IGNORED] / max(1, counts.sum())), 6),
            }
        return splits, hashlib.sha256(repr(sorted(self.files.items())).encode()).hexdigest()

    def finish(self, about: dict[str, Any]) -> None:
        """Puts the data set in place: `about`, the classes and the list of files.

        Args:
            about: must hold "image_size", (width, height).
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
    """Takes the names of examples in the order of the arrays; none of them stays in memory."""

    def __init__(self) -> None:
        text = {"encoding": "utf-8", "errors": "replace", "newline": ""}  # names may be any bytes
        self.parts = {
            split: tempfile.TemporaryFile("w+", **text)  # noqa: SIM115 (gone with the writer)
            for split in SPLITS
        }
        self.number = dict.fromkeys(SPLITS, 0)
        self.named = False

    def add(self, split: str, name: str) -> None:
        """The next example of a split; the name is empty where its source has none."""
        row = split, self.number[split], name
        csv.writer(self.parts[split], lineterminator="\n").writerow(row)
        self.number[split] += 1
        self.named |= bool(name)

    def write(self, folder: Path) -> list[str] | None:
        """Writes the list, named by its content so that an old one stays; its name and SHA-256.

        None, and no file, where no example has a name.
        """
        if not self.named:
            return None
        digest = hashlib.sha256(HEAD.encode())
        for part in self.parts.values():
            part.seek(0)
            for line in part:
                digest.update(line.encode())
        path = folder / f"examples-{digest.hexdigest()[:8]}.csv"
        with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(HEAD)
            for part in self.parts.values():
                part.seek(0)
                shutil.copyfileobj(part, file)
        return [path.name, digest.hexdigest()]


def leftovers(folder: Path, record: dict[str, Any]) -> list[Path]:
    """Arrays and lists of pictures that are not of the data set that has this record; {}: all."""
    kept = {name for parts in record.get("files", {}).values() for name, _ in parts}
    kept |= set((record.get("listing") or [])[:1])  # the list's name, and its SHA-256
    every = (*folder.glob("*.npy"), *folder.glob("examples-*.csv"))
    return [path for path in every if path.name not in kept]
