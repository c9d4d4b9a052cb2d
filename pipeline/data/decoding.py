"""Opens pictures, and decodes them with the values that are stored, at any depth.

Needs only NumPy and Pillow: the handover folder holds a copy of this file.
"""

from __future__ import annotations

import contextlib
import io
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

Source = Path | bytes  # an encoded picture: a file or its content

ORIENTATION = 0x0112  # EXIF tag (Exif 2.32, section 4.6.4 A)
TURNS = {  # value of that tag: the operation that makes the stored pixels upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BITS_PER_SAMPLE, SAMPLE_FORMAT = 258, 339  # TIFF tags; of the latter, 1: unsigned, 2: signed
# By the raw mode of a 16-bit channel order: the raw mode that reads the other byte of each value.
OTHER_BYTE = {"B": "L", "L": "B", "N": "B"}  # libtiff gives the bytes in the machine's order


def open_file(source: Source) -> BinaryIO:
    """The encoded picture as a file to read from."""
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


@contextlib.contextmanager
def open_picture(source: Source, formats: tuple[str, ...] | None = None) -> Iterator[Image.Image]:
    """Opens a picture without decoding it.

    As a file: of a path, Pillow 12.3 maps an uncompressed TIFF into memory with its sides swapped,
    if EXIF data turn it by 90 degrees.

    Args:
        source: a path, or the content of a file.
        formats: of Pillow that may be read; None for all.
    """
    with open_file(source) as file, Image.open(file, formats=formats) as picture:
        if picture.format in ("BMP", "DIB"):
            mend_grey_bmp(picture, source)
        yield picture


def mend_grey_bmp(picture: Image.Image, source: Source) -> None:
    """Corrects how an opened BMP with a palette of greys will be decoded.

    Pillow 12.3 takes a palette of black and white for 1 bit per pixel, and one of the first greys
    for 8, whatever the header says.

    Raises:
        ValueError: Pillow has no way to decode it.
    """
    with open_file(source) as file:
        head = file.read(30)
    start = 14 if picture.format == "BMP" else 0  # of the second header
    position = start + (10 if head[start] == 12 else 14)
    bits = int.from_bytes(head[position : position + 2], "little")
    if raw_mode(picture) == "1" and bits == 8:
        with_raw_mode(picture, "1;8")
    elif raw_mode(picture) in ("1", "L") and bits != {"1": 1, "L": 8}[raw_mode(picture)]:
        raise ValueError(f"BMP of {bits} bits with a palette of greys: save it as PNG")


def orientation(picture: Image.Image, source: Source) -> int:
    """EXIF orientation of an opened picture, 1..8; 1 (upright) if it is missing or invalid."""
    value = orientation_tag(picture, source)
    return value if value in TURNS else 1


def orientation_tag(picture: Image.Image, source: Source) -> int:
    """The EXIF orientation that an opened picture states, as stored; 0 if it states none.

    Decodes nothing of the picture.
    """
    try:
        if picture.format != "PNG":
            value = picture.getexif().get(ORIENTATION, 0)
        elif not has_png_exif(source):
            return 0
        else:  # Pillow decodes a PNG to find its EXIF data
            with open_picture(source) as other:
                value = other.getexif().get(ORIENTATION, 0)
    except Exception:  # Pillow raises many types on damaged EXIF data; the picture may be whole
        return 0
    return value if isinstance(value, int) else 0


def has_png_exif(source: Source) -> bool:
    """Whether a PNG has a chunk that may hold an orientation, as EXIF data or XMP."""
    with open_file(source) as file:
        file.seek(8)  # the signature
        while len(head := file.read(8)) == 8:
            size, name = struct.unpack(">I4s", head)
            if name == b"eXIf":
                return True
            keyword = file.read(min(size, 20)) if name in (b"tEXt", b"zTXt", b"iTXt") else b""
            if keyword.startswith((b"Raw profile type", b"XML:com.adobe.xmp")):
                return True
            file.seek(size - len(keyword) + 4, io.SEEK_CUR)  # the rest, and its checksum
    return False


# --- values as stored ---------------------------------------------------------------------


def tiles(picture: Image.Image) -> list[Any]:
    """How an opened, not yet decoded picture will be decoded, part by part."""
    return getattr(picture, "tile", [])


def tiff_tags(picture: Image.Image) -> dict[int, Any]:
    """The tags of an opened TIFF; {} for other formats."""
    return getattr(picture, "tag_v2", None) or {}


def grey_table(picture: Image.Image) -> list[int]:
    """Greys of the values of an opened IM picture that has a table of them; [] without one.

    Pillow reads the values and leaves it to the program to look them up.
    """
    return getattr(picture, "lut", None) or []


def raw_mode(picture: Image.Image) -> str:
    """How the channels of an opened, not yet decoded picture are stored; "" if not known."""
    parts = tiles(picture)
    arguments = parts[0].args if parts else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def is_deep(picture: Image.Image) -> bool:
    """Whether Pillow would change the values of an opened picture.

    So it is with more than 8 bits per channel, with signed numbers, and if a PGM or PPM names
    another white than 255.
    """
    if picture.format == "PPM" and picture.mode in ("L", "RGB"):
        return white_of_ppm(picture) != 255
    if picture.format == "SGI":  # the last argument of run lengths is the number of bytes
        return tiles(picture)[0].codec_name == "SGI16" or tiles(picture)[0].args[-1] == 2
    return picture.mode.startswith(("I", "F")) or is_signed(picture) or is_deep_colour(picture)


def is_deep_colour(picture: Image.Image) -> bool:
    """Whether Pillow would drop the low byte of several 16-bit channels."""
    return re.fullmatch(r"(LA|RGB|RGBA|RGBa|RGBX);16[BLN]", raw_mode(picture)) is not None


def is_signed(picture: Image.Image) -> bool:
    """Whether a TIFF holds signed 8-bit numbers, which Pillow takes for unsigned ones."""
    return picture.mode == "L" and tiff_tags(picture).get(SAMPLE_FORMAT, (1,))[0] == 2


def white_of_ppm(picture: Image.Image) -> int:
    """The value of white that the header of an opened, not yet decoded PGM or PPM names."""
    arguments = tiles(picture)[0].args
    return arguments[1] if isinstance(arguments, tuple) else 65535 if picture.mode == "I" else 255


def deep_values(picture: Image.Image, source: Source) -> np.ndarray:
    """Decodes a picture for which `is_deep` holds.

    Args:
        picture: opened and not yet decoded; afterwards it is decoded.
        source: what it was opened from.

    Returns:
        The values as stored (height, width) or (height, width, bands), of the type int32, uint16,
        uint32, int8 or float32; bands are red, green, blue and, if there is a fourth one, alpha.

    Raises:
        ValueError: 16-bit SGI with run lengths, which Pillow cannot decode at this depth.
    """
    if picture.format == "PPM" and picture.mode != "F":
        return ppm_values(picture, source)
    if picture.format == "SGI":
        return sgi_values(picture, source)
    if is_deep_colour(picture):
        return colour_values(picture, source)
    signed = is_signed(picture)
    tags = tiff_tags(picture)
    bits, form = tags.get(BITS_PER_SAMPLE), tags.get(SAMPLE_FORMAT, (1,))[0]
    unsigned = picture.mode == "I" and bits == (32,) and form == 1
    values = np.asarray(picture)
    return values.view(np.int8 if signed else np.uint32) if signed or unsigned else values


def colour_values(picture: Image.Image, source: Source) -> np.ndarray:
    """Values of 16-bit colours, uint16 (height, width, 3 or 4), or (height, width, 2) for LA.

    Pillow decodes one byte of each value; the file is decoded twice, once for each byte.
    """
    raw = raw_mode(picture)
    if raw.startswith("LA"):  # Pillow has no raw mode for the other byte; as 8-bit RGBA it has all
        with_raw_mode(picture, "RGBA")
        both = np.asarray(picture).astype(np.uint16)
        return both[..., 0::2] << 8 | both[..., 1::2]
    plain = raw.replace("a", "A")  # RGBa would be divided by alpha
    with open_picture(source) as other:
        with_raw_mode(other, plain[:-1] + OTHER_BYTE[plain[-1]])
        low = np.asarray(other)
    with_raw_mode(picture, plain)
    return np.asarray(picture).astype(np.uint16) << 8 | low


def with_raw_mode(picture: Image.Image, raw: str) -> None:
    """Changes how an opened picture will be decoded."""
    for number, tile in enumerate(tiles(picture)):
        arguments = (raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw
        tiles(picture)[number] = tile._replace(args=arguments)


def ppm_values(picture: Image.Image, source: Source) -> np.ndarray:
    """Values of a PGM or PPM as stored; Pillow scales them to the white that its header names."""
    content = source if isinstance(source, bytes) else source.read_bytes()
    codec, _, offset, _ = tiles(picture)[0]
    bands, (width, height) = len(picture.getbands()), picture.size
    kind, number = (">u2" if white_of_ppm(picture) > 255 else "u1"), width * height * bands
    if codec == "ppm_plain":
        text = re.sub(rb"#[^\r\n]*", b"", content[offset:]).split()[:number]
        flat = np.array(text, np.int64).astype(np.uint16)
    else:
        flat = np.frombuffer(content, kind, number, offset)
    picture.load()  # refuses what is cut short
    values = flat.astype(np.uint16).reshape(height, width, bands)
    return values[..., 0] if bands == 1 else values


def sgi_values(picture: Image.Image, source: Source) -> np.ndarray:
    """Values of a 16-bit SGI picture, which is stored by band and from the lowest row."""
    if tiles(picture)[0].codec_name != "SGI16":
        raise ValueError("16-bit SGI with run lengths; save it as PNG")
    content = source if isinstance(source, bytes) else source.read_bytes()
    bands, (width, height) = len(picture.getbands()), picture.size
    flat = np.frombuffer(content, ">u2", bands * height * width, 512)
    values = np.moveaxis(flat.reshape(bands, height, width), 0, -1)[::-1].astype(np.uint16)
    picture.load()
    return values[..., 0] if bands == 1 else values
