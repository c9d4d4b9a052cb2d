"""Reads mask files: pixel values as they are stored (numbers, palette indices or colours).

`label_mapping` decides which class each value is; `classify` then applies that table.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pipeline.data.classes import MOST, Colour
from pipeline.data.image_reader import Source, Unreadable, opened

MOST_VALUES = 1 << 12  # different values in a mask that are counted; a mask with more is refused

UNMAPPED = np.uint8(254)  # in place of a class index: the value is in no table


@dataclass(frozen=True)
class Mask:
    """A mask as stored, before its values are mapped to classes."""

    picture: Image.Image  # mode "L" or "I": numbers; mode "RGB": colours
    palette: dict[int, Colour]  # colour of each value that occurs, if they are palette indices
    jpeg: bool = False  # stored as JPEG, whose compression adds values

    @property
    def counts(self) -> dict[int, int]:
        """Pixels per value, colours numbered by `pack`; {} if there are more than MOST_VALUES."""
        counts = self.picture.getcolors(MOST_VALUES) or []
        return {
            pack(value) if isinstance(value, tuple) else int(value): count
            for count, value in counts
        }

    @property
    def edges(self) -> np.ndarray:
        """Three counts over every fourth row, int64 (3,).

        Value changes between horizontal neighbours; those of them at multiples of 8 pixels; and
        pixels that differ from both neighbours. JPEG compresses blocks of 8 x 8 pixels, which
        raises the last two.
        """
        rows = np.asarray(self.picture)[::4]
        changes = rows[:, 1:] != rows[:, :-1]
        isolated = changes[:, 1:] & changes[:, :-1]
        return np.array([changes.sum(), changes[:, 7::8].sum(), isolated.sum()])


def pack(colour: Sequence[int]) -> int:
    """A colour (red, green, blue; 0..255) as one number, 0xRRGGBB."""
    return colour[0] << 16 | colour[1] << 8 | colour[2]


def unpack(value: int) -> Colour:
    """The colour that `pack` turned into `value`."""
    return value >> 16, value >> 8 & 255, value & 255


def open_mask(source: Source, name: str, by_colour: bool = False) -> Mask:
    """Reads a mask.

    Values are grey levels, 0 and 1 of 1-bit masks, or indices of palette masks. Exception: of a
    palette of greys that are not at their own index, values are the greys, because programs that
    shrink PNG files turn grey masks into such palettes, in any order. An RGB picture with three
    equal channels is read as grey; any other picture has colours as values.

    Args:
        source: a path, or the content of a file.
        name: of the mask, for messages.
        by_colour: read the colour of every pixel, whatever the mode of the picture.

    Raises:
        Unreadable: like `image_reader.open_photograph`; or values are fractions.
    """
    with opened(source, name) as picture:
        picture.load()
        jpeg = picture.format in ("JPEG", "MPO")
        if by_colour:
            return Mask(picture.convert("RGB"), {}, jpeg)
        if picture.mode == "1":
            return Mask(Image.fromarray(np.asarray(picture).astype(np.uint8)), {}, jpeg)
        if picture.mode in ("P", "PA"):
            return read_palette(picture)
        if picture.mode.startswith(("I", "F")):
            values = np.asarray(picture)
            if (values != values.astype(np.int32)).any():
                raise Unreadable(f"{name} holds fractions; save it as PNG with whole numbers")
            return Mask(Image.fromarray(values.astype(np.int32)), {}, jpeg)
        if picture.mode in ("L", "LA", "La"):
            return Mask(picture.getchannel(0), {}, jpeg)
        colours = picture.convert("RGB")
        red, green, blue = (channel.tobytes() for channel in colours.split())
        return Mask(colours.getchannel(0) if red == green == blue else colours, {}, jpeg)


def read_palette(picture: Image.Image) -> Mask:
    """Reads a mask of Pillow mode "P" or "PA"; see `open_mask`."""
    indices = Image.fromarray(np.asarray(picture.getchannel(0)))
    colours = np.zeros((256, 3), int)
    stored = np.reshape(picture.getpalette("RGB") or [], (-1, 3))
    colours[: len(stored)] = stored
    palette: dict[int, Colour] = {}
    for value, count in enumerate(indices.histogram()):
        if count:
            red, green, blue = colours[value].tolist()
            palette[value] = red, green, blue
    greys = all(red == green == blue for red, green, blue in palette.values())
    moved = any(value != grey for value, (grey, _, _) in palette.items())
    if greys and moved and max(grey for grey, _, _ in palette.values()) <= MOST:
        return Mask(picture.convert("RGB").getchannel(0), {})
    return Mask(indices, {} if greys else palette)


def classify(picture: Image.Image, table: dict[int, int]) -> Image.Image:
    """Replaces every value of a mask by its class; returns a picture of mode "L".

    Args:
        picture: of a `Mask`.
        table: class index or IGNORED, by value.

    Raises:
        ValueError: a value is not in the table.
    """
    values = np.asarray(picture)
    if picture.mode == "L":
        classes = byte_table(tuple(sorted(table.items())))[values]
    else:
        if picture.mode == "RGB":
            red, green, blue = np.moveaxis(values.astype(np.int32), -1, 0)
            values = red << 16 | green << 8 | blue
        keys = np.array(sorted(table))
        positions = np.minimum(np.searchsorted(keys, values), len(keys) - 1)
        indices = np.array([table[key] for key in keys.tolist()], np.uint8)
        classes = np.where(keys[positions] == values, indices[positions], UNMAPPED)
    if (classes == UNMAPPED).any():
        raise ValueError("a value is not in the table")
    return Image.fromarray(classes)


@functools.lru_cache(4)
def byte_table(entries: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Lookup table of `classify` for 8-bit masks, uint8 (256,): index, IGNORED or UNMAPPED."""
    table = np.full(256, UNMAPPED)
    for value, index in entries:
        if value < 256:
            table[value] = index
    return table
