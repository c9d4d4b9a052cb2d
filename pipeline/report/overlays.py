"""Photos with their masks: overlays, legends, the picture of a data set."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.base.lazy import matplotlib_figure, matplotlib_patches
from pipeline.data.classes import Classes
from pipeline.report.chart_style import chart_text, class_labels, styled

OPACITY = 0.5  # of the colours of the classes in an overlay
LETTERS, LINE = 17, 0.13  # of a caption: letters per inch, and inches per line
LETTERS_OF_ENTRY = 13  # of a name in a legend; longer ones need more than 1.5 inches


def overlay(image: np.ndarray, mask: np.ndarray, classes: Classes) -> np.ndarray:
    """The image mixed with the colours of its classes; pixels of no class stay as they are.

    Args:
        image: uint8 (height, width, 3).
        mask: uint8 (height, width), class indices or IGNORED.

    Returns:
        uint8 (height, width, 3).
    """
    opacity = np.where(mask < len(classes), OPACITY, 0)[..., None]
    return (image * (1 - opacity) + classes.palette[mask] * opacity).astype(np.uint8)


def patches(classes: Classes, indices: list[int] | None = None) -> list[Any]:
    """Legend entries, name and colour, of all classes or of those with these indices."""
    indices = list(range(len(classes))) if indices is None else indices
    return [
        matplotlib_patches.Patch(
            facecolor=np.array(classes.colours[index]) / 255, edgecolor="#555555", label=label
        )
        for index, label in zip(indices, class_labels(classes.names, indices))
    ]


@styled
def examples(
    images: np.ndarray,
    masks: np.ndarray,
    title: str,
    classes: Classes,
    captions: Sequence[str] = (),
) -> Any:
    """A figure of a few examples as columns of photo, mask and overlay, with a legend.

    The legend lists only the classes that the masks contain.

    Args:
        images: uint8 (n, height, width, 3).
        masks: uint8 (n, height, width), class indices or IGNORED.
        title: of the figure.
        classes: of the masks.
        captions: what stands above each photo; none above any if all are empty.
    """
    rows = {
        "photo": images,
        "mask": classes.palette[masks],
        "overlay": [overlay(*pair, classes) for pair in zip(images, masks)],
    }
    height, width = masks.shape[1:]
    column = 1.5 * max(1.0, width / height) ** 0.5  # width in inches
    present = [int(value) for value in np.unique(masks) if value < len(classes)]
    per_line = max(3, int(column * len(images) / 1.5))
    longest = max(map(len, class_labels(classes.names, present)), default=0)
    if longest > LETTERS_OF_ENTRY:
        per_line = max(1, min(per_line, int(column * len(images) / (0.6 + 0.1 * longest))))
    lines = -(-len(present) // per_line)
    wrapped = [textwrap.fill(chart_text(text), round(LETTERS * column)) for text in captions]
    above = max((LINE * (text.count("\n") + 1) for text in wrapped if text), default=0)
    size = (column * len(images), 3 * column * height / width + 0.75 + 0.25 * lines + above)
    figure = matplotlib_figure.Figure(size, layout="constrained", facecolor="#f4f1ea")
    axes = figure.subplots(len(rows), len(images), squeeze=False)
    for row, (name, pictures) in zip(axes, rows.items()):
        row[0].set_ylabel(name, fontsize=12)
        for axis, picture in zip(row, pictures):
            axis.imshow(picture, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    for axis, text in zip(axes[0], wrapped):
        if text:
            axis.set_title(text, fontsize=7)
    look = {"loc": "outside lower center", "ncols": per_line, "frameon": False}
    figure.legend(handles=patches(classes, present), fontsize=12 if lines < 3 else 8, **look)
    figure.suptitle(chart_text(title), fontsize=13)
    return figure
