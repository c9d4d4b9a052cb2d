"""Photos with their masks: overlays, legends, the picture of a data set."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.base.lazy import matplotlib_figure, matplotlib_patches
from pipeline.data.classes import Classes

STRENGTH = 0.5  # how much of a class' colour an overlay takes


def overlay(image: np.ndarray, mask: np.ndarray, classes: Classes) -> np.ndarray:
    """The image in the colours of its classes; pixels of no class as they are.

    Args:
        image: uint8 (height, width, 3). mask: class indices or IGNORED (height, width).
    """
    share = np.where(mask < len(classes), STRENGTH, 0)[..., None]
    return (image * (1 - share) + classes.palette[mask] * share).astype(np.uint8)


def patches(classes: Classes, numbers: list[int] | None = None) -> list[Any]:
    """What a legend shows: name and colour of each class, or of those with these numbers."""
    return [
        matplotlib_patches.Patch(
            facecolor=np.array(classes.colours[k]) / 255,
            edgecolor="#555555",
            label=classes.names[k],
        )
        for k in (range(len(classes)) if numbers is None else numbers)
    ]


def examples(images: np.ndarray, masks: np.ndarray, title: str, classes: Classes) -> Any:
    """A figure of a few examples as columns of photo, mask and overlay, with a legend.

    The legend names the classes that are to be seen.

    Args:
        images: uint8 (n, height, width, 3). masks: uint8 (n, height, width).
    """
    rows = {
        "photo": images,
        "mask": classes.palette[masks],
        "overlay": [overlay(*pair, classes) for pair in zip(images, masks)],
    }
    height, width = masks.shape[1:]
    across = 1.5 * max(1.0, width / height) ** 0.5  # inches
    seen = [int(value) for value in np.unique(masks) if value < len(classes)]
    per_row = max(3, int(across * len(images) / 1.5))
    lines = -(-len(seen) // per_row)
    size = (across * len(images), 3 * across * height / width + 0.75 + 0.25 * lines)
    figure = matplotlib_figure.Figure(size, layout="constrained", facecolor="#f4f1ea")
    axes = figure.subplots(len(rows), len(images), squeeze=False)
    for row, (name, pictures) in zip(axes, rows.items()):
        row[0].set_ylabel(name, fontsize=12)
        for axis, picture in zip(row, pictures):
            axis.imshow(picture, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    legend = {"loc": "outside lower center", "ncols": per_row, "frameon": False}
    figure.legend(handles=patches(classes, seen), fontsize=12 if lines < 3 else 8, **legend)
    figure.suptitle(title, fontsize=13)
    return figure
