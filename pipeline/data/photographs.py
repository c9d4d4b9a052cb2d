"""Turns photographs of every kind into upright RGB, 8 bits per channel.

Needs only NumPy and Pillow: the handover folder holds a copy of this file, so that a device reads
photographs as they were read for training.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pipeline.data.decoding import (
    TURNS,
    Source,
    deep_values,
    grey_table,
    is_deep,
    orientation,
    raw_mode,
    white_of_ppm,
    with_raw_mode,
)

TRANSPARENT = {"RGBA", "RGBa", "LA", "La", "PA"}  # Pillow modes with an alpha channel
WHITES = tuple(2**bits - 1 for bits in (8, 10, 12, 14, 16))  # of sensors, in 16 bits
FLOAT_WHITES = (1, 255)


class PhotoRules(NamedTuple):
    """What the photographs of a data set have in common, decided for all of them together."""

    white: int = WHITES[-1]  # value of white in whole numbers deeper than 8 bits
    float_white: int = FLOAT_WHITES[0]  # the same in floating-point numbers
    alpha: bool = True  # whether a fourth band marked as alpha is one; else it is left out


PHOTO_RULES = PhotoRules()  # of a data set of which nothing is known


def rules_from(stored: Any) -> PhotoRules:
    """The rules that a record or a contract holds as `PhotoRules._asdict()`, or parts of it.

    Raises:
        ValueError: it holds something else.
    """
    if not isinstance(stored, dict):
        raise ValueError(f"photographs by a rule that is none: {stored!r}")
    rules = PHOTO_RULES._replace(
        **{key: stored[key] for key in PhotoRules._fields if key in stored}
    )
    for white in (rules.white, rules.float_white):
        if type(white) is not int or not 0 < white <= WHITES[-1]:
            raise ValueError(f"photographs with white {white!r}, which is not 1 to {WHITES[-1]}")
    return rules


def upright_rgb(picture: Image.Image, source: Source, rules: PhotoRules) -> tuple[Image.Image, int]:
    """Decodes a photograph as upright RGB, 8 bits per channel.

    Transparent pixels are blended with white, as browsers do; the colours that a file stores under
    them depend on the tool that wrote it. Deeper values are scaled so that white is 255.

    Args:
        picture: opened and not yet decoded.
        source: what it was opened from.
        rules: of the data set.

    Returns:
        The picture, and the EXIF orientation of the stored pixels, 1..8.

    Raises:
        ValueError: values are negative, not numbers, or deeper than 16 bits.
    """
    stored = orientation(picture, source)
    rgb = to_rgb(picture, source, rules)
    rgb.load()
    remaining = 1 if picture.format == "TIFF" else stored  # decoding already turned it
    return (rgb.transpose(TURNS[remaining]) if remaining in TURNS else rgb), stored


def to_rgb(picture: Image.Image, source: Source, rules: PhotoRules) -> Image.Image:
    """Decodes a picture as RGB without turning it; see `upright_rgb`."""
    if white_key(picture):
        values = deep_values(picture, source)
        alpha = values[..., -1] if values.ndim == 3 and values.shape[-1] in (2, 4) else None
        grey_and_alpha = values.ndim == 3 and values.shape[-1] == 2
        colours = values if values.ndim == 2 else values[..., 0 if grey_and_alpha else slice(3)]
        eight = Image.fromarray(eight_bits(colours, rules)).convert("RGB")
        if alpha is None or not (rules.alpha or grey_and_alpha):
            return eight
        eight.putalpha(Image.fromarray((alpha >> 8).astype(np.uint8)))
        return over_white(eight)
    if table := grey_table(picture):
        picture = picture.point(table)
    if is_four_bands(picture) and not rules.alpha:
        return first_bands(picture)
    if picture.mode in TRANSPARENT or "transparency" in picture.info:
        return over_white(picture)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def white_key(picture: Image.Image) -> str:
    """The field of `PhotoRules` by which an opened, not yet decoded picture is scaled to 8 bits.

    "" for a picture of 8 bits, also if it is a PPM that names another white: Pillow scales to that.
    """
    if not is_deep(picture):
        return ""
    if picture.mode == "F":
        return "float_white"
    return "" if picture.format == "PPM" and white_of_ppm(picture) <= 255 else "white"


def is_four_bands(picture: Image.Image) -> bool:
    """Whether an opened picture has three colours and a fourth band marked as alpha."""
    return picture.mode in ("RGBA", "RGBa") and not raw_mode(picture).startswith("LA")


def first_bands(picture: Image.Image) -> Image.Image:
    """The three colours of a picture as stored, RGB, without its fourth band."""
    if raw_mode(picture) == "RGBa":  # would be divided by alpha
        with_raw_mode(picture, "RGBA")
    return Image.merge("RGB", picture.split()[:3])


def over_white(picture: Image.Image) -> Image.Image:
    """The picture, RGB, with white behind what is transparent."""
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")


def eight_bits(values: np.ndarray, rules: PhotoRules) -> np.ndarray:
    """Values scaled so that white is 255, uint8; brighter ones become 255.

    Raises:
        ValueError: a value is negative, not a number, or above 16 bits.
    """
    whole = values.dtype.kind != "f"
    low, high = values.min(), values.max()
    most = WHITES[-1] if whole else FLOAT_WHITES[-1]
    if not (low >= 0 and high <= most):  # false for NaN, too
        raise ValueError(f"values {low:g} to {high:g}: save it with 8 or 16 bits")
    if whole:
        return np.minimum(values.astype(np.uint32) * 255 // rules.white, 255).astype(np.uint8)
    return np.minimum(values * (255 / rules.float_white), 255).astype(np.uint8)


def white_for(largest: float, whites: tuple[int, ...] = WHITES) -> int:
    """The smallest of `whites` that is not below the largest value; the last one at most."""
    return next((white for white in whites if largest <= white), whites[-1])
