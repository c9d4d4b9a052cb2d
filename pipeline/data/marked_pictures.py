"""PNG files with a mark that tells them from the user's own, for pictures written beside photos.

Imports no other module of ours: it is handed over with the program that runs on a device.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

KEY, VALUE = "Software", "image-segmentation pipeline"  # of the text chunk that is the mark
ENCODED_ROWS = 256  # at a time
SEARCHED = 1024  # bytes at the beginning of a file; Pillow writes texts right after the size


def save(picture: Image.Image, path: Path) -> None:
    """Writes a picture as PNG with the mark.

    Pillow tries all filters of PNG on each row and searches for repetitions, which takes 5 s for a
    photograph of 12 megapixels; `rgb_png` takes a tenth, for a file that is a tenth larger. In maps
    of classes runs of equal bytes are all there is to find.
    """
    if picture.mode == "RGB":
        with path.open("wb") as file:
            file.writelines(rgb_png(picture))
        return
    text = PngInfo()
    text.add_text(KEY, VALUE)
    fast = {"compress_level": 1, "compress_type": zlib.Z_RLE}
    picture.save(path, "PNG", pnginfo=text, **fast)


def rgb_png(picture: Image.Image) -> Iterator[bytes]:
    """Encodes an RGB picture as PNG with the mark, a part of the file at a time.

    Every row holds the differences from the row above (filter 2, "up"), in Huffman's code.
    """
    width, height = picture.size
    yield b"\x89PNG\r\n\x1a\n"
    yield chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))  # 8-bit RGB
    yield chunk(b"tEXt", f"{KEY}\0{VALUE}".encode("latin-1"))
    coder = zlib.compressobj(1, strategy=zlib.Z_HUFFMAN_ONLY)
    above: np.ndarray = np.zeros((1, width * 3), np.uint8)
    for start in range(0, height, ENCODED_ROWS):  # the memory does not grow with the height
        part = picture.crop((0, start, width, min(start + ENCODED_ROWS, height)))
        band = np.asarray(part).reshape(part.height, width * 3)
        filtered = np.full((len(band), 1 + width * 3), 2, np.uint8)
        np.subtract(band[:1], above, out=filtered[:1, 1:])
        np.subtract(band[1:], band[:-1], out=filtered[1:, 1:])
        above = band[-1:]
        yield chunk(b"IDAT", coder.compress(filtered.data))
    yield chunk(b"IDAT", coder.flush())
    yield chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    """A part of a PNG file: its length, its kind of four letters, its data, and a checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def is_replaceable(path: Path) -> bool:
    """Whether a marked picture lies at a path, or nothing does."""
    if not os.path.lexists(path):
        return True
    try:
        with path.open("rb") as file:
            beginning = file.read(SEARCHED)
    except OSError:  # a folder; a link to nothing; not readable
        return False
    return f"tEXt{KEY}\0{VALUE}".encode() in beginning
