"""Classes of a data set: names, display colours, and the mask value of ignored pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

IGNORED = 255  # value of ignored pixels in prepared masks; loss and metrics leave them out
FEWEST, MOST = 2, 150  # number of classes that is supported
PET_NAMES = ("pet", "background", "border")  # of Oxford-IIIT Pet
PET_COLOURS = ((242, 142, 43), (58, 72, 98), (255, 255, 255))  # of pet, background, border

# Okabe and Ito 2008 ("Color universal design"): distinct for all common colour vision
# deficiencies. Their black comes second to last, because dark photographs hide it.
# matplotlib 3.10 does not have this palette; its petroff10 is as distinct, but docs/camvid.png and
# the data sets that users prepared show these colours.
SAFE_COLOURS = (
    *((230, 159, 0), (0, 114, 178), (240, 228, 66), (0, 158, 115), (204, 121, 167)),
    *((86, 180, 233), (213, 94, 0), (20, 20, 20), (235, 235, 235)),
)


Colour = tuple[int, int, int]  # RGB, 0..255


@dataclass(frozen=True)
class Classes:
    """Classes of a data set. Index k in prepared masks and logits is the class `names[k]`."""

    names: tuple[str, ...]
    colours: tuple[Colour, ...]  # one per class
    ignored: bool = False  # whether masks may hold IGNORED

    def __len__(self) -> int:
        return len(self.names)

    @property
    def palette(self) -> np.ndarray:
        """uint8 (256, 3): RGB colour of every possible mask value; values of no class are grey."""
        table = np.full((256, 3), 128, np.uint8)
        table[: len(self)] = self.colours
        return table


def make_classes(
    names: tuple[str, ...],
    colours: tuple[Colour, ...] | None = None,
    ignored: bool = False,
) -> Classes:
    """Returns `Classes` with the given colours, or with `distinct_colours` if there are none."""
    names = tuple(names)
    return Classes(names, tuple(colours or distinct_colours(len(names))), ignored)


def distinct_colours(number: int) -> tuple[Colour, ...]:
    """Returns `number` RGB colours (0..255) that are easy to tell apart.

    The first are SAFE_COLOURS. Each further one is the colour of a 6 x 6 x 6 grid that is
    farthest from all before it, by `seen_distance`.
    """
    steps = np.linspace(30, 240, 6)
    grid = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3)
    chosen = [np.array(colour, float) for colour in SAFE_COLOURS[:number]]
    distance = np.full(len(grid), np.inf)  # of each grid colour from the nearest chosen one
    for colour in chosen:
        distance = np.minimum(distance, seen_distance(grid, colour))
    while len(chosen) < number:
        chosen.append(grid[int(distance.argmax())])
        distance = np.minimum(distance, seen_distance(grid, chosen[-1]))
    return tuple(tuple(round(value) for value in colour) for colour in chosen)


def seen_distance(colours: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Distances (n,) of RGB colours (n, 3) from one colour (3,), as the worst-off viewer sees them.

    The minimum of three Euclidean distances: normal vision, protanopia (no red cones) and
    deuteranopia (no green cones), by the linear approximation of Vienot, Brettel and Mollon 1999.
    """
    difference = colours - other
    red, green, blue = difference[..., 0], difference[..., 1], difference[..., 2]
    red_green = 0.11 * red + 0.89 * green  # protanopia sees red and green as one hue
    protanopia = np.stack([red_green, red_green, blue])
    red_green = 0.29 * red + 0.71 * green  # so does deuteranopia, with other weights
    deuteranopia = np.stack([red_green, red_green, blue])
    normal = np.stack([red, green, blue])
    return np.min([np.linalg.norm(rgb, axis=0) for rgb in (normal, protanopia, deuteranopia)], 0)
