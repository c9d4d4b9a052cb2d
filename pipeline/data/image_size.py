"""The size that images and masks are resized to: what --image-size takes, and larger sizes."""

from __future__ import annotations

import argparse
import re

STRIDE = 32  # of the network; sides of images must be multiples of it
LARGEST = 2048  # pixels, the longest side of an image


def parse_size(text: str) -> list[int]:
    """argparse type: [width, height] from "480x352" or "128"; sides are multiples of STRIDE."""
    numbers = re.fullmatch(r"(\d+)(?:x(\d+))?", text.lower())
    if not numbers:
        raise argparse.ArgumentTypeError(f"{text} is neither PIXELS nor WIDTHxHEIGHT")
    size = [int(numbers[1]), int(numbers[2] or numbers[1])]
    nearest = [nearest_side(side) for side in size]
    if size != nearest:
        square = len(set(nearest)) == 1 and not numbers[2]
        raise argparse.ArgumentTypeError(
            f"{text}: the network halves an image five times, so sides must be multiples of "
            f"{STRIDE}, {STRIDE} to {LARGEST}; the nearest is "
            + (str(nearest[0]) if square else "x".join(map(str, nearest)))
        )
    return size


def nearest_side(side: float) -> int:
    """The allowed side that is nearest to a number of pixels."""
    return min(max(STRIDE, STRIDE * round(side / STRIDE)), LARGEST)


def flag_of(size: tuple[int, int]) -> str:
    """The flag that sets this size (height, width): "--image-size 480x352"."""
    height, width = size
    return f"--image-size {width if width == height else f'{width}x{height}'}"


def larger(size: tuple[int, int], factor: float) -> tuple[int, int] | None:
    """A size (height, width) about `factor` times as large; None if it is beyond LARGEST."""
    if max(size) * factor > LARGEST:
        return None
    return nearest_side(size[0] * factor), nearest_side(size[1] * factor)
