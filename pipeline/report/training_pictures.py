"""The pictures of a training: its curves, and the examples as the network gets them.

augmented.jpg, original_training.png and original_training.csv in the models folder.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.artifacts import read_record
from pipeline.base.console import say
from pipeline.base.files import write_csv
from pipeline.base.lazy import matplotlib_figure
from pipeline.base.system import is_first_worker
from pipeline.data.classes import Classes
from pipeline.data.dataset import load_classes, load_split
from pipeline.report import charts, sidecars
from pipeline.report.chart_style import chart_text, styled
from pipeline.report.overlays import overlay, patches
from pipeline.training.input_pipeline import epoch_batches
from pipeline.training.mirroring import Mirror, recorded

SHOWN, COLUMNS = 24, 4
EXAMPLES = "augmented.jpg"


def show_examples(models_dir: Path, seed: int, mirror: Mirror) -> None:
    """Draws augmented.jpg before a training, where what it shows can still be mended."""
    if not is_first_worker():
        return
    write = functools.partial(draw_examples, models_dir, seed, mirror)
    if sidecars.drawn(models_dir / EXAMPLES, write):
        say(f"what the network will see: {models_dir / EXAMPLES}")


def drawings(models_dir: Path) -> sidecars.Drawings:
    """The table, the curves and the examples of a training, drawn from the model's record."""
    record, data = read_record(models_dir, "original"), read_record(models_dir, "dataset")
    history = record.get("history")
    if not history:  # made by an older version, which drew them itself, or trained elsewhere
        return {}
    title = f"{record['network']} on {data['source']}"
    look = record["settings"]["seed"], recorded(record["metrics"])

    def draw_curves(path: Path) -> None:
        charts.save(charts.curves(history, title, load_classes(models_dir)), path)

    return {
        models_dir / "original_training.csv": lambda path: write_csv(path, history),
        models_dir / "original_training.png": draw_curves,
        models_dir / EXAMPLES: functools.partial(draw_examples, models_dir, *look),
    }


def draw_examples(models_dir: Path, seed: int, mirror: Mirror, path: Path) -> None:
    """Draws the first examples of the first epoch, each with its mask laid over it beside it.

    Args:
        seed: of the training.
        mirror: how it treats mirror images.
        path: where the picture goes.
    """
    images, masks = load_split(models_dir, "train")
    classes = load_classes(models_dir)
    number = min(SHOWN, len(images))
    batches = epoch_batches(images, masks, number, seed, 0, ignored=classes.ignored, mirror=mirror)
    seen, truth = (part.numpy() for part in next(iter(batches)))
    pixels = np.rint(255 * seen).astype(np.uint8)
    source = read_record(models_dir, "dataset")["source"]
    title = f"{source}: what the network is trained on, in its first epoch"
    charts.save(grid(pixels, truth.astype(np.uint8), title, classes), path)


@styled
def grid(images: np.ndarray, masks: np.ndarray, title: str, classes: Classes) -> Any:
    """A figure of examples, each as photo and overlay side by side, with a legend.

    Args:
        images: uint8 (n, height, width, 3).
        masks: uint8 (n, height, width), class indices or IGNORED.
    """
    height, width = masks.shape[1:]
    columns = min(COLUMNS, len(images))
    rows = -(-len(images) // columns)
    present = [int(value) for value in np.unique(masks) if value < len(classes)]
    tall = min(3.0, 1.5 * height / width)  # inches of a row
    size = (3 * columns, tall * rows + 0.8 + 0.25 * -(-len(present) // 6))
    figure = matplotlib_figure.Figure(size, layout="constrained", facecolor="#f4f1ea")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, image, mask in zip(axes, images, masks):
        axis.imshow(np.hstack([image, overlay(image, mask, classes)]), interpolation="nearest")
    look = {"loc": "outside lower center", "ncols": 6, "frameon": False, "fontsize": 10}
    figure.legend(handles=patches(classes, present), **look)
    figure.suptitle(chart_text(title), fontsize=13)
    return figure
