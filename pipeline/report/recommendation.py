"""Which file to ship, and why none is recommended where that could not be meant."""

from __future__ import annotations

from typing import Any

ACCEPTABLE_DROP = 0.01  # largest drop of mean IoU of the file that is recommended
FEW_PICTURES = 30  # test pictures below which so small a drop cannot be told from luck
NOT_LEARNED = 0.05  # IoU of a class in the original below which it was not learned

Row = dict[str, Any]  # one model of evaluation.json


def lines(evaluation: dict[str, Any]) -> list[str]:
    """The recommended file, and a warning of models that are no better than a constant class."""
    rows, data = evaluation["models"], evaluation["dataset"]
    constant_iou = data["constant_mean_iou"]
    constant = f"calling every pixel {data['constant_class']} (mean IoU {constant_iou:.3f})"
    useless = [row["name"] for row in rows if row["mean_iou"] <= constant_iou]
    texts = [recommended_file(rows, constant_iou, constant, doubts(evaluation))]
    if useless:
        texts.append(f"Warning: no better than {constant}: {', '.join(useless)}.")
    return texts


def doubts(evaluation: dict[str, Any]) -> list[str]:
    """Why the numbers do not tell which file to ship; none if they do."""
    rows, pictures = evaluation["models"], evaluation["dataset"]["examples"]
    found = []
    files = [row for row in rows if row["file"].endswith(".tflite")]
    if any(row["latency_ms"].get("busy") for row in files):
        found.append("the machine was busy while latency was measured")
    if pictures < FEW_PICTURES:
        found.append(f"{pictures} test pictures are too few to tell such a drop from luck")
    iou = rows[0]["iou"]  # of the original
    poor = [name for name, value in iou.items() if value is not None and value < NOT_LEARNED]
    if poor:
        named = ", ".join(poor[:5]) + ", ..." * (len(poor) > 5)
        found.append(f"the original has not learned {named} (IoU below {NOT_LEARNED})")
    return found


def recommended_file(rows: list[Row], constant_iou: float, constant: str, doubts: list[str]) -> str:
    """The fastest .tflite file that loses little and is better than a constant class.

    Args:
        rows: the models.
        constant_iou: mean IoU of giving every pixel the same class.
        constant: that prediction in words.
        doubts: why it is not recommended all the same.
    """
    candidates = [
        row
        for row in rows
        if row["file"].endswith(".tflite")
        and not row.get("stale")
        and row["mean_iou_drop"] <= ACCEPTABLE_DROP
        and row["mean_iou"] > constant_iou
    ]
    if not candidates:
        return (
            f"Recommended file: none. Each loses more than {ACCEPTABLE_DROP} of mean IoU, is "
            f"stale, or is no better than {constant}."
        )
    fastest = min(candidates, key=lambda row: row["latency_ms"]["median"])["file"]
    if doubts:
        return f"Recommended file: none yet, as {'; '.join(doubts)}. By these numbers: {fastest}."
    return (
        f"Recommended file: {fastest}, the fastest on this machine that loses at most "
        f"{ACCEPTABLE_DROP} of mean IoU."
    )
