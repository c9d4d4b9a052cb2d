"""Reads the prepared data set in models/dataset/.

Images and masks are memory-mapped from .npy shards (`load_split`); `dataset.json` holds classes and
image size (`load_classes`, `load_size`); a CSV list holds the file name of each example
(`names_of`). `dataset_writer` writes all of this; nothing here writes or needs it.
"""

from __future__ import annotations

import csv
import mmap
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.artifacts import artifact_path, command, read_record
from pipeline.base.console import UserError
from pipeline.base.files import fault_of
from pipeline.data.classes import Classes

SPLITS = ("train", "validation", "test")
RESIDENT_BYTES = 256 << 20  # bytes read of a split until its memory pages are released


class Rows:
    """Read-only view of one array that is stored in several .npy files.

    An index gives what NumPy gives, or raises what NumPy raises, but always a copy: rows are read
    out of the memory-mapped files. The mapped pages are released after every RESIDENT_BYTES, so
    that the memory of the process does not grow with the number of rows read.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.shards = [np.load(path, mmap_mode="r") for path in paths]
        self.starts = np.cumsum([0] + [len(shard) for shard in self.shards])
        self.shape = (int(self.starts[-1]), *self.shards[0].shape[1:])
        self.dtype, self.bytes_read = self.shards[0].dtype, 0
        self.numbers = np.arange(len(self))  # NumPy finds in it which rows an index means

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, tuple):
            return self.index_axes(index)
        if np.ndim(index) > 1 and np.asarray(index).dtype == bool:  # a mask of several axes
            return self[:][index]
        return self.copy_rows(self.numbers[index])

    def index_axes(self, index: tuple) -> np.ndarray:
        """The answer to an index of several axes, from the rows that it needs.

        If it does not begin with an integer or a slice, all rows are read.
        """
        first, *others = index or (...,)
        if isinstance(first, slice):
            return self[first][(slice(None), *others)]
        if isinstance(first, (int, np.integer)) and not isinstance(first, bool):
            return self.copy_rows(self.numbers[first, None])[(0, *others)]
        return self[:][index]

    def copy_rows(self, numbers: np.ndarray) -> np.ndarray:
        """Copies rows out of the files.

        Args:
            numbers: of the rows, in 0..len(self) - 1, an array of any shape or an integer.

        Returns:
            Array of the shape of `numbers`, followed by that of a row.
        """
        rows = np.ravel(numbers)
        copied = np.empty((len(rows), *self.shape[1:]), self.dtype)
        shards = np.searchsorted(self.starts, rows, side="right") - 1
        for shard in np.unique(shards):
            in_shard = shards == shard
            copied[in_shard] = self.shards[shard][rows[in_shard] - self.starts[shard]]
        self.release_pages(copied.nbytes)
        return copied.reshape(*np.shape(numbers), *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All rows as an array, for `np.asarray`."""
        return self[:] if dtype is None else self[:].astype(dtype)

    def release_pages(self, read: int) -> None:
        """Adds `read` bytes to the count; above RESIDENT_BYTES, releases the mapped pages."""
        self.bytes_read += read
        if self.bytes_read > RESIDENT_BYTES and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            self.bytes_read = 0
            for shard in self.shards:
                shard._mmap.madvise(mmap.MADV_DONTNEED)


Split = tuple[Rows, Rows]  # uint8 images (n, height, width, 3), masks (n, height, width)


def load_split(models_dir: Path, split: str) -> Split:
    """Memory-maps one split of the prepared data set; everything that reads it uses this function.

    Args:
        split: "train", "validation" or "test"; only evaluation.py reads "test".

    Returns:
        uint8 RGB images (n, height, width, 3), and uint8 masks (n, height, width) whose values
        are class indices (see `load_classes`) or IGNORED.

    Raises:
        UserError: the data set is missing, incomplete or was changed.
    """
    about = read_record(models_dir, "dataset")
    folder = artifact_path(models_dir, "dataset").parent
    arrays = []
    try:
        for kind in ("images", "masks"):
            paths = []
            for name, digest in about["files"][f"{split}_{kind}"]:
                if fault := fault_of(folder / name, digest):
                    raise ValueError(f"{name} {fault}")
                paths.append(folder / name)
            arrays.append(Rows(paths))
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"the data set in {folder} is incomplete or was changed ({error}); "
            f"make it anew with: {command('dataset', models_dir)}"
        ) from None
    return arrays[0], arrays[1]


def load_classes(models_dir: Path) -> Classes:
    """Classes of the prepared masks; raises UserError like `read_record`."""
    about = read_record(models_dir, "dataset")
    try:
        colours = tuple(
            (int(red), int(green), int(blue)) for red, green, blue in about["class_colours"]
        )
        return Classes(tuple(about["class_names"]), colours, bool(about["ignored"]))
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{artifact_path(models_dir, 'dataset')} does not list its classes; "
            f"make it anew with: {command('dataset', models_dir)}"
        ) from None


def load_size(models_dir: Path) -> tuple[int, int]:
    """Height and width of the prepared images in pixels; raises UserError like `read_record`."""
    width, height = read_record(models_dir, "dataset")["image_size"]
    return height, width


def load_photo_rules(models_dir: Path) -> dict[str, Any]:
    """What `photographs.rules_from` takes, for the photographs of the prepared data set.

    {} if all of them are of 8 bits and have no fourth band. Raises UserError like `read_record`.
    """
    return read_record(models_dir, "dataset").get("photos", {})


def names_of(models_dir: Path, split: str, numbers: Collection[int]) -> dict[int, str]:
    """Returns the source file names of some examples, by row number in a split.

    Examples without a name are left out; a data set without a list gives {}.

    Raises:
        UserError: the list is missing or was changed.
    """
    listing = read_record(models_dir, "dataset").get("listing")
    if not listing:
        return {}
    name, digest = listing
    path = artifact_path(models_dir, "dataset").with_name(name)
    if fault := fault_of(path, digest):
        raise UserError(f"{path} {fault}; make it anew with: {command('dataset', models_dir)}")
    with path.open(encoding="utf-8", newline="") as file:
        rows = (row for row in csv.reader(file) if row[0] == split)
        return {int(number): name for _, number, name in rows if name and int(number) in numbers}
