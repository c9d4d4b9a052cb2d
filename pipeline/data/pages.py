"""Files that hold several pictures, of which one is read: pages of a TIFF, frames of a film."""

from __future__ import annotations

from PIL import Image

from pipeline.data.decoding import tiff_tags

# Formats whose further pages are pictures of their own; of a JPEG they are previews and depth maps.
SEVERAL = ("TIFF", "GIF", "PNG", "WEBP")
SMALLER = 254, 1  # TIFF tag and bit of a page that is a smaller copy of another


def number_of_pages(picture: Image.Image) -> int:
    """How many pictures of the size of the first one an opened file holds; stays at the first."""
    frames = getattr(picture, "n_frames", 1)
    if picture.format not in SEVERAL or frames == 1:
        return 1
    size, number = picture.size, 0
    for page in range(frames):
        picture.seek(page)
        tag, bit = SMALLER
        number += picture.size == size and not tiff_tags(picture).get(tag, 0) & bit
    picture.seek(0)
    return max(1, number)
