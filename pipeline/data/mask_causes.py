"""What made the values of masks what they are: smooth resizing, numbers of objects, JPEG.

Smooth resizing puts the values between two classes along their edge, so that a rim of class 1 runs
around every object of class 2. Where masks have names, this is a note, as a class may be a rim.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from pipeline.data.label_mapping import NOISY, SHOWN
from pipeline.data.masks import Mask, unpack

MOST_ROWS = 256  # of a mask that are looked at
WIDEST = 3  # pixels of a rim
FEWEST_EDGES = 40  # with fewer rims, masks are not judged
MOST_MASKS = 0.5  # share of the masks with such edges that must have rims along most of them
FEW_VALUES = 4  # that may be classes although there are rims
BY_NEAREST = "resize masks by nearest neighbour (cv2.INTER_NEAREST, PIL.Image.NEAREST)"
FEWEST_OBJECTS, SHARE_OF_MASKS = 6, 0.9  # of masks that hold 1, 2 ... as numbers of objects do


def count_rims(mask: Mask) -> np.ndarray:
    """Runs of up to WIDEST equal pixels in every fourth row or fewer, int64 (3,).

    Those whose value lies between those beside them; edges without one, of values that have others
    between them; and runs whose value does not lie between.
    """
    rows = np.asarray(mask.picture)
    rows = rows[:: max(4, rows.shape[0] // MOST_ROWS)]
    if rows.ndim != 2 or mask.levels:
        return np.zeros(3, np.int64)
    rows = rows.astype(np.int64)
    rims = bumps = 0
    in_rim = np.zeros(rows.shape, bool)
    for width in range(1, WIDEST + 1):
        if rows.shape[1] < width + 2:
            break
        before, after = rows[:, : -width - 1], rows[:, width + 1 :]
        run = rows[:, 1 : rows.shape[1] - width]
        alone = (run != before) & (run != after)
        for step in range(1, width):
            alone &= rows[:, 1 + step : rows.shape[1] - width + step] == run
        between = ((before < run) & (run < after)) | ((before > run) & (run > after))
        rims += int((alone & between).sum())
        for step in range(width):
            in_rim[:, 1 + step : rows.shape[1] - width + step] |= alone & between
        bumps += int((alone & ~between).sum())
    edges = np.abs(np.diff(rows, axis=1)) > 1
    direct = int((edges & ~in_rim[:, :-1] & ~in_rim[:, 1:]).sum())
    return np.array([rims, direct, bumps], np.int64)


@dataclass
class Rims:
    """What `count_rims` found in the masks of a data set."""

    total: np.ndarray = field(default_factory=lambda: np.zeros(3, np.int64))
    masks: int = 0  # with rims or edges
    smooth: int = 0  # of them, those with more rims than edges
    first: str = ""  # the first of these

    def add(self, counts: np.ndarray, name: str) -> None:
        """Adds one mask."""
        self.total += counts
        if counts[:2].any():
            self.masks += 1
        if counts[0] > counts[1]:
            self.smooth += 1
            self.first = self.first or name

    @property
    def are_smooth(self) -> bool:
        """Whether most masks have the values in between along most of their edges."""
        rims, direct, bumps = self.total.tolist()
        many = rims >= FEWEST_EDGES and self.smooth > MOST_MASKS * self.masks
        return many and rims > direct and rims > 2 * bumps

    def note(self) -> str:
        """A line on masks that seem to be resized smoothly; "" if they do not."""
        if not self.are_smooth:
            return ""
        return (
            f"note: {self.smooth} of {self.masks} masks, such as {self.first}, were probably "
            "resized smoothly: along their edges run thin rims of the values in between, which are "
            f"other classes; {BY_NEAREST}"
        )


def count_objects(per_mask: Iterable[tuple[int, ...] | None]) -> bool:
    """Whether values seem to be numbers of objects: each mask holds 1, 2 ... up to its own last."""
    lasts, others = Counter[int](), 0
    for values in per_mask:
        rest = [value for value in values or () if value]
        if rest == list(range(1, len(rest) + 1)):
            lasts[len(rest)] += 1
        elif rest:
            others += 1
    counted = sum(number for last, number in lasts.items() if last)
    several = len(lasts) >= 4 and max(lasts) >= FEWEST_OBJECTS
    return several and counted >= SHARE_OF_MASKS * (counted + others)


def explain(refusal: str, rims: Rims, per_mask: Iterable[tuple[int, ...] | None]) -> str:
    """A message on values that have no class, with what seems to be the cause of them.

    Args:
        refusal: of `label_mapping.settle`.
        per_mask: the values of each mask.
    """
    per_mask = list(per_mask)
    values = {value for one in per_mask for value in one or ()}
    if rims.are_smooth and len(values) > FEW_VALUES:
        return (
            f"the masks hold {len(values)} values, as smooth resizing makes them: {rims.first} has "
            f"thin rims of other values along its edges; {BY_NEAREST}, or export them again"
        )
    if count_objects(per_mask):
        return (
            "the values are numbers of objects, it seems: each mask counts its own from 1, up to "
            f"{max(values)} in all; a value must be a class: save masks of classes, or of one "
            "class, mask > 0"
        )
    return refusal


def explain_colours(name: str, counts: Counter[int]) -> str:
    """The message on masks in colours that no mapping explains.

    Args:
        name: of the first such mask.
        counts: pixels by colour in all such masks, colours numbered by `pack`.
    """
    if len(counts) > NOISY:
        return (
            f"{name} is a colour picture, with {len(counts)} different colours in all masks, as a "
            "photograph has, or a mask that was resized smoothly or once saved as JPEG; save masks "
            "as PNG, one colour per class"
        )
    common = [",".join(map(str, unpack(value))) for value, _ in counts.most_common(SHOWN)]
    example = ",".join(f"{colour}:{index}" for index, colour in enumerate(common))
    more = ",..." if len(counts) > SHOWN else ""
    return (
        f"{name} is a colour picture ({len(counts)} colours in all masks), and no mapping says "
        f"which class each one is; map them, most frequent first: --label-mapping {example}{more}"
    )
