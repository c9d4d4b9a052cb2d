"""The prepared data set in models/dataset/: memory-mapped shards, and what their values mean."""

from __future__ import annotations

import csv
import functools
import mmap
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.artifacts import artifact_path, command, read_record, sha256
from pipeline.base.console import UserError
from pipeline.data.classes import Classes

SPLITS = ("train", "validation", "test")
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


def names_of(models_dir: Path, split: str, numbers: Collection[int]) -> dict[int, str]:
    """What the pictures of some examples are called, by their number in a split.

    Those that have no name are left out, as are all of a data set without a list.

    Raises:
        UserError: the list is missing or not the one that was written.
    """
    known = read_record(models_dir, "dataset").get("listing")
    if not known:
        return {}
    name, digest = known
    path = artifact_path(models_dir, "dataset").with_name(name)
    if not path.exists() or sha256(path) != digest:
        raise UserError(
            f"{path} is missing or was changed after it was made; "
            f"make it anew with: {command('dataset', models_dir)}"
        )
    with path.open(encoding="utf-8", newline="") as file:
        rows = (row for row in csv.reader(file) if row[0] == split)
        return {int(k): name for _, k, name in rows if name and int(k) in numbers}
