"""What a network says of a photograph, as a map of classes at the photograph's own resolution.

Needs only NumPy and Pillow, and imports no other module of ours: the handover folder holds a copy
of this file, so that a device draws what `evaluation.py --image` draws.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

BAND = 256  # rows that are enlarged at a time, so that memory does not grow with the height


def class_map(scores: np.ndarray, size: tuple[int, int], box: tuple[float, ...]) -> np.ndarray:
    """The class of each pixel of a photograph.

    Scores are enlarged, not the class indices, so that outlines are smooth.

    Args:
        scores: (height, width, classes) in any scale, at the network's resolution; or a map of
            classes, integers (height, width), whose pixels are enlarged.
        size: width and height of the photograph, or of the part that the network saw.
        box: left, top, right, bottom of that part in the scores, in pixels and inside of them;
            `box` of `fitting.fitted`.

    Returns:
        Class indices, uint8 (height, width).
    """
    width, height = size
    left, top, right, bottom = box
    if is_map := scores.ndim == 2:
        planes, smooth = [Image.fromarray(scores.astype(np.uint8))], Image.Resampling.NEAREST
    else:
        layers = np.moveaxis(scores, -1, 0).astype(np.float32)
        planes, smooth = [*map(Image.fromarray, layers)], Image.Resampling.BILINEAR
    classes = np.empty((height, width), np.uint8)
    for start in range(0, height, BAND):
        end = min(start + BAND, height)
        # The band's box in the planes. Pillow also reads around it, so that bands show no seams.
        step = (bottom - top) / height
        band_box = (left, top + start * step, right, min(bottom, top + end * step))
        enlarged = [
            np.asarray(plane.resize((width, end - start), smooth, band_box)) for plane in planes
        ]
        classes[start:end] = enlarged[0] if is_map else np.argmax(enlarged, axis=0)
    return classes


def as_picture(classes: np.ndarray, palette: np.ndarray) -> Image.Image:
    """A map of classes as a picture whose pixels are the indices.

    Args:
        classes: uint8 (height, width).
        palette: uint8 (256, 3), the colour of each index: `Classes.palette`.
    """
    picture = Image.fromarray(classes).convert("L")
    picture.putpalette(palette.ravel().tolist())
    return picture
