"""What the numbers of an evaluation mean, in words."""

from __future__ import annotations

from typing import Any

from pipeline.variants import quantised

SAME = 0.02  # a ratio of times so close to 1 is no difference
CLASS_COLLAPSE = 0.02  # a class that loses more IoU than this is called out
SHOWN_CLASSES = 5  # of those that something is said of, and as many in the README's table
HARDLY = 0.2  # IoU of a class that was not learned
DROP = "drop: mean IoU of the original less this model's; + is lost, - is gained."
BEARABLE_DROP = 0.01  # of mean IoU, for the model that is recommended

Row = dict[str, Any]  # a model of evaluation.json


def lost(value: float) -> str:
    """A drop of IoU, wherever one is shown: what was lost has a +, what was gained a -.

    To four places, without a negative zero.
    """
    return f"{round(value, 4) + 0.0:+.4f}"


def figure(value: float) -> str:
    """Three digits that count, or all before the point: 0.98, 12.3, 123, 12345."""
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"


def speed(row: Row, baseline: Row, unit: str = "x") -> str:
    """How a model's latency compares with another's: "1.93x faster", "1.72x slower", "same"."""
    return ratio_words(baseline["latency_ms"]["median"] / row["latency_ms"]["median"], unit)


def ratio_words(ratio: float, unit: str = "x") -> str:
    """A ratio of speeds so that nobody has to think what a figure below 1 means."""
    if abs(ratio - 1) < SAME:
        return "same"
    return f"{figure(ratio)}{unit} faster" if ratio > 1 else f"{figure(1 / ratio)}{unit} slower"


def half_interval(row: Row) -> float:
    """Half the width of the 95 % interval of the mean IoU, to its longer side."""
    low, high = row["mean_iou_interval"]
    return max(high - row["mean_iou"], row["mean_iou"] - low)


def activations(row: Row) -> str:
    """Activation memory in KB; a Keras model has no plan."""
    return f"{row['activation_kb']:.0f}" if row.get("activation_kb") else "-"


def baseline_of(rows: list[Row]) -> Row:
    """The model that latencies are compared with."""
    return next((row for row in rows if row["name"] == "float32"), rows[0])


def sentences(evaluation: dict[str, Any]) -> list[str]:
    """What the numbers mean on this machine."""
    rows = {row["name"]: row for row in evaluation["models"]}
    said = [*about_busy(rows)]
    if {"float32", "pruned_float32"} <= rows.keys():
        said.append(about_pruning(rows["float32"], rows["pruned_float32"]))
    for name in quantised():
        if {name, "pruned_float32"} <= rows.keys():
            row, source = rows[name], rows["pruned_float32"]
            said.append(
                f"{name}: {source['bytes'] / row['bytes']:.2f} times smaller than the pruned "
                f"float32 file, {in_words(row, source)}, "
                f"drop of mean IoU against it {lost(source['mean_iou'] - row['mean_iou'])}."
            )
    if rows.get("int8", {}).get("activation_kb"):
        said.append(about_memory(rows["int8"]))
    said += about_baseline(evaluation) + about_cost_of_pruning(rows)
    return said + about_classes(list(rows.values()))


def about_busy(rows: dict[str, Row]) -> list[str]:
    """That times are not to be trusted, if they are not, and why: in one sentence."""
    reasons: dict[str, list[str]] = {}
    for name, row in rows.items():
        if reason := row["latency_ms"].get("busy"):
            reasons.setdefault(reason, []).append(name)
    if not reasons:
        return []
    of = [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()]
    return [
        f"THE MACHINE WAS BUSY while latency was taken ({'; '.join(of)}): the times say little of "
        "the models; close other programs and run evaluation.py again."
    ]


def in_words(row: Row, baseline: Row) -> str:
    """`speed` in words."""
    text = speed(row, baseline, " times")
    return "as fast" if text == "same" else text


def about_pruning(before: Row, after: Row) -> str:
    """What pruning did to the unquantised file."""
    packed = f"{before['gzip_bytes'] / after['gzip_bytes']:.2f} times smaller"
    if lost_channels(before, after):
        return (
            "Pruning removed channels: the float32 file is "
            f"{before['bytes'] / after['bytes']:.2f} times smaller, {packed} after gzip, and "
            f"{in_words(after, before)}."
        )
    zeros = f"{1 - after['nonzero_share']:.0%}"
    if zeros == "0%":
        return "Nothing was pruned: no channel is gone and no weight is zero."
    return (
        f"Pruning set {zeros} of the weights to zero: the file is as large as before, {packed} "
        f"after gzip. Here it runs {in_words(after, before)}: dense kernels also multiply zeros."
    )


def lost_channels(before: Row, after: Row) -> bool:
    """Whether pruning made the unquantised file smaller, which zeros do not."""
    return after["bytes"] < 0.98 * before["bytes"]


def about_cost_of_pruning(rows: dict[str, Row]) -> list[str]:
    """That it is pruning, not int8, that makes a file lose more than can be borne."""
    if not {"float32", "pruned_float32", "int8"} <= rows.keys():
        return []
    before, pruned, int8 = rows["float32"], rows["pruned_float32"], rows["int8"]
    by_int8 = pruned["mean_iou"] - int8["mean_iou"]
    borne = min(pruned["mean_iou_drop"], int8["mean_iou_drop"]) <= BEARABLE_DROP
    if borne or by_int8 > BEARABLE_DROP:
        return []
    less = "a lower --channels" if lost_channels(before, pruned) else "a lower --sparsity (0: none)"
    return [
        f"It is pruning that costs: {lost(pruned['mean_iou_drop'])} of mean IoU, and int8 "
        f"{lost(by_int8)} on top of it. Take out less: python pruning.py with {less}, then "
        "quantization.py and evaluation.py."
    ]


def about_memory(row: Row) -> str:
    """What a device needs for a file, and which layers would have to shrink to change it."""
    parts = [f"{name} {size / 1e3:.0f}" for name, size in row["activation_peak"]]
    return (
        f"{row['name']} needs {activations(row)} KB of memory for activations beside the file and "
        f"{row['multiply_accumulates'] / 1e6:.0f} million multiply-accumulates an image; most "
        f"at once, in KB: {', '.join(parts)}."
    )


def about_baseline(evaluation: dict[str, Any]) -> list[str]:
    """Which file to ship, and which models are worse than no network at all."""
    rows, data = evaluation["models"], evaluation["dataset"]
    constant = f"calling every pixel {data['constant_class']} ({data['constant_mean_iou']:.3f})"
    below = [row["name"] for row in rows if row["mean_iou"] <= data["constant_mean_iou"]]
    said = [to_ship(rows, data["constant_mean_iou"], constant)]
    if below:
        said.append(f"Look out, no more mean IoU than {constant}: {', '.join(below)}.")
    return said


def about_classes(rows: list[Row]) -> list[str]:
    """Classes that are not there, and those that a model lost much of."""
    said, iou = [], rows[0]["iou"]
    if absent := [name for name, value in iou.items() if value is None]:
        said.append(
            f"Neither in the test split nor predicted, so that it counts for nothing in the mean: "
            f"{some(absent)}."
        )
    weak = [name for name, value in iou.items() if value is not None and value < HARDLY]
    if weak:
        said.append(
            f"Look out, the original hardly learned {some([f'{n} ({iou[n]:.2f})' for n in weak])}: "
            "train for more --epochs, or with --class-weights balanced."
        )
    drops = {name: {row["name"]: row["iou_drop"][name] or 0 for row in rows} for name in iou}
    bad = [name for name in iou if max(drops[name].values()) > CLASS_COLLAPSE]
    for name in sorted(bad, key=lambda name: -max(drops[name].values()))[:SHOWN_CLASSES]:
        worse = [f"{key} ({lost(v)})" for key, v in drops[name].items() if v > CLASS_COLLAPSE]
        said.append(f"Look out, IoU lost on the class {name}: {', '.join(worse)}.")
    if len(bad) > SHOWN_CLASSES:
        said.append(f"And on {len(bad) - SHOWN_CLASSES} more classes: see the report.")
    return said


def some(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - SHOWN_CLASSES} more" if len(names) > SHOWN_CLASSES else ""
    return ", ".join(names[:SHOWN_CLASSES]) + more


def per_class(row: Row, names: list[str]) -> str:
    """IoU of these classes; a dash for one that is not there."""
    values = [row["iou"][name] for name in names]
    return " / ".join("-" if value is None else f"{value:.3f}" for value in values)


def to_ship(rows: list[Row], least: float, constant: str) -> str:
    """Which file to ship: the fastest that loses little and is better than no network at all.

    Args:
        least: mean IoU of giving every pixel the same class. constant: that, in words.
    """
    fit = [
        row
        for row in rows
        if row["file"].endswith(".tflite")
        and row["mean_iou_drop"] <= BEARABLE_DROP
        and row["mean_iou"] > least
    ]
    if not fit:
        return (
            f"None to ship: every file loses more than {BEARABLE_DROP} mean IoU, or has no more "
            f"than {constant}."
        )
    fastest = min(fit, key=lambda row: row["latency_ms"]["median"])
    return f"To ship: {fastest['file']}, the fastest that loses at most {BEARABLE_DROP} mean IoU."
