"""Draws what pruning and int8 cost each class, from a record of evaluation.py.

    python tests/benchmarks/classes_picture.py docs/results_camvid.json docs/camvid.png

A row per class, the largest first, with its share of the pixels of the test split.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pipeline import charts, console

SHOWN = {"original": charts.BLUE, "pruned": charts.GREY, "int8": charts.ORANGE}  # and their colours


def main() -> None:
    """Draws the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("record", type=Path, help="an evaluation.json")
    parser.add_argument("picture", type=Path, help="where to draw, .png")
    arguments = parser.parse_args()
    evaluation = json.loads(arguments.record.read_text())
    shares = evaluation["dataset"]["class_shares"]
    models = {row["name"]: row for row in evaluation["models"]}
    names = [
        name
        for name in sorted(shares, key=shares.get, reverse=True)
        if all(models[model]["iou"][name] is not None for model in SHOWN)
    ]
    groups = {
        model: (colour, [models[model]["iou"][name] for name in names])
        for model, colour in SHOWN.items()
    }
    labels = [f"{name} ({shares[name]:.1%})" for name in names]
    figure = charts.bars(labels, groups, "IoU (share of pixels in brackets)", "{:.3f}", most=1.0)
    charts.save(figure, arguments.picture)
    console.say(f"wrote {arguments.picture}")


if __name__ == "__main__":
    console.run(main)
