"""Findings: sentences that say what the numbers of an evaluation mean."""

from __future__ import annotations

from typing import Any

from pipeline.base import commands
from pipeline.evaluation.processor import DOT_PRODUCTS
from pipeline.report import data_warnings, recommendation
from pipeline.variants import VARIANTS, float32_of, quantised

SAME_SPEED = 0.02  # two latencies whose ratio is this close to 1 are called the same
LARGE_CLASS_DROP = 0.02  # a class whose IoU drops by more than this gets a warning
SHOWN_CLASSES = 5  # most classes that one finding names, and that the README's table shows
LOW_CLASS_IOU = 0.2  # a class below this IoU in the original model gets a warning
DROP_NOTE = "drop: mean IoU of the original minus that of the model (+: loss, -: gain)."

Row = dict[str, Any]  # one model of evaluation.json


# --- numbers as text ------------------------------------------------------------------------


def format_drop(value: float) -> str:
    """A drop of IoU with its sign and four decimals: a loss has a +, a gain a -, no "-0.0000"."""
    return f"{round(value, 4) + 0.0:+.4f}"


def format_number(value: float) -> str:
    """Three significant digits, or all digits before the point: 0.98, 12.3, 123, 12345."""
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"


def format_activations(row: Row) -> str:
    """Activation memory in KB; a dash for a Keras model, which has no memory plan."""
    return f"{row['activation_kb']:.0f}" if row.get("activation_kb") else "-"


def format_class_iou(row: Row, names: list[str]) -> str:
    """IoU of the named classes; a dash for a class without an IoU."""
    values = [row["iou"][name] for name in names]
    return " / ".join("-" if value is None else f"{value:.3f}" for value in values)


def format_names(names: list[str]) -> str:
    """The first SHOWN_CLASSES names, and how many more there are."""
    more = f" and {len(names) - SHOWN_CLASSES} more" if len(names) > SHOWN_CLASSES else ""
    return ", ".join(names[:SHOWN_CLASSES]) + more


def relative_speed(row: Row, baseline: Row, unit: str = "x") -> str:
    """Latency of a model compared with a baseline: "1.93x faster", "1.72x slower", "same"."""
    return speed_text(baseline["latency_ms"]["median"] / row["latency_ms"]["median"], unit)


def speed_text(ratio: float, unit: str = "x") -> str:
    """A ratio of speeds with a figure above 1: 0.5 is "2.00x slower"."""
    if abs(ratio - 1) < SAME_SPEED:
        return "same"
    if ratio > 1:
        return f"{format_number(ratio)}{unit} faster"
    return f"{format_number(1 / ratio)}{unit} slower"


def speed_in_sentence(row: Row, baseline: Row) -> str:
    """`relative_speed` in words that fit into a sentence."""
    text = relative_speed(row, baseline, " times")
    return "equally fast" if text == "same" else text


def interval_half_width(row: Row) -> float:
    """Distance from the mean IoU to the farther end of its 95 % interval."""
    low, high = row["mean_iou_interval"]
    return max(high - row["mean_iou"], row["mean_iou"] - low)


def baseline_of(rows: list[Row]) -> Row:
    """The model that latencies are compared with: float32, else the first one."""
    return next((row for row in rows if row["name"] == "float32"), rows[0])


# --- the findings ---------------------------------------------------------------------------


def findings(evaluation: dict[str, Any]) -> list[str]:
    """All findings on an evaluation, one sentence or two each.

    Args:
        evaluation: the content of evaluation.json.
    """
    everything = {row["name"]: row for row in evaluation["models"]}
    texts = findings_on_busy_machine(everything) + findings_on_stale_models(everything)
    texts += data_warnings.lines(evaluation["dataset"])
    # A stale model comes from another network than the ones it would be compared with.
    rows = {name: row for name, row in everything.items() if not row.get("stale")}
    if {"float32", "pruned_float32"} <= rows.keys():
        texts.append(finding_on_pruning(rows["float32"], rows["pruned_float32"]))
    for name in quantised():
        baseline = float32_of(name)
        if baseline and {name, baseline} <= rows.keys():
            texts.append(finding_on_quantisation(rows[name], rows[baseline]))
    texts += findings_on_instruction_sets(rows, evaluation["environment"].get("instruction_sets"))
    if rows.get("int8", {}).get("activation_kb"):
        texts.append(finding_on_memory(rows["int8"]))
    texts += recommendation.lines(evaluation)
    texts += findings_on_cost_of_pruning(rows)
    return texts + findings_on_classes(evaluation["models"])


def finding_on_quantisation(row: Row, baseline: Row) -> str:
    """Size, speed and accuracy of a quantised file, compared with its model's float32 file."""
    return (
        f"{row['name']}: {baseline['bytes'] / row['bytes']:.2f} times smaller than the "
        f"{VARIANTS[row['name']].source} float32 file, {speed_in_sentence(row, baseline)}, "
        f"drop of mean IoU against it {format_drop(baseline['mean_iou'] - row['mean_iou'])}."
    )


def findings_on_instruction_sets(
    rows: dict[str, Row], instruction_sets: list[str] | None
) -> list[str]:
    """Why int8 is as fast as it is on this machine, by what its processor can multiply.

    Args:
        rows: the models by name.
        instruction_sets: of the processor that they were timed on; None if unknown.
    """
    baseline = float32_of("int8") if "int8" in rows else None
    if baseline not in rows or not instruction_sets:
        return []
    speed = speed_in_sentence(rows["int8"], rows[baseline])
    other = f"the {VARIANTS['int8'].source} float32 file here"
    compared = f"as fast as {other}" if speed == "equally fast" else f"{speed} than {other}"
    if helpful := [name for name in instruction_sets if name in DOT_PRODUCTS]:
        return [
            f"int8 is {compared}, on a processor with {' and '.join(helpful)}. Without such "
            "instructions it can be slower than float32: measure on the processor that you ship to."
        ]
    missing = "dot products of bytes (dotprod)" if "NEON" in instruction_sets else "VNNI"
    slower = rows["int8"]["latency_ms"]["median"] > rows[baseline]["latency_ms"]["median"]
    saving = "it saves size and memory" if slower else "with it, int8 gains more"
    return [
        f"int8 is {compared}: this processor has no {missing}, for which LiteRT's int8 kernels are "
        f"made; {saving}."
    ]


def findings_on_busy_machine(rows: dict[str, Row]) -> list[str]:
    """One warning if other programs disturbed the latencies, with the models and the reasons."""
    reasons: dict[str, list[str]] = {}
    for name, row in rows.items():
        if reason := row["latency_ms"].get("busy"):
            reasons.setdefault(reason, []).append(name)
    if not reasons:
        return []
    details = [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()]
    return [
        f"THE MACHINE WAS BUSY while latency was measured ({'; '.join(details)}): these times are "
        "unreliable; close other programs and run evaluation.py again."
    ]


def findings_on_stale_models(rows: dict[str, Row]) -> list[str]:
    """One warning of the models that are stale, with the reason and the command of the first."""
    stale = {name: row["stale"] for name, row in rows.items() if row.get("stale")}
    if not stale:
        return []
    return [
        f"STALE: {', '.join(stale)}. Their numbers do not belong to this original, and none of "
        f"them is recommended: {next(iter(stale.values()))}"
    ]


def finding_on_pruning(before: Row, after: Row) -> str:
    """Size and speed of the pruned float32 file, compared with the float32 file before pruning."""
    packed = f"{before['gzip_bytes'] / after['gzip_bytes']:.2f} times smaller"
    if channels_were_removed(before, after):
        return (
            "Pruning removed channels: the float32 file is "
            f"{before['bytes'] / after['bytes']:.2f} times smaller, {packed} after gzip, and "
            f"{speed_in_sentence(after, before)}."
        )
    zeros = f"{1 - after['nonzero_share']:.0%}"
    if zeros == "0%":
        return "Nothing was pruned: no channel was removed and no weight is zero."
    return (
        f"Pruning set {zeros} of all weights to zero (--sparsity: the share in the large kernels "
        f"only): the file is as large as before, {packed} after gzip. On this machine it is "
        f"{speed_in_sentence(after, before)}: dense kernels also multiply zeros."
    )


def channels_were_removed(before: Row, after: Row) -> bool:
    """Whether pruning made the float32 file smaller, which zeros alone do not."""
    return after["bytes"] < 0.98 * before["bytes"]


def findings_on_cost_of_pruning(rows: dict[str, Row]) -> list[str]:
    """Advice to prune less, if pruning and not int8 makes the drop of mean IoU unacceptable."""
    if not {"float32", "pruned_float32", "int8"} <= rows.keys():
        return []
    if VARIANTS["int8"].source != "pruned":  # its loss says nothing of pruning
        return []
    before, pruned, int8 = rows["float32"], rows["pruned_float32"], rows["int8"]
    int8_drop = pruned["mean_iou"] - int8["mean_iou"]
    acceptable = (
        min(pruned["mean_iou_drop"], int8["mean_iou_drop"]) <= recommendation.ACCEPTABLE_DROP
    )
    if acceptable or int8_drop > recommendation.ACCEPTABLE_DROP:
        return []
    channels = channels_were_removed(before, pruned)
    setting = "a lower --channels" if channels else "a lower --sparsity (0: no zeros)"
    return [
        f"Pruning alone drops mean IoU by {format_drop(pruned['mean_iou_drop'])}, and int8 by "
        f"another {format_drop(int8_drop)}. Prune less: run {commands.command('pruning.py')} with "
        f"{setting}, then quantization.py and evaluation.py."
    ]


def finding_on_memory(row: Row) -> str:
    """Activation memory and arithmetic of a file, and the tensors that make the memory's peak."""
    peak = [f"{name} {size / 1e3:.0f}" for name, size in row["activation_peak"]]
    return (
        f"{row['name']} needs {format_activations(row)} KB of memory for activations, besides the "
        f"file itself, and {row['multiply_accumulates'] / 1e6:.0f} million multiply-accumulates "
        f"per image; the tensors at the peak, in KB: {', '.join(peak)}."
    )


def findings_on_classes(rows: list[Row]) -> list[str]:
    """Classes without an IoU, classes with a low IoU, and classes on which models lose much.

    Args:
        rows: the models, the original first.
    """
    iou = rows[0]["iou"]
    texts = []
    if absent := [name for name, value in iou.items() if value is None]:
        texts.append(
            "Left out of mean IoU, because neither the test split nor the predictions contain "
            f"them: {format_names(absent)}."
        )
    low = [name for name, value in iou.items() if value is not None and value < LOW_CLASS_IOU]
    if low:
        texts.append(
            "Warning: low IoU of the original on "
            f"{format_names([f'{name} ({iou[name]:.2f})' for name in low])}: "
            "train for more --epochs, or with --class-weights balanced."
        )
    drops = {name: {row["name"]: row["iou_drop"][name] or 0 for row in rows} for name in iou}
    worse = [name for name in iou if max(drops[name].values()) > LARGE_CLASS_DROP]
    for name in sorted(worse, key=lambda name: -max(drops[name].values()))[:SHOWN_CLASSES]:
        models = [
            f"{model} ({format_drop(drop)})"
            for model, drop in drops[name].items()
            if drop > LARGE_CLASS_DROP
        ]
        texts.append(f"Warning: IoU drop on the class {name}: {', '.join(models)}.")
    if len(worse) > SHOWN_CLASSES:
        texts.append(f"IoU drops on {len(worse) - SHOWN_CLASSES} more classes: see the report.")
    return texts
