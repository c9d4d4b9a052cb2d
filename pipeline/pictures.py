"""Photos with their masks: colours of the classes, overlays, the picture of a data set."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.dataset import CLASSES
from pipeline.packages import matplotlib_figure, matplotlib_patches

COLOURS = np.array([(242, 142, 43), (58, 72, 98), (255, 255, 255)], np.uint8)  # as CLASSES
STRENGTHS = np.array([0.35, 0.65, 0.75])  # how much of a colour an overlay takes


def overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image, dimmed where the mask says background, with the border drawn in white.

    Args:
        image: uint8 (height, width, 3). mask: class indices (height, width).
    """
    share = STRENGTHS[mask][..., None]
    return (image * (1 - share) + COLOURS[mask] * share).astype(np.uint8)


def examples(images: np.ndarray, masks: np.ndarray, title: str) -> Any:
    """A figure of a few examples as columns of photo, mask and overlay, with a legend.

    Args:
        images: uint8 (n, size, size, 3). masks: uint8 (n, size, size).
    """
    rows = {
        "photo": images,
        "mask": COLOURS[masks],
        "overlay": [overlay(*pair) for pair in zip(images, masks)],
    }
    size = (1.5 * len(images), 5.6)
    figure = matplotlib_figure.Figure(size, layout="constrained", facecolor="#f4f1ea")
    axes = figure.subplots(len(rows), len(images), squeeze=False)
    for row, (name, pictures) in zip(axes, rows.items()):
        row[0].set_ylabel(name, fontsize=12)
        for axis, picture in zip(row, pictures):
            axis.imshow(picture, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    handles = [
        matplotlib_patches.Patch(facecolor=colour / 255, edgecolor="#555555", label=name)
        for name, colour in zip(CLASSES, COLOURS)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=12)
    figure.suptitle(title, fontsize=13)
    return figure
