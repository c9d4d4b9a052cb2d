"""Draws the README's picture: test photos, their masks, and what two models of a real run see.

    make
    python tests/benchmarks/results_picture.py

Nobody chooses the photos: the test split is ranked by the int8 file's mean IoU on each photo, and
cut into eight equal parts; each part's middle photo is shown.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pipeline.base import console
from pipeline.base.artifacts import MODELS_DIR, artifact_path
from pipeline.base.lazy import matplotlib_figure
from pipeline.data import dataset
from pipeline.data.npz import read_npz
from pipeline.inference.iou import iou_per_class, mean_iou
from pipeline.inference.models import open_model
from pipeline.report import charts, gallery, overlays
from pipeline.report.chart_style import styled

PHOTOS = 8
MODELS = {"original": "original, float32", "int8": "pruned, int8"}  # with their captions


@styled
def picture(models_dir: Path) -> Any:
    """The figure: a column per photo, with the mean IoU of each model's map below it."""
    counts = read_npz(models_dir / gallery.COUNTS_FILE)
    assert counts, "evaluation.py writes the counts"
    scores = {name: mean_iou(iou_per_class(counts[name])) for name in MODELS}
    ranking = np.argsort(scores["int8"], kind="stable")
    shown = ranking[((np.arange(PHOTOS) + 0.5) / PHOTOS * len(ranking)).astype(int)]
    images, masks = (
        np.stack([part[k] for k in shown]) for part in dataset.load_split(models_dir, "test")
    )
    classes = dataset.load_classes(models_dir)
    rows = {
        "photo": list(images),
        "ground truth": [overlays.overlay(*pair, classes) for pair in zip(images, masks)],
    }
    for name, caption in MODELS.items():
        found = open_model(artifact_path(models_dir, name)).class_maps(images)
        rows[caption] = [overlays.overlay(*pair, classes) for pair in zip(images, found)]

    figure = matplotlib_figure.Figure((1.25 * PHOTOS, 5.9), layout="constrained")
    axes = figure.subplots(len(rows), PHOTOS)
    for line, (caption, pictures) in zip(axes, rows.items()):
        line[0].set_ylabel(caption, fontsize=10)
        for axis, pixels in zip(line, pictures):
            axis.imshow(pixels, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    for name, line in zip(MODELS, axes[2:]):
        for axis, row in zip(line, shown):
            axis.set_xlabel(f"{scores[name][row]:.2f}", fontsize=9)
    legend = {"loc": "outside lower center", "ncols": len(classes), "frameon": False}
    figure.legend(handles=overlays.patches(classes), fontsize=10, **legend)
    return figure


def main() -> None:
    """Draws docs/results.jpg."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models-dir", type=Path, default=MODELS_DIR, metavar="DIR")
    path = ROOT / "docs" / "results.jpg"
    charts.save(picture(parser.parse_args().models_dir), path)
    console.say(f"wrote {path}")


if __name__ == "__main__":
    console.run(main)
