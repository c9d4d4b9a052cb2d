"""Draws the README's picture: what the int8 file sees, and what size and time cost in accuracy.

    make demo
    python tests/benchmarks/results_picture.py

The animals are drawn ones, from the demo's test split, because photographs of the real set are
not ours to publish; the charts are of docs/results.json, the default run on Oxford-IIIT Pet.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pipeline.base import console
from pipeline.base.artifacts import artifact_path
from pipeline.base.lazy import matplotlib_figure
from pipeline.data import dataset
from pipeline.inference.models import open_model
from pipeline.report import charts, overlays

SHOWN = (3, 27, 74, 149)  # pictures of the demo's test split


def main() -> None:
    """Draws docs/results.png."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models-dir", type=Path, default=ROOT / "models" / "demo")
    arguments = parser.parse_args()
    images, masks = (part[list(SHOWN)] for part in dataset.load_split(arguments.models_dir, "test"))
    classes = dataset.load_classes(arguments.models_dir)
    rows = {
        "picture": images,
        "truth": [overlays.overlay(*pair, classes) for pair in zip(images, masks)],
    }
    for name in ("original", "int8"):
        found = open_model(artifact_path(arguments.models_dir, name)).class_maps(images)
        rows[name] = [overlays.overlay(*pair, classes) for pair in zip(images, found)]
    evaluation = json.loads((ROOT / "docs" / "results.json").read_text())

    figure = matplotlib_figure.Figure((13, 5.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(5, 8))
    left.suptitle("What the models see (drawn animals of the demo)", fontsize=11)
    axes = left.subplots(len(rows), len(SHOWN))
    for line, (name, row) in zip(axes, rows.items()):
        line[0].set_ylabel(name, fontsize=10)
        for axis, picture in zip(line, row):
            axis.imshow(np.asarray(picture), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    legend = {"loc": "outside lower center", "ncols": 3, "frameon": False, "fontsize": 9}
    left.legend(handles=overlays.patches(classes), **legend)
    models = [row for row in evaluation["models"] if row["file"].endswith(".tflite")]
    right.suptitle("What it costs (Oxford-IIIT Pet, test split, 128 pixels)", fontsize=11)
    size, time = right.subfigures(1, 2)
    sizes = [row["bytes"] / 1e6 for row in models]
    times = [row["latency_ms"]["median"] for row in models]
    charts.trade_off(models, sizes, "size of the file, MB", size)
    charts.trade_off(models, times, "median latency, ms, 1 thread", time)
    path = ROOT / "docs" / "results.png"
    charts.save(figure, path)
    console.say(f"wrote {path}")


if __name__ == "__main__":
    console.run(main)
