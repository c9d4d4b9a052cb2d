"""A search for the smallest number that keeps to a limit, where a try takes a minute."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# If the largest share nearly keeps to the limits, smaller ones are tried too: memory does not fall
# at every step (the default network: 256 kB without 0.9 of its channels, 205 kB without 0.88).
BELOW_MOST = (1, 2, 4, 8)  # by how many hundredths they are smaller
NEARLY = 1.5  # times the limit


def smallest(pressure: Callable[[int], float], most: int) -> int | None:
    """The smallest number that keeps to a limit, found with few tries.

    Args:
        pressure: falls with the number, if not at every step; at most 1 where the limit is kept
            to. It is asked once for each number that is tried, for 0 first.
        most: the largest number.

    Returns:
        A number that keeps to the limit, while the one below it does not; None if neither `most`
        does nor those below it that are tried. Where `pressure` does not fall at every step, there
        may be a smaller one.
    """
    tried = {0: pressure(0)}
    if tried[0] <= 1:
        return 0
    for high in (most - below for below in (0, *BELOW_MOST) if most > below):
        tried[high] = pressure(high)
        if tried[high] <= 1:
            return narrowed(pressure, tried, high)
        if tried[most] > NEARLY:
            break
    return None


def narrowed(pressure: Callable[[int], float], tried: dict[int, float], high: int) -> int:
    """A number, at most `high`, that keeps to the limit, while the one below it does not.

    Args:
        tried: by number, its pressure: of 0, which does not keep to the limit, of `high`, which
            does, and others.
    """
    low, widths = 0, [high]
    while high - low > 1:
        number = (low + high) // 2
        if len(widths) < 3 or 2 * widths[-1] <= widths[-3]:  # else two tries gained little
            number = on_a_line(tried, low, high) or number
        number = min(max(number, low + 1), high - 1)
        tried[number] = pressure(number)
        low, high = (low, number) if tried[number] <= 1 else (number, high)
        widths.append(high - low)
    return high


def on_a_line(tried: dict[int, float], low: int, high: int) -> int | None:
    """Where a line through two tries reaches the limit, from `low` to `high`; None if nowhere.

    The two that are nearest to the limit; if their line does not meet it there, `low` and `high`.
    """
    nearest = sorted(tried, key=lambda number: abs(tried[number] - 1))[:2]
    for a, b in (nearest, (low, high)):
        slope = (tried[b] - tried[a]) / (b - a)
        if slope < 0 and np.isfinite(slope):
            number = int(np.ceil(a + (1 - tried[a]) / slope))
            if low <= number <= high:
                return number
    return None
