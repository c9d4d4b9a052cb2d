"""Files that hold several pictures, of which one is read: pages of a TIFF, frames of a film."""

from __future__ import annotations

from PIL import Image

from pipeline.data.decoding import tiff_tags

# Formats whose further pages are pictures of their own; of a JPEG they are previews and depth maps.
SEVERAL = ("TIFF", "GIF", "PNG", "WEBP")
SMALLER = 254, 1  # TIFF tag and bit of a page that is a smaller copy of another


def number_of_pages(picture: Image.Image) -> int:
    """How many pictures of the size of the first one an opened file holds; stays at the first."""
    if picture.format not in SEVERAL:
        return 1
    (tag, bit), size, number = SMALLER, picture.size, 0
    try:
        for page in range(getattr(picture, "n_frames", 1)):
            picture.seek(page)
            number += picture.size == size and not tiff_tags(picture).get(tag, 0) & bit
    except Exception:  # Pillow raises many types on damaged pages; the first one may be whole
        pass
    if number != 1 or picture.tell():
        picture.seek(0)
    return max(1, number)
