"""Legends: the colours and names of the classes that a photo shows, or several together."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.base.lazy import matplotlib_figure
from pipeline.data.classes import Classes
from pipeline.prediction.photo_drawing import write_picture
from pipeline.report.chart_style import rendered, styled
from pipeline.report.overlays import patches

SHOWN_SHARE = 0.001  # a class with a smaller share of a photo's pixels is not named in its legend


def shown_classes(shares: np.ndarray) -> list[int]:
    """Indices of the classes with a share (0..1) of at least SHOWN_SHARE, the largest first."""
    return [int(k) for k in np.argsort(-shares, kind="stable") if shares[k] >= SHOWN_SHARE]


@styled
def legend_figure(classes: Classes, shares: np.ndarray) -> Any:
    """Figure with the colour, name and index of each class that a photo shows.

    Args:
        classes: names and colours of the classes.
        shares: (photos, classes), the share of each class in the pixels of each photo, 0..1. Of
            one photo, the legend also has the shares; of several, it has in the order of their
            indices the classes that one of them shows.
    """
    largest = shares.max(axis=0)
    shown = shown_classes(largest)
    if several := len(shares) > 1:
        shown.sort()
    handles = patches(classes, shown)
    for handle, index in zip(handles, shown):
        share = "" if several else f": {largest[index]:.1%}"
        handle.set_label(f"{handle.get_label()} ({index}){share}")
    figure = matplotlib_figure.Figure((3.2, 0.3 + 0.26 * len(shown)))
    figure.legend(handles=handles, loc="center", frameon=False)
    return figure


def draw_legend(classes: Classes, shares: np.ndarray, path: Path) -> None:
    """Writes `legend_figure` as a picture."""
    with Image.open(io.BytesIO(rendered(legend_figure(classes, shares), "png"))) as picture:
        write_picture(picture, path)
