"""Tables of the report on the classes: pixels and IoU, precision, recall, Dice and boundary IoU."""

from __future__ import annotations

from typing import Any

from pipeline.evaluation.pixel_measures import TAIL
from pipeline.report.findings import Row, format_class_iou


def shares_and_iou(evaluation: dict[str, Any]) -> dict[str, list]:
    """The table of all classes: share of pixels, number of pictures, IoU of each model."""
    models, data = evaluation["models"], evaluation["dataset"]
    head = ["class", "pixels", "pictures", *(row["name"] for row in models)]
    rows = []
    for name, share in data["class_shares"].items():
        cells = [name, f"{share:.2%}", f"{data['class_pictures'][name]:,}"]
        rows.append(cells + [format_class_iou(row, [name]) for row in models])
    return {"head": head, "rows": rows}


def means(row: Row) -> dict[str, str]:
    """Cells of the measures beside mean IoU; a dash for one that an older evaluation lacks."""
    shown = {
        "mean Dice": "mean_dice",
        "mean boundary IoU": "mean_boundary_iou",
        f"mean IoU, worst {TAIL} %": "mean_iou_tail",
        "pixel accuracy": "pixel_accuracy",
    }
    return {head: f"{row[key]:.3f}" if key in row else "-" for head, key in shown.items()}


def measures(row: Row) -> dict[str, list] | None:
    """Precision, recall, Dice and boundary IoU of each class; None where they were not measured."""
    keys = ("precision", "recall", "dice", "boundary_iou")
    if not all(key in row for key in keys):
        return None
    rows = [
        [name, *("-" if row[key][name] is None else f"{row[key][name]:.3f}" for key in keys)]
        for name in row["iou"]
    ]
    return {"head": ["class", "precision", "recall", "Dice", "boundary IoU"], "rows": rows}
