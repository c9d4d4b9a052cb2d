"""What the values of a mask mean: names and colours of the classes, and pixels of none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

IGNORED = 255  # in prepared masks: no class; loss and metric leave the pixel out
FEWEST, MOST = 2, 150  # classes
PET_NAMES = ("pet", "background", "border")  # of Oxford-IIIT Pet
PET_COLOURS = ((242, 142, 43), (58, 72, 98), (255, 255, 255))  # colours of pet, background, border

# Okabe and Ito 2008 ("Color universal design"), told apart with every common colour blindness;
# their black comes last but one, because a dark photo hides it.
SAFE_COLOURS = (
    *((230, 159, 0), (0, 114, 178), (240, 228, 66), (0, 158, 115), (204, 121, 167)),
    *((86, 180, 233), (213, 94, 0), (20, 20, 20), (235, 235, 235)),
)


@dataclass(frozen=True)
class Classes:
    """The classes of a data set: what indices 0, 1, ... of prepared masks and logits stand for."""

    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]  # RGB, 0..255, one of each class
    ignored: bool = False  # whether masks may hold IGNORED

    def __len__(self) -> int:
        return len(self.names)

    @property
    def palette(self) -> np.ndarray:
        """uint8 (256, 3): the colour of every value that a mask can hold; IGNORED is mid-grey."""
        table = np.full((256, 3), 128, np.uint8)
        table[: len(self)] = self.colours
        return table


def make_classes(
    names: tuple[str, ...],
    colours: tuple[tuple[int, int, int], ...] | None = None,
    ignored: bool = False,
) -> Classes:
    """Classes with the colours of their source or, where it has none, with ones told apart well."""
    names = tuple(names)
    return Classes(names, tuple(colours or distinct_colours(len(names))), ignored)


def distinct_colours(number: int) -> tuple[tuple[int, int, int], ...]:
    """So many colours: the safe ones, then each as far from all before it as can be found.

    Distances are taken as eyes without red or without green cones see them as well (the linear
    approximation of Vienot, Brettel and Mollon 1999), and the least one counts.
    """
    steps = np.linspace(30, 240, 6)
    grid = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3)
    chosen = [np.array(colour, float) for colour in SAFE_COLOURS[:number]]
    away = np.full(len(grid), np.inf)
    for colour in chosen:
        away = np.minimum(away, seen_distance(grid, colour))
    while len(chosen) < number:
        chosen.append(grid[int(away.argmax())])
        away = np.minimum(away, seen_distance(grid, chosen[-1]))
    return tuple(tuple(round(value) for value in colour) for colour in chosen)


def seen_distance(colours: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Distances (n,) of RGB colours (n, 3) from one: the least of three kinds of eyes."""
    difference = colours - other
    red, green, blue = difference[..., 0], difference[..., 1], difference[..., 2]
    seen_alike = 0.11 * red + 0.89 * green  # without red cones; both then look of one hue
    without_red = np.stack([seen_alike, seen_alike, blue])
    seen_alike = 0.29 * red + 0.71 * green  # without green cones
    without_green = np.stack([seen_alike, seen_alike, blue])
    every = np.stack([red, green, blue])
    return np.min([np.linalg.norm(each, axis=0) for each in (every, without_red, without_green)], 0)
