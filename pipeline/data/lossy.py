"""Tells whether the compression of a picture changed its values: then it is useless as a mask."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

from PIL import Image

from pipeline.data.decoding import Source, open_file, tiff_tags, tiles

# File formats of Pillow that keep every value, or do so unless this module finds otherwise.
LOSSLESS = {
    *("PNG", "TIFF", "BMP", "DIB", "GIF", "PPM", "TGA", "PCX", "DCX", "SGI", "IM", "MSP", "XBM"),
    *("XPM", "QOI", "SPIDER", "PSD", "SUN", "ICO", "CUR", "FITS", "FLI", "WEBP", "DDS", "BLP"),
}
NAMES = {"JPEG": "JPEG", "MPO": "JPEG", "JPEG2000": "JPEG 2000", "AVIF": "AVIF"}
TIFF_COMPRESSION = 259  # tag
TIFF_LOSSY = {  # its value: what it is
    **{6: "JPEG inside TIFF", 7: "JPEG inside TIFF", 34892: "JPEG inside TIFF"},
    **dict.fromkeys((33003, 33005, 34712), "JPEG 2000 inside TIFF"),
    **{34887: "LERC inside TIFF", 50001: "WebP inside TIFF", 50002: "JPEG XL inside TIFF"},
}


def lossy_compression(picture: Image.Image, source: Source) -> str:
    """Name of the compression that may have changed the values of a picture; "" if none has.

    Where a format can be both, and the file does not say which it is, it counts as lossy.

    Args:
        picture: opened and not yet decoded.
        source: what it was opened from.
    """
    form = picture.format or ""
    if form in NAMES or form not in LOSSLESS:
        return NAMES.get(form, form)
    if form == "TIFF":
        return TIFF_LOSSY.get(tiff_tags(picture).get(TIFF_COMPRESSION, 1), "")
    if form == "WEBP":
        return "lossy WebP" if b"VP8 " in chunks(source) else ""
    codecs = {tile.codec_name for tile in tiles(picture)}
    if form == "DDS":
        return "DDS with block compression" if "bcn" in codecs else ""
    return "BLP with lossy compression" if form == "BLP" and not has_blp_palette(source) else ""


def chunks(source: Source) -> Iterator[bytes]:
    """Yields the names of the chunks of a WebP file, also those inside the frames of a film."""
    with open_file(source) as file:
        file.seek(12)  # RIFF, size, WEBP
        while len(head := file.read(8)) == 8:
            name, size = struct.unpack("<4sI", head)
            yield name
            # A frame holds 16 bytes of its own, then chunks.
            file.seek(16 if name == b"ANMF" else size + size % 2, io.SEEK_CUR)


def has_blp_palette(source: Source) -> bool:
    """Whether a BLP file holds indices into a palette, without further compression."""
    with open_file(source) as file:
        head = file.read(9)
    if head[:4] == b"BLP1":
        return head[4:8] == b"\1\0\0\0"
    return head[4:9] in (b"\1\0\0\0\1", b"\1\0\0\0\3")
