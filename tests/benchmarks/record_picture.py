"""Draws a record: what each class lost, or what each network takes in time and has in accuracy.

    python tests/benchmarks/record_picture.py docs/results_camvid.json docs/camvid.png
    python tests/benchmarks/record_picture.py RECORD docs/family.png

Of evaluation.py: a row per class, the largest first, with its share of the pixels of the test
split. Of against_other_runtimes.py: a point for each network with its mean IoU on the validation
split and the 95 % interval, a dotted line for each peer, which was not trained; one thread.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pipeline.base import console
from pipeline.base.lazy import matplotlib_figure
from pipeline.report import charts

SHOWN = {"original": charts.BLUE, "pruned": charts.GREY, "int8": charts.ORANGE}  # and their colours


def by_class(evaluation: dict[str, Any]) -> Any:
    """IoU of each class as bars, from a record of evaluation.py."""
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
    return charts.bars(labels, groups, "IoU (share of pixels in brackets)", "{:.3f}", most=1.0)


def by_network(record: dict[str, Any]) -> Any:
    """Time against mean IoU, from a record of against_other_runtimes.py."""
    trained, peers = [], []
    for row in record["rows"]:
        if row["threads"] == 1:
            network = row["network"].removeprefix("compact_unet ")
            named = row | {"name": f"{network}, {row['runtime']} {row['precision']}"}
            (peers if row["validation_mean_iou"] is None else trained).append(named)
    points = [row | {"mean_iou": row["validation_mean_iou"]} for row in trained]
    width, height = record["image_size"]
    label = f"median ms, one thread of {record['cpu']}, {width} x {height} pixels"
    figure = matplotlib_figure.Figure((9, 5.4), layout="constrained")
    charts.trade_off(points, [row["median_ms"] for row in points], label, figure)
    (axis,) = figure.axes
    axis.set_ylabel("mean IoU, validation")
    text = {"rotation": 90, "ha": "right", "va": "bottom", "color": charts.BLUE, "fontsize": 7}
    slowest = max((row["median_ms"] for row in peers), default=0.0)
    axis.set_xlim(right=max(axis.get_xlim()[1], 1.06 * slowest))
    for row in peers:
        axis.axvline(row["median_ms"], color=charts.GREY, linestyle=":", zorder=0)
        place = row["median_ms"], 0.08
        name = f"{row['name']} (not trained)"
        axis.annotate(name, place, xycoords=axis.get_xaxis_transform(), **text)
    return figure


def main() -> None:
    """Draws the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("record", type=Path, help="of evaluation.py or against_other_runtimes.py")
    parser.add_argument("picture", type=Path, help="where to draw, .png")
    arguments = parser.parse_args()
    record = json.loads(arguments.record.read_text())
    figure = by_class(record) if "models" in record else by_network(record)
    charts.save(figure, arguments.picture)
    console.say(f"wrote {arguments.picture}")


if __name__ == "__main__":
    console.run(main)
