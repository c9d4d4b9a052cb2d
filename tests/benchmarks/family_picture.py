"""Draws trained networks, other runtimes and peers: time against mean IoU, from one run's record.

    python tests/benchmarks/against_other_runtimes.py --family DIR ... --peers DIR --json RECORD
    python tests/benchmarks/family_picture.py RECORD docs/family.png

Points are networks with a mean IoU on the validation split, with its 95 % interval; dotted lines
are peers, which were not trained and have a time alone. Times of one thread.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pipeline import charts, console
from pipeline.packages import matplotlib_figure


def draw(record: dict[str, Any]) -> Any:
    """The figure of a record of against_other_runtimes.py."""
    rows = [row for row in record["rows"] if row["threads"] == 1]
    # In other runtimes nothing but the network of the first row was measured.
    names = {
        id(row): f"{row['network'].removeprefix('compact_unet ')}, {row['runtime']} "
        f"{row['precision']}"
        for row in rows
    }
    trained = [
        {
            "name": names[id(row)],
            "mean_iou": row["validation_mean_iou"],
            "mean_iou_interval": row["mean_iou_interval"],
        }
        for row in rows
        if row["validation_mean_iou"] is not None
    ]
    costs = [row["median_ms"] for row in rows if row["validation_mean_iou"] is not None]
    width, height = record["image_size"]
    figure = matplotlib_figure.Figure((9, 5.4), layout="constrained")
    label = f"median ms, one thread of {record['cpu']}, {width} x {height} pixels"
    charts.trade_off(trained, costs, label, figure)
    (axis,) = figure.axes
    axis.set_ylabel("mean IoU, validation")
    for row in rows:
        if row["validation_mean_iou"] is None:
            axis.axvline(row["median_ms"], color=charts.GREY, linestyle=":", zorder=0)
            place = row["median_ms"], 0.02
            text = {"xycoords": axis.get_xaxis_transform(), "rotation": 90, "fontsize": 7}
            where = {"ha": "right", "va": "bottom", "color": charts.BLUE}
            axis.annotate(f"{names[id(row)]} (not trained)", place, **text, **where)
    return figure


def main() -> None:
    """Draws the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("record", type=Path, help="a record of against_other_runtimes.py")
    parser.add_argument("picture", type=Path, help="where to draw, .png")
    arguments = parser.parse_args()
    charts.save(draw(json.loads(arguments.record.read_text())), arguments.picture)
    console.say(f"wrote {arguments.picture}")


if __name__ == "__main__":
    console.run(main)
