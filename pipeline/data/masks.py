"""Reads mask files: pixel values as they are stored (numbers, palette indices or colours).

`label_mapping` decides which class each value is; `classify` then applies that table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.data.array_masks import is_array, read_array
from pipeline.data.classes import Colour
from pipeline.data.decoding import (
    TURNS,
    Source,
    deep_values,
    grey_table,
    is_deep,
    orientation_tag,
)
from pipeline.data.image_reader import Unreadable, opened
from pipeline.data.lossy import lossy_compression
from pipeline.data.pages import number_of_pages
from pipeline.data.photographs import first_bands, is_four_bands

MOST_VALUES = 1 << 12  # different values in a mask that are counted; a mask with more is refused

UNMAPPED = np.uint8(254)  # in place of a class index: the value is in no table

# What carries the meaning of an indexed mask. A mask of 1 bit counts as indexed: 0 black, 1 white.
INDEX, GREY, COLOUR = "index", "grey", "colour"
ALPHA = "alpha"  # of all masks: transparent pixels are 0, opaque ones OPAQUE
OPAQUE, HALF = 255, 128  # HALF: the least alpha that counts as opaque
BLACK, WHITE = b"\0\0\0", b"\xff\xff\xff"


@dataclass(frozen=True)
class Mask:
    """A mask as stored, before its values are mapped to classes."""

    picture: Image.Image  # mode "L" or "I": numbers; mode "RGB": colours
    palette: bytes = b""  # of an indexed mask that is read as its indices: R, G, B of each
    levels: tuple[int, ...] = ()  # if not empty: numbers of the picture are indices into these
    lossy: str = ""  # name of the compression that changed the values, if there is one
    own: int = 0  # EXIF orientation that the file states and that was obeyed; 0 if there is none
    form: str = ""  # file format and mode, for statistics
    see_through: bool = False  # whether some of its pixels are transparent and some opaque
    pages: int = 1  # pictures of the same size in the file, of which the first is read

    @property
    def counts(self) -> dict[int, int]:
        """Pixels per value, colours numbered by `pack`; {} if there are more than MOST_VALUES."""
        counts = self.picture.getcolors(MOST_VALUES) or []
        packed = {
            pack(value) if isinstance(value, tuple) else int(value): count
            for count, value in counts
        }
        return {self.levels[value] if self.levels else value: n for value, n in packed.items()}

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


# --- reading ------------------------------------------------------------------------------


def open_mask(source: Source, name: str, meaning: str = INDEX) -> Mask:
    """Reads a mask, turned as its own EXIF data say.

    Values are numbers of any size, or indices of palette masks, or 0 and 1 of 1-bit masks. An RGB
    picture with three equal channels is read as grey; any other picture has colours as values.

    Args:
        source: a path, or the content of a file.
        name: of the mask, for messages.
        meaning: INDEX; GREY: of indexed masks, read the grey of each index; COLOUR: read the colour
            of every pixel, whatever the mode of the picture; ALPHA: read its transparency.

    Raises:
        Unreadable: like `image_reader.open_photograph`; or values are fractions, or colours of
            16 bits.
    """
    if is_array(source):
        values = read_array(Path(str(source)), name)
        if values.dtype == np.uint8 and not (values.ndim == 2 and meaning == COLOUR):
            return Mask(Image.fromarray(values), form=f"NumPy {values.dtype}")
        return Mask(*read_deep(values, name, meaning), form=f"NumPy {values.dtype}")
    with opened(source, name) as picture:
        lossy, pages = lossy_compression(picture, source), number_of_pages(picture)
        own, form = stated_orientation(picture, source), f"{picture.format} {picture.mode}"
        deep = is_deep(picture)  # while it is not decoded
        pixels, palette, levels = read_values(picture, source, name, meaning)
        pixels.load()
        alpha = None if deep else alpha_of(picture)
        if meaning == ALPHA:
            opaque = Image.new("L", picture.size, OPAQUE)
            pixels, palette, levels = alpha or opaque, b"", ()
        see_through = alpha is not None and alpha.getextrema() == (0, OPAQUE)
        if own in TURNS and picture.format != "TIFF":  # which decoding already turns upright
            pixels = pixels.transpose(TURNS[own])
        return Mask(pixels, palette, levels, lossy, own, form, see_through, pages)


def alpha_of(picture: Image.Image) -> Image.Image | None:
    """Which pixels of a decoded picture are opaque, mode "L": 0 or OPAQUE; None without alpha."""
    if not picture.has_transparency_data:
        return None
    alpha = picture.convert("RGBA").getchannel(3)
    return alpha.point([OPAQUE * (value >= HALF) for value in range(256)])


def stated_orientation(picture: Image.Image, source: Source) -> int:
    """The EXIF orientation that an opened mask states, 1..8; 0 if it states none.

    In TIFF, 1 is no statement: many programs write it into every file.
    """
    tag = orientation_tag(picture, source)
    if tag == 1 and picture.format == "TIFF":
        return 0
    return tag if tag == 1 or tag in TURNS else 0


def read_values(
    picture: Image.Image, source: Source, name: str, meaning: str
) -> tuple[Image.Image, bytes, tuple[int, ...]]:
    """Picture, palette and levels of a `Mask`; see `open_mask`."""
    if is_deep(picture):
        return read_deep(deep_values(picture, source), name, meaning)
    if grey_table(picture) or picture.mode in ("1", "P", "PA"):
        return read_indexed(picture, meaning)
    if picture.mode in ("L", "LA", "La"):
        grey = picture.getchannel(0)
        return (grey.convert("RGB") if meaning == COLOUR else grey), b"", ()
    colours = first_bands(picture) if is_four_bands(picture) else picture.convert("RGB")
    red, green, blue = (channel.tobytes() for channel in colours.split())
    is_grey = red == green == blue and meaning != COLOUR
    return (colours.getchannel(0) if is_grey else colours), b"", ()


def read_indexed(picture: Image.Image, meaning: str) -> tuple[Image.Image, bytes, tuple[int, ...]]:
    """Picture, palette and levels of a mask with a palette or of 1 bit; see `open_mask`."""
    table = grey_table(picture)
    if table and (meaning != INDEX or picture.mode == "RGB"):
        picture = picture.point(table)
    if meaning == COLOUR or picture.mode == "RGB":
        return picture.convert("RGB"), b"", ()
    if meaning == GREY:
        return picture.convert("RGB").getchannel(0), b"", ()
    if picture.mode == "1":
        bits = Image.fromarray(np.asarray(picture).astype(np.uint8))
        return bits, BLACK + WHITE, ()
    indices = Image.fromarray(np.asarray(picture.getchannel(0)))
    if table:
        return indices, bytes(grey for grey in table for _ in range(3)), ()
    return indices, bytes(picture.getpalette("RGB") or BLACK), ()


def read_deep(
    values: np.ndarray, name: str, meaning: str
) -> tuple[Image.Image, bytes, tuple[int, ...]]:
    """Picture, palette and levels of a mask whose values Pillow would change; see `open_mask`."""
    if values.ndim == 3:
        bands = values[..., : 3 if values.shape[-1] > 2 else 1]
        if meaning == COLOUR or (bands != bands[..., :1]).any():
            return read_deep_colours(bands, name), b"", ()
        values = bands[..., 0]
    elif meaning == COLOUR:
        return read_deep_colours(values[..., None], name), b"", ()
    if not (np.isfinite(values) & (np.trunc(values) == values)).all():
        raise Unreadable(f"{name} holds fractions or NaN; save it as PNG with whole numbers")
    if values.min() >= -(2**31) and values.max() < 2**31:
        return Image.fromarray(values.astype(np.int32)), b"", ()
    numbers, indices = np.unique(values, return_inverse=True)
    levels = tuple(int(number) for number in numbers)
    return Image.fromarray(indices.reshape(values.shape).astype(np.int32)), b"", levels


def read_deep_colours(bands: np.ndarray, name: str) -> Image.Image:
    """Colours of 16 bits as RGB: 8-bit colours, as they are or each of them times 257.

    Raises:
        Unreadable: they are other colours.
    """
    if bands.min() >= 0 and bands.max() <= 255 and (np.trunc(bands) == bands).all():
        eight = bands.astype(np.uint8)
    elif bands.dtype == np.uint16 and not (bands % 257).any():
        eight = (bands // 257).astype(np.uint8)
    else:
        raise Unreadable(f"{name} holds colours of more than 8 bits; save it with 8 bits a channel")
    return Image.fromarray(np.broadcast_to(eight, (*eight.shape[:2], 3)).copy())


# --- applying the table -------------------------------------------------------------------


def classify(
    picture: Image.Image, table: dict[int, int], levels: tuple[int, ...] = ()
) -> Image.Image:
    """Replaces every value of a mask by its class; returns a picture of mode "L".

    Args:
        picture: of a `Mask`, turned or resized.
        table: class index or IGNORED, by value.
        levels: of the `Mask`.

    Raises:
        ValueError: a value is not in the table.
    """
    values = np.asarray(picture)
    if picture.mode == "L":
        classes = lookup(range(256), table)[values]
    elif levels:
        classes = lookup(levels, table)[values]
    else:
        if picture.mode == "RGB":
            red, green, blue = np.moveaxis(values.astype(np.int32), -1, 0)
            values = red << 16 | green << 8 | blue
        present, indices = np.unique(values, return_inverse=True)
        classes = lookup(present.tolist(), table)[indices.reshape(values.shape)]
    if (classes == UNMAPPED).any():
        raise ValueError("a value is not in the table")
    return Image.fromarray(classes)


def lookup(values: Sequence[int], table: dict[int, int]) -> np.ndarray:
    """Class, IGNORED or UNMAPPED of each of some values, uint8."""
    return np.array([table.get(value, UNMAPPED) for value in values], np.uint8)
