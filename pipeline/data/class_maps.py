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
    classes = np.zeros((height, width), np.uint8)
    step = (bottom - top) / height
    enlarging = step <= 1 and right - left <= width
    if is_map := scores.ndim == 2:
        layers, smooth = scores[None].astype(np.uint8), Image.Resampling.NEAREST
    else:
        layers, smooth = np.moveaxis(scores, -1, 0).astype(np.float32), Image.Resampling.BILINEAR
    planes = [Image.fromarray(layer) for layer in layers]
    for start in range(0, height, BAND):
        band = classes[start : start + BAND]
        # The band's box in the planes. Pillow also reads around it, so that bands show no seams.
        first, end = top + start * step, min(bottom, top + (start + len(band)) * step)
        size, band_box = (width, len(band)), (left, first, right, end)
        if is_map:
            band[:] = np.asarray(planes[0].resize(size, smooth, band_box))
            continue
        best = np.full(band.shape, -np.inf, np.float32)
        rows = slice(max(0, int(first) - 1), int(end) + 2)
        for index in possible_classes(layers[:, rows]) if enlarging else range(len(planes)):
            plane = np.asarray(planes[index].resize(size, smooth, band_box))
            np.copyto(band, index, where=plane > best)  # the first of equal ones, as np.argmax
            np.maximum(best, plane, out=best)
    return classes


def possible_classes(scores: np.ndarray) -> list[int]:
    """The classes that may have the largest score somewhere, once scores are enlarged bilinearly.

    An enlarged score lies between the least and the largest of the four around it. So a class is
    not needed if everywhere another one has more in all four than it has in any. Of many classes
    this leaves a few, and each takes time for every pixel of a photograph.

    Args:
        scores: float32 (classes, height, width).
    """
    padded = np.pad(scores, ((0, 0), (0, 1), (0, 1)), "edge")
    corners = [
        padded[:, y : y + scores.shape[1], x : x + scores.shape[2]] for y in (0, 1) for x in (0, 1)
    ]
    surest = np.minimum.reduce(corners).max(axis=0)
    rounding = 1e-5 * float(np.abs(scores).max(initial=0))  # of the enlarging; far above it
    possible = np.maximum.reduce(corners) >= surest - rounding
    return np.flatnonzero(possible.any(axis=(1, 2))).tolist()


def as_picture(classes: np.ndarray, palette: np.ndarray) -> Image.Image:
    """A map of classes as a picture whose pixels are the indices.

    Args:
        classes: uint8 (height, width).
        palette: uint8 (256, 3), the colour of each index: `Classes.palette`.
    """
    picture = Image.fromarray(classes).convert("L")
    picture.putpalette(palette.ravel().tolist())
    return picture
