"""Simple photographs and masks, and a folder of them."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.data.decoding import ORIENTATION, TURNS


def encoded(image: Image.Image, kind: str = "jpeg", **options: object) -> bytes:
    """An image as the content of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def stored_as(upright: Image.Image, orientation: int, form: str = "png") -> bytes:
    """A file whose pixels are stored in an EXIF orientation, of a picture given upright."""
    stored = upright
    if orientation in TURNS:
        back = {6: TURNS[8], 8: TURNS[6]}.get(orientation, TURNS[orientation])
        stored = upright.transpose(back)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"lossless": True} if form == "webp" else {}
    return encoded(stored, form, exif=exif.tobytes(), **options)


def png_of_16_bits(values: np.ndarray, exif: bytes = b"") -> bytes:
    """A PNG of 16 bits per channel, which Pillow cannot write: uint16 (height, width, 2..4)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    height, width, bands = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[bands], 0, 0, 0)
    extra = chunk(b"eXIf", exif.removeprefix(b"Exif\0\0")) if exif else b""
    parts = chunk(b"IHDR", head), extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def halves(width: int, height: int) -> Image.Image:
    """A mask: left half pet (1), right half background (2)."""
    trimap = np.full((height, width), 2, np.uint8)
    trimap[:, : width // 2] = 1
    return Image.fromarray(trimap)


def photograph(width: int, height: int) -> Image.Image:
    """A photograph with two colours, for the mask `halves`: left half red, right half blue."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:, : width // 2], pixels[:, width // 2 :] = (220, 40, 60), (30, 90, 200)
    return Image.fromarray(pixels)


def blobs(number: int, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images and masks of large smooth blobs in 3 classes, each with its own colour."""
    coarse = np.random.default_rng(seed).normal(0, 1, (number, 4, 4, 3)).astype(np.float32)
    smooth = [
        [Image.fromarray(plane).resize((size, size), Image.Resampling.BICUBIC) for plane in planes]
        for planes in coarse.transpose(0, 3, 1, 2)
    ]
    masks = np.stack([np.stack(planes) for planes in smooth]).argmax(axis=1).astype(np.uint8)
    return np.array([(200, 30, 30), (30, 200, 30), (30, 30, 200)], np.uint8)[masks], masks


class PhotoFolder:
    """A folder of photographs and masks for --data; it starts with ten."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for kind in ("images", "masks"):
            (path / kind).mkdir(parents=True)
        for number in range(10):
            self.add_plain(f"plain{number}.jpg", 80, 60 + number)

    def add(self, name: str, image: bytes, mask: bytes) -> None:
        (self.path / "images" / name).write_bytes(image)
        (self.path / "masks" / name).with_suffix(".png").write_bytes(mask)

    def add_plain(self, name: str, width: int, height: int) -> None:
        image = encoded(photograph(width, height), "png" if name.endswith(".png") else "jpeg")
        self.add(name, image, encoded(halves(width, height), "png"))

    def prepare(self, models_dir: Path, *arguments: str) -> None:
        """Runs data_preparation.py on the folder, at 64 x 64 pixels."""
        import data_preparation

        where = ["--models-dir", str(models_dir), "--data-dir", str(self.path)]
        data_preparation.main([*where, "--dataset", "folder", "--image-size", "64", *arguments])
