"""Finds pictures that a data set holds twice: also re-encoded, resized, mirrored, turned, brighter.

A network scores well on a test picture that it was trained on, so such a test split says little of
new pictures. Every picture gets a perceptual hash while it is written (in the sense of Zauner 2010,
"Implementation and Benchmarking of Perceptual Image Hash Functions"): magnitudes of low frequencies
of a cosine transform, which a mirrored or turned picture shares. Pictures with close hashes are
then compared pixel by pixel, as thumbnails.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pipeline.data.dataset import SPLITS, Rows

SIDE = 32  # pixels of a thumbnail
FREQUENCIES = 8  # of the cosine transform, in each direction
CELLS = 1 << 22  # pairs of hashes that are compared at a time, 4 bytes each
CLOSE = 0.98  # correlation of two hashes above which the pictures are compared
CANDIDATES = 3  # closest pictures that one is compared with
# Two pictures are the same if their thumbnails differ little, once they are as bright and as rich
# in contrast. Compression leaves small differences everywhere; what moved between two frames of a
# video leaves large ones in one place. So the largest may be this many times the mean, and a little
# more; all of values 0..255.
MEAN_DIFFERENCE = 6.0
LARGE_DIFFERENCES = ((99, 5.0, 2.0), (100, 16.0, 12.0))  # percentile, times the mean, and more
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow's grey
FLAT = 4.0  # standard deviation of the grey values below which a picture shows nothing
NAMED = 1000  # pairs that the record names


class Pair(NamedTuple):
    """A picture, and one of the same or an earlier split that shows the same."""

    split: str
    name: str
    other_split: str
    other_name: str


class Hashes:
    """Perceptual hashes of the pictures of all splits: 252 bytes each."""

    def __init__(self) -> None:
        self.by_split: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}

    def add(self, split: str, image: np.ndarray) -> None:
        """Adds one prepared picture, uint8 (height, width, 3)."""
        self.by_split[split].append(perceptual_hash(image))

    def matches(self, images: dict[str, Rows]) -> Iterator[tuple[str, int, str, int]]:
        """Yields (split, row, other split, other row) of every picture that was there before.

        The other one is of an earlier split or, if there is none, of an earlier row.

        Args:
            images: the written pictures of each split, in the order in which they were added.
        """
        for position, split in enumerate(SPLITS):
            hashes = stacked(self.by_split[split])
            same: dict[int, tuple[str, int]] = {}
            for other in (*SPLITS[:position], split):
                others = hashes if other == split else stacked(self.by_split[other])
                for row, candidates in candidates_of(hashes, others, other == split):
                    if row in same:
                        continue
                    for candidate in candidates:
                        if are_same(images[split][row], images[other][candidate]):
                            same[row] = other, candidate
                            break
            for row, (other, candidate) in sorted(same.items()):
                yield split, row, other, candidate


def cosines() -> np.ndarray:
    """The first rows of the cosine transform (DCT-II), float32 (FREQUENCIES, SIDE)."""
    rows, columns = np.mgrid[:FREQUENCIES, :SIDE]
    return np.cos(np.pi * rows * (2 * columns + 1) / (2 * SIDE)).astype(np.float32)


COSINES = cosines()
UPPER = np.triu_indices(FREQUENCIES, 1)
# High frequencies count as much as low ones, of which natural pictures have more.
WEIGHTS = np.add.outer(np.arange(FREQUENCIES), np.arange(FREQUENCIES)).astype(np.float32)


def perceptual_hash(image: np.ndarray) -> np.ndarray:
    """The hash of one picture, float32 (63,) of length 1; zeros if the picture is flat.

    Args:
        image: uint8 (height, width, 3).
    """
    grey = Image.fromarray(image).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    values = np.asarray(grey, np.float32)
    if values.std() < FLAT:
        return np.zeros(FREQUENCIES**2 - 1, np.float32)
    magnitudes = np.abs(COSINES @ (values - values.mean()) @ COSINES.T) * WEIGHTS
    # Without a sign, mirrored pictures have the same values. Sum and difference of two frequencies
    # that a transposition swaps are the same for turned ones.
    upper, lower = magnitudes[UPPER], magnitudes.T[UPPER]
    sums, differences = (upper + lower) / np.sqrt(2), np.abs(upper - lower) / np.sqrt(2)
    parts = np.concatenate([np.diagonal(magnitudes)[1:], sums, differences])
    return (parts / max(1e-6, float(np.linalg.norm(parts)))).astype(np.float32)


def stacked(hashes: list[np.ndarray]) -> np.ndarray:
    """Hashes as one array, float32 (n, 63)."""
    return np.stack(hashes) if hashes else np.empty((0, FREQUENCIES**2 - 1), np.float32)


def candidates_of(
    hashes: np.ndarray, others: np.ndarray, within: bool
) -> Iterator[tuple[int, list[int]]]:
    """Yields (row, rows of others with close hashes, closest first) where there are any.

    Args:
        hashes: float32 (n, 63).
        others: float32 (m, 63).
        within: whether both are the same array, so that only earlier rows count.
    """
    rows_at_a_time = max(1, CELLS // max(1, len(others)))
    for start in range(0, len(hashes), rows_at_a_time):
        chunk = hashes[start : start + rows_at_a_time]
        correlation = chunk @ (others[: start + len(chunk)] if within else others).T
        if within:
            correlation[:, start:] = np.tril(correlation[:, start:], -1)
        rows, columns = np.nonzero(correlation > CLOSE)
        for row in np.unique(rows):
            close = columns[rows == row]
            order = np.argsort(-correlation[row, close], kind="stable")
            yield start + int(row), close[order[:CANDIDATES]].tolist()


def thumbnail(image: np.ndarray) -> np.ndarray:
    """A picture, uint8 (height, width, 3), as float32 (SIDE, SIDE, 3)."""
    small = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, np.float32)


def are_same(image: np.ndarray, other: np.ndarray) -> bool:
    """Whether two pictures show the same, mirrored or turned, apart from brightness and contrast.

    If one of them is grey, the other is compared as grey too.

    Args:
        image, other: uint8 (height, width, 3).
    """
    values, wanted = thumbnail(image), thumbnail(other)
    if is_grey(values) or is_grey(wanted):
        values, wanted = values @ LUMINANCE, wanted @ LUMINANCE
    values = (values - values.mean()) * (wanted.std() / values.std()) + wanted.mean()
    return any(close_together(turned, wanted) for turned in all_turns(values))


def is_grey(values: np.ndarray) -> bool:
    """Whether all channels of a thumbnail are about the same."""
    return bool(np.ptp(values, axis=-1).max() < FLAT)


def all_turns(values: np.ndarray) -> Iterator[np.ndarray]:
    """A square array as it is, mirrored, and turned, in all eight ways."""
    for transposed in (values, values.swapaxes(0, 1)):
        for rows in (transposed, transposed[::-1]):
            yield rows
            yield rows[:, ::-1]


def close_together(values: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether two thumbnails have about the same pixels."""
    difference = np.abs(values - wanted)
    mean = float(difference.mean())
    return mean <= MEAN_DIFFERENCE and all(
        float(np.percentile(difference, percentile)) <= times * mean + more
        for percentile, times, more in LARGE_DIFFERENCES
    )


def record(
    hashes: Hashes, images: dict[str, Rows], names: dict[str, list[str]] | None
) -> dict[str, Any]:
    """For dataset.json: how many pictures of a split stand in it or an earlier one, and which.

    Args:
        hashes: of all pictures.
        images: the written pictures of each split.
        names: of each split; None: numbers name them.
    """
    counts: dict[str, int] = {}
    pairs = []
    for split, row, other, other_row in hashes.matches(images):
        key = f"{split} in {other}"
        counts[key] = counts.get(key, 0) + 1
        here, there = (names[split][row], names[other][other_row]) if names else (row, other_row)
        pairs.append(Pair(split, str(here), other, str(there)))
    pairs.sort(key=lambda pair: pair.split == pair.other_split)
    return {"counts": counts, "pairs": [list(pair) for pair in pairs[:NAMED]]}
