"""Masks as NumPy arrays (.npy): class numbers, colours, or one layer for each class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.base.archives import ZIP_ERRORS
from pipeline.data.decoding import Source
from pipeline.data.image_reader import MOST_PIXELS, Unreadable

SUFFIX = ".npy"
ERRORS: tuple[type[Exception], ...] = (*ZIP_ERRORS, TypeError, SyntaxError)  # of a damaged file


def is_array(source: Source) -> bool:
    """Whether a mask is the file of a NumPy array, by its name."""
    return isinstance(source, Path) and source.suffix.lower() == SUFFIX


def read_array(path: Path, name: str) -> np.ndarray:
    """Reads the array of a mask; of one layer for each class, the number of the layer is the value.

    Args:
        name: of the mask, for messages.

    Returns:
        (height, width) of whole numbers of any type or of floating-point numbers, uint8 where they
        are 0..255; or uint8 (height, width, 3) of colours.

    Raises:
        Unreadable: it cannot be read, is too large, or has another shape or type.
    """
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(stored, np.ndarray):
            raise Unreadable(f"{name} is an archive of arrays; save each mask as numpy.save does")
        if stored.ndim not in (2, 3) or 0 in stored.shape or stored.dtype.kind not in "biuf":
            reason = f"has the shape {stored.shape} and the type {stored.dtype}"
            raise Unreadable(
                f"{name} {reason}; save (height, width) of class numbers: numpy.save('OUT.npy', a)"
            )
        if stored.size > MOST_PIXELS:
            raise Unreadable(f"{name} has more than {MOST_PIXELS // 1_000_000} million values")
        values = np.array(stored)
    except Unreadable:
        raise
    except FileNotFoundError:
        raise Unreadable(f"{name} is missing") from None
    except ERRORS as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise Unreadable(f"{name} cannot be read ({reason})") from None
    if values.ndim == 3:
        values = without_layers(values, name)
    whole = values.dtype.kind in "biu" or (values == np.trunc(values)).all()
    if values.ndim == 3 or (whole and values.min() >= 0 and values.max() <= 255):
        return values.astype(np.uint8)
    return values


def without_layers(values: np.ndarray, name: str) -> np.ndarray:
    """An array of three dimensions as class numbers (height, width), or as colours.

    Raises:
        Unreadable: it is neither one layer, nor one of each class, nor uint8 colours.
    """
    for axis in (-1, 0):
        if values.shape[axis] == 1:
            return values.squeeze(axis)
    if ((values == 0) | (values == 1)).all():
        for axis in (-1, 0):
            if (values.sum(axis) == 1).all():
                return values.argmax(axis)
    if values.dtype == np.uint8 and values.shape[-1] in (3, 4) and values.max() > 1:
        return values[..., :3]
    raise Unreadable(
        f"{name} has the shape {values.shape}; save class numbers (height, width): "
        "numpy.save('OUT.npy', a.argmax(-1)) if the last axis has a layer for each class"
    )
