"""One picture and its mask: decoded, resized, and what is wrong with it."""

from __future__ import annotations

import io
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from pipeline.console import UserError, progress

# What the audit counts.
UNREADABLE, ODD_VALUES = "unreadable, left out", "mask values outside 1..3, left out"
NO_PET, ODD_SIZES = "mask without any pet, kept", "image and mask of different size, kept"
AUDIT = (UNREADABLE, ODD_VALUES, NO_PET, ODD_SIZES)

Example = tuple[bytes, bytes]  # an encoded image and an encoded trimap, as they lie on disk
Source = Callable[[], Example]  # gives an example when called, so that workers read in parallel


def decode(source: Source, size: int) -> tuple[np.ndarray | None, np.ndarray | None, list[str]]:
    """Reads, decodes and resizes one example, and names its blemishes.

    Any size, orientation and colour mode is taken (grey, palette, RGBA, CMYK). The image is
    resized with antialiasing, the mask by its nearest values, both to a square.

    Returns:
        uint8 image (size, size, 3), uint8 mask (size, size) of 0 pet, 1 background, 2 border,
        and the blemishes, from AUDIT; image and mask are None if they cannot be used.
    """
    image_bytes, trimap_bytes = source()
    try:
        image = Image.open(io.BytesIO(image_bytes)).convert("RGB")
        trimap = Image.open(io.BytesIO(trimap_bytes))
        trimap.load()
    except (OSError, ValueError, SyntaxError):  # what Pillow raises on damaged files
        return None, None, [UNREADABLE]
    if trimap.mode not in ("L", "P", "I", "I;16"):  # a grey mask saved as RGB or RGBA
        trimap = trimap.convert("RGB").getchannel(0)
    values = np.asarray(trimap)
    if values.min() < 1 or values.max() > 3:
        return None, None, [ODD_VALUES]
    blemishes = [NO_PET] * (not (values == 1).any()) + [ODD_SIZES] * (image.size != trimap.size)
    image = image.resize((size, size), Image.Resampling.BILINEAR)  # Pillow's widens when it shrinks
    trimap = Image.fromarray(values.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)
    return np.asarray(image), np.asarray(trimap) - np.uint8(1), blemishes


def prepare_split(
    number: int, sources: Iterator[Source], size: int, label: str, audit: Counter[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Decodes a stream of examples into uint8 images (n, size, size, 3) and masks (n, size, size).

    Blemishes are counted in `audit`.

    Raises:
        UserError: less than half of it can be used.
    """
    images = np.empty((number, size, size, 3), np.uint8)
    masks = np.empty((number, size, size), np.uint8)
    kept = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool, progress(label, number, "images") as bar:
        while chunk := list(itertools.islice(sources, 64)):  # memory holds few photographs
            for image, mask, blemishes in pool.map(lambda source: decode(source, size), chunk):
                audit.update(blemishes)
                bar.update()
                if image is not None:
                    images[kept], masks[kept] = image, mask
                    kept += 1
    if kept < max(2, number / 2):
        found = ", ".join(f"{count} {what}" for what, count in audit.items())
        raise UserError(f"only {kept} of {number} {label} examples can be used: {found}")
    return images[:kept], masks[:kept]
