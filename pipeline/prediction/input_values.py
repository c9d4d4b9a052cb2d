"""What each value of a pixel becomes in the input of a .tflite file, by what the file tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.console import UserError
from pipeline.prediction.tflite_description import Description

# Real values of a black and of a white pixel that networks of others are trained on.
PIXEL_RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (-0.5, 0.5), (-128.0, 127.0))
TOLERANCE = 0.02  # of such a range, by which a quantised input may differ from it
DIVIDED = np.arange(256, dtype=np.float32)[:, None] / np.float32(255)  # pixels divided by 255
INPUT_TYPES = ("float32", "uint8", "int8")


def input_values(
    path: Path, image: dict[str, Any], description: Description, assumed: np.ndarray = DIVIDED
) -> tuple[np.ndarray, bool]:
    """What goes into a network for each value of a pixel, in the input's type: (256, 3).

    Args:
        assumed: as for `open_tflite`.

    Returns:
        The values; and whether the file tells them.

    Raises:
        UserError: nothing tells, or the input cannot hold what the file says.
    """
    kind = np.dtype(image["dtype"])
    if kind.name not in INPUT_TYPES:
        raise UserError(f"{path} takes input of type {kind.name}, not {', '.join(INPUT_TYPES)}")
    pixels = np.arange(256, dtype=np.float32)[:, None]
    real = None
    if description.mean is not None and description.std is not None:
        lengths = {len(description.mean), len(description.std)}
        if not lengths <= {1, 3} or not all(np.isfinite(description.std)) or 0 in description.std:
            raise UserError(
                f"{path} says that pixels become values by mean {list(description.mean)} and std "
                f"{list(description.std)}, which are not those of three colours"
            )
        mean, std = (np.array(v, np.float32) for v in (description.mean, description.std))
        real = np.broadcast_to((pixels - mean) / std, (256, 3))
    scale, zero_point = image["quantization"]
    if kind == np.float32:
        told = real is not None
        real = np.broadcast_to(assumed, (256, 3)) if real is None else real
        return np.ascontiguousarray(real, np.float32), told
    raw = np.repeat(np.arange(256)[:, None] + np.iinfo(kind).min, 3, axis=1).astype(kind)
    if not scale:  # plain bytes
        if kind == np.uint8 or real is None:
            return raw, True
        raise UserError(f"{path} has an input without a scale, which its normalisation needs")
    if real is not None and is_raw(description):
        return raw, True
    told = real is not None
    if real is None:
        black, white = ((raw[[0, 255], 0].astype(float) - zero_point) * scale).tolist()
        for low, high in PIXEL_RANGES:
            if max(abs(black - low), abs(white - high)) <= TOLERANCE * (high - low):
                return raw, True
        if assumed is DIVIDED:
            raise UserError(
                f"{path} does not say how pixels become input values, and its input, of "
                f"{black:.4g} to {white:.4g}, is not that of pixels; add "
                "NormalizationOptions to its metadata"
            )
        real = np.broadcast_to(assumed, (256, 3))
    exact = np.rint(real.astype(np.float64) / scale + zero_point)
    limits = np.iinfo(kind)
    beyond = max(limits.min - exact.min(), exact.max() - limits.max)
    if not beyond <= TOLERANCE * 255:  # nor if it is no number
        raise UserError(
            f"{path} says that pixels become values of {real.min():.4g} to {real.max():.4g}, and "
            "its quantised input cannot hold these; correct its metadata"
        )
    return np.clip(exact, limits.min, limits.max).astype(kind), told


def is_raw(description: Description) -> bool:
    """Whether a file wants pixels as they are: the metadata of many files with bytes as input."""
    return set(description.mean or ()) == {0.0} and set(description.std or ()) == {1.0}
