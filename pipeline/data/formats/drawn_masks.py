"""Masks that are drawn and not read from a file: their size, and how they are handed over."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.data.decoding import ORIENTATION, orientation
from pipeline.data.image_reader import opened
from pipeline.data.orientation import SIDEWAYS

BACKGROUND = "background"  # class of the pixels that no object covers


def shown_size(photo: Path) -> tuple[int, int, int]:
    """Height and width of a photograph as it is shown, and its EXIF orientation, 1..8.

    Raises:
        Unreadable: the photograph cannot be read.
    """
    with opened(photo, str(photo)) as picture:
        turn = orientation(picture, photo)
        width, height = picture.size
    return (width, height, turn) if turn in SIDEWAYS else (height, width, turn)


def as_mask(mask: np.ndarray, turn: int) -> bytes:
    """A mask as PNG, which says that it was drawn on the photograph as that is shown.

    Args:
        mask: uint8 (height, width) of class indices, or (height, width, 3) of colours.
        turn: EXIF orientation of the photograph.
    """
    buffer, exif = io.BytesIO(), Image.Exif()
    if turn != 1:
        exif[ORIENTATION] = 1
    Image.fromarray(mask).save(buffer, "png", compress_level=1, exif=exif)
    return buffer.getvalue()
