"""PNG files with a mark that tells them from the user's own, for pictures written beside photos.

Imports no other module of ours: it is handed over with the program that runs on a device.
"""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

KEY, VALUE = "Software", "image-segmentation pipeline"  # of the text chunk that is the mark
SEARCHED = 1024  # bytes at the beginning of a file; Pillow writes texts right after the size


def save(picture: Image.Image, path: Path) -> None:
    """Writes a picture as PNG with the mark."""
    text = PngInfo()
    text.add_text(KEY, VALUE)
    picture.save(path, "PNG", pnginfo=text)


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
