"""What the pixels of a mask file say: numbers, palette indices or colours, as they were drawn."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pipeline.data.classes import MOST
from pipeline.data.image_reader import Source, Unreadable, opened

MOST_VALUES = 1 << 12  # different values that are still counted

NOTHING = np.uint8(254)  # in place of an index, for a value that means nothing

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Mask:
    """A mask as its file says it, before anybody knows what the values mean."""

    picture: Image.Image  # mode "L" or "I": numbers; mode "RGB": colours
    palette: dict[int, Colour]  # of the values that occur, if they are indices into a palette
    jpeg: bool = False  # compressed in a way that makes new values

    @property
    def counts(self) -> dict[int, int]:
        """How many pixels each value has; colours packed as `pack` does. Empty: too many values."""
        found = self.picture.getcolors(MOST_VALUES) or []
        colours = self.picture.mode == "RGB"
        return {pack(value) if colours else int(value): count for count, value in found}

    @property
    def edges(self) -> np.ndarray:
        """Of every fourth row of numbers: changes from a pixel to the next, those of them at
        multiples of 8, and pixels that differ from both neighbours; int64 (3,).

        JPEG works in squares of 8 x 8 pixels and leaves both kinds in masks that it touched.
        """
        rows = np.asarray(self.picture)[::4]
        changes = rows[:, 1:] != rows[:, :-1]
        alone = changes[:, 1:] & changes[:, :-1]
        return np.array([changes.sum(), changes[:, 7::8].sum(), alone.sum()])


def pack(colour: Colour) -> int:
    """A colour as one number."""
    return colour[0] << 16 | colour[1] << 8 | colour[2]


def unpack(value: int) -> Colour:
    """The colour that `pack` made this number of."""
    return value >> 16, value >> 8 & 255, value & 255


def open_mask(source: Source, name: str, by_colour: bool = False) -> Mask:
    """Reads a mask.

    Numbers are taken as they are: grey values, 1-bit masks as 0 and 1, palettes by their
    indices. Of a palette of greys that are not at their own index the greys are taken: programs
    that shrink PNG files make such palettes of grey masks, in an order of their own. Pictures of
    three equal channels are grey. All others are colours.

    Args:
        name: what messages call it.
        by_colour: take the colour of every pixel, whatever kind of picture it is.

    Raises:
        Unreadable: as `photographs.open_photograph`.
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
                raise Unreadable(f"{name} holds fractions; save it with whole numbers, as PNG")
            return Mask(Image.fromarray(values.astype(np.int32)), {}, jpeg)
        if picture.mode in ("L", "LA", "La"):
            return Mask(picture.getchannel(0), {}, jpeg)
        colours = picture.convert("RGB")
        red, green, blue = (channel.tobytes() for channel in colours.split())
        return Mask(colours.getchannel(0) if red == green == blue else colours, {}, jpeg)


def read_palette(picture: Image.Image) -> Mask:
    """A mask of mode "P" or "PA"; see `open_mask`."""
    indices = Image.fromarray(np.asarray(picture.getchannel(0)))
    colours = np.zeros((256, 3), int)
    given = np.reshape(picture.getpalette("RGB"), (-1, 3))
    colours[: len(given)] = given
    palette = {value: tuple(colours[value].tolist()) for _, value in indices.getcolors(256)}
    greys = all(red == green == blue for red, green, blue in palette.values())
    moved = any(value != grey for value, (grey, _, _) in palette.items())
    if greys and moved and max(grey for grey, _, _ in palette.values()) <= MOST:
        return Mask(picture.convert("RGB").getchannel(0), {})
    return Mask(indices, {} if greys else palette)


def classify(picture: Image.Image, table: dict[int, int]) -> Image.Image:
    """The picture of a `Mask` with every value replaced by what `table` has for it, mode "L".

    Args:
        table: by value, an index of a class or IGNORED.

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
        place = np.minimum(np.searchsorted(keys, values), len(keys) - 1)
        indices = np.array([table[key] for key in keys.tolist()], np.uint8)
        classes = np.where(keys[place] == values, indices[place], NOTHING)
    if (classes == NOTHING).any():
        raise ValueError("it holds a value that means nothing")
    return Image.fromarray(classes)


@functools.lru_cache(4)
def byte_table(entries: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Of every byte what it is replaced by, uint8 (256,)."""
    table = np.full(256, NOTHING)
    for value, index in entries:
        if value < 256:
            table[value] = index
    return table
