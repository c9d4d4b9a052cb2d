"""The prepared data set in models/dataset/: memory-mapped shards, and what their values mean."""

from __future__ import annotations

import functools
import hashlib
import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts import artifact_path, atomic, command, read_record, sha256, write_record
from pipeline.classes import IGNORED, Classes
from pipeline.console import UserError

SPLITS = ("train", "validation", "test")
SHARD_BYTES = 64 << 20  # of images in one file: what is held in memory while a split is written
RESIDENT_BYTES = 256 << 20  # read of a split before its pages are given back to the system


class Rows:
    """The rows of one array that lies in several .npy files: read like an array, never held.

    Indexing (a number, a slice, a list or array of numbers) copies these rows out of
    memory-mapped files. The pages that this touched are given back now and then, so that the
    memory of a process does not grow with what it has read.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.shards = [np.load(path, mmap_mode="r") for path in paths]
        self.starts = np.cumsum([0] + [len(shard) for shard in self.shards])
        self.shape = (int(self.starts[-1]), *self.shards[0].shape[1:])
        self.dtype, self.touched = self.shards[0].dtype, 0

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        single, rows = np.isscalar(rows), np.atleast_1d(np.asarray(rows, np.int64))
        if len(rows) and not -len(self) <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"row {rows.max()} of {len(self)}")
        rows = rows % max(1, len(self))
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        shards = np.searchsorted(self.starts, rows, side="right") - 1
        for shard in np.unique(shards):
            mine = shards == shard
            found[mine] = self.shards[shard][rows[mine] - self.starts[shard]]
        self.give_back(found.nbytes)
        return found[0] if single else found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of it, for NumPy."""
        return self[:] if dtype is None else self[:].astype(dtype)

    def give_back(self, read: int) -> None:
        """Counts bytes read, and lets go of the pages in memory after RESIDENT_BYTES."""
        self.touched += read
        if self.touched > RESIDENT_BYTES:
            self.touched = 0
            for shard in self.shards:
                shard._mmap.madvise(mmap.MADV_DONTNEED)


Split = tuple[Rows, Rows]  # uint8 images (n, height, width, 3), masks (n, height, width)


def load_split(models_dir: Path, split: str) -> Split:
    """The one loader: a split of the prepared data set, memory-mapped.

    Args:
        split: "train", "validation" or "test"; only evaluation.py asks for "test".

    Returns:
        uint8 images (n, height, width, 3), RGB, and uint8 masks (n, height, width): the indices
        of `load_classes`, or IGNORED.

    Raises:
        UserError: the data set is missing or not whole.
    """
    about = read_record(models_dir, "dataset")
    folder = artifact_path(models_dir, "dataset").parent
    found = []
    try:
        for kind in ("images", "masks"):
            paths = []
            for name, digest in about["files"][f"{split}_{kind}"]:
                status = (folder / name).stat()
                if hash_of(folder / name, status.st_size, status.st_mtime_ns) != digest:
                    raise ValueError(f"{name} was changed after it was made")
                paths.append(folder / name)
            found.append(Rows(paths))
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"the data set in {folder} is not whole ({error}); "
            f"make it anew with: {command('dataset', models_dir)}"
        ) from None
    return found[0], found[1]


@functools.cache
def hash_of(path: Path, size: int, modified: int) -> str:
    """SHA-256 of an array file, read once a process unless its size or time changes."""
    return sha256(path)


def load_classes(models_dir: Path) -> Classes:
    """What the values of the prepared masks mean; raises as `read_record`."""
    about = read_record(models_dir, "dataset")
    try:
        colours = tuple(tuple(int(part) for part in colour) for colour in about["class_colours"])
        return Classes(tuple(about["class_names"]), colours, bool(about["ignored"]))
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{artifact_path(models_dir, 'dataset')} does not name its classes; "
            f"make it anew with: {command('dataset', models_dir)}"
        ) from None


def load_size(models_dir: Path) -> tuple[int, int]:
    """Height and width of the prepared images in pixels; raises as `read_record`."""
    width, height = read_record(models_dir, "dataset")["image_size"]
    return height, width


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


def leftovers(folder: Path, record: dict[str, Any]) -> list[Path]:
    """Arrays and lists of pictures that are not of the data set that has this record; {}: all."""
    kept = {name for parts in record.get("files", {}).values() for name, _ in parts}
    kept |= set((record.get("listing") or [])[:1])  # the list's name, and its SHA-256
    every = (*folder.glob("*.npy"), *folder.glob("examples-*.csv"))
    return [path for path in every if path.name not in kept]


def cut_validation(number: int, share: float, seed: int) -> np.ndarray:
    """Which of the examples of an official train split become validation, bool (number,)."""
    order = np.random.default_rng(seed).permutation(number)
    chosen = np.zeros(number, bool)
    chosen[order[: max(1, round(share * number))]] = True
    return chosen
