"""The prepared data set in models/dataset/: memory-mapped arrays and their record."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts import artifact_path, atomic, command, read_record, sha256, write_json
from pipeline.console import UserError

CLASSES = ("pet", "background", "border")
SPLITS = ("train", "validation", "test")

Split = tuple[np.ndarray, np.ndarray]  # uint8 images (n, size, size, 3), masks (n, size, size)


def load_split(models_dir: Path, split: str) -> Split:
    """The one loader: a split of the prepared data set, memory-mapped.

    Args:
        split: "train", "validation" or "test"; only evaluation.py asks for "test".

    Returns:
        uint8 images (n, size, size, 3), RGB, and uint8 masks (n, size, size): 0 pet,
        1 background, 2 border.

    Raises:
        UserError: the data set is missing or not whole.
    """
    about = read_record(models_dir, "dataset")
    folder = artifact_path(models_dir, "dataset").parent
    arrays = []
    try:
        for kind in ("images", "masks"):
            name, digest = about["files"][f"{split}_{kind}"]
            status = (folder / name).stat()
            if hash_of(folder / name, status.st_size, status.st_mtime_ns) != digest:
                raise ValueError(f"{name} was changed after it was made")
            arrays.append(np.load(folder / name, mmap_mode="r"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the data set in {folder} is not whole ({error}); "
            f"make it anew with: {command('dataset', models_dir)}"
        ) from None
    return arrays[0], arrays[1]


@functools.cache
def hash_of(path: Path, size: int, modified: int) -> str:
    """SHA-256 of an array file, read once a process unless its size or time changes."""
    return sha256(path)


def write_data_set(folder: Path, arrays: dict[str, Split], about: dict[str, Any]) -> None:
    """Writes the arrays and, last, `dataset.json`, which names them.

    Until that is replaced the old data set is whole; the old arrays go only after it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for split, pair in arrays.items():
        for kind, array in zip(("images", "masks"), pair):
            name = f"{split}_{kind}-{about['fingerprint'][:8]}.npy"
            with atomic(folder / name) as temporary:
                np.save(temporary, array)
            files[f"{split}_{kind}"] = name, sha256(folder / name)
    write_json(folder / "dataset.json", {**about, "files": files})
    kept = {name for name, _ in files.values()}
    for path in folder.glob("*.npy"):
        if path.name not in kept:
            path.unlink()


def describe(arrays: dict[str, Split]) -> tuple[dict[str, Any], str]:
    """Example count and class shares of each split, and one fingerprint of every byte."""
    digest, splits = hashlib.sha256(), {}
    for split, (images, masks) in arrays.items():
        counts = np.bincount(masks.ravel(), minlength=len(CLASSES))
        shares = {name: round(float(n / masks.size), 4) for name, n in zip(CLASSES, counts)}
        splits[split] = {"examples": len(images), "class_shares": shares}
        digest.update(images)
        digest.update(masks)
    return splits, digest.hexdigest()


def cut_validation(official: Split, share: float, seed: int) -> dict[str, Split]:
    """An official train split cut into training and validation, by the seed."""
    images, masks = official
    order = np.random.default_rng(seed).permutation(len(images))
    cut = max(1, round(share * len(images)))
    rows = {"train": np.sort(order[cut:]), "validation": np.sort(order[:cut])}
    return {split: (images[chosen], masks[chosen]) for split, chosen in rows.items()}
