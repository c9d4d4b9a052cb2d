"""Whether a mask was drawn on a photograph as it is stored or as it is shown, by EXIF data.

A photograph with an EXIF orientation is turned upright. Its mask, if it has no orientation of its
own, was drawn on the stored pixels or on the upright photograph. The shape of the mask tells which,
unless the two have the same shape: then the rest of the data set decides.
"""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image

from pipeline.data.decoding import TURNS

SIDEWAYS = (5, 6, 7, 8)  # orientations whose operation swaps width and height
STORED, SHOWN = "stored", "shown"  # what a mask was drawn on
OWN, UNKNOWN = "own orientation", "unknown"  # the mask says it itself; nothing tells


class Placement(NamedTuple):
    """How a mask lies over its photograph."""

    fits: bool  # whether they have the same shape, in some way
    drawn_on: str  # STORED, SHOWN, OWN, or UNKNOWN; "" where the photograph is not to be turned


def same_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes (width, height) have the same aspect ratio, up to one pixel of rounding."""
    (width, height), (w, h) = size, other
    return abs(width * h - height * w) <= max(width + height, w + h) and min(*size, *other) > 0


def place(
    mask_size: tuple[int, int], own: int, photo_size: tuple[int, int], orientation: int
) -> Placement:
    """Finds out what a mask was drawn on.

    Args:
        mask_size: width and height of the mask, after its own orientation was obeyed.
        own: orientation that the mask's file states, 1..8; 0 if it states none.
        photo_size: width and height of the photograph as stored.
        orientation: of the photograph, 1..8.
    """
    sideways = orientation in SIDEWAYS
    upright = photo_size[::-1] if sideways else photo_size
    as_shown, as_stored = same_shape(mask_size, upright), same_shape(mask_size, photo_size)
    if own > 1:
        return Placement(as_shown, OWN)
    if orientation == 1:
        return Placement(as_shown, "")
    if sideways and not as_shown:
        return Placement(as_stored, STORED)
    if sideways and not as_stored:
        return Placement(True, SHOWN)
    return Placement(as_shown, OWN if own == 1 else UNKNOWN)


def turned(mask: Image.Image, drawn_on: str, orientation: int, rule: str) -> Image.Image:
    """The mask of an upright photograph, turned like it if it was drawn on the stored pixels.

    Args:
        mask: after its own orientation was obeyed.
        drawn_on: from `place`.
        orientation: of the photograph's stored pixels, 1..8.
        rule: STORED or SHOWN, for masks of which nothing tells.
    """
    on_stored = (rule if drawn_on == UNKNOWN else drawn_on) == STORED
    return mask.transpose(TURNS[orientation]) if on_stored and orientation in TURNS else mask


def rule_for(counts: dict[str, int]) -> str:
    """What masks of which nothing tells were drawn on: like most others, else as shown.

    Args:
        counts: number of masks by what they were drawn on.
    """
    return STORED if counts.get(STORED, 0) > counts.get(SHOWN, 0) else SHOWN


def note(counts: dict[str, int], rule: str, asked: bool) -> str:
    """A line on masks of which nothing tells what they were drawn on; "" if there is none.

    Args:
        counts: number of masks by what they were drawn on.
        rule: STORED or SHOWN.
        asked: whether --mask-orientation set it.
    """
    number = counts.get(UNKNOWN, 0)
    if not number:
        return ""
    told = {kind: counts.get(kind, 0) for kind in (STORED, SHOWN)}
    others = " and ".join(
        f"{count} drawn on the {kind} ones" for kind, count in told.items() if count
    )
    reason = f"like the others ({others})" if others else "as most labelling tools do"
    other = SHOWN if rule == STORED else STORED
    chosen = (
        "as --mask-orientation says" if asked else f"{reason}; else: --mask-orientation {other}"
    )
    return (
        f"note: {number} photographs are turned or mirrored by their EXIF data, and nothing tells "
        f"whether their masks were drawn on the pixels as stored or as shown; taken as {rule}, "
        f"{chosen}"
    )
