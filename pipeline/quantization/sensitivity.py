"""Measure the error of each operator in int8, and keep the most sensitive ones in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.base.console import UserError, progress, say
from pipeline.base.stage import Stage
from pipeline.base.system import cores
from pipeline.data.dataset import Split, load_split
from pipeline.inference import iou
from pipeline.inference.models import open_model
from pipeline.inference.tflite_files import Operator, compacted, operators
from pipeline.inference.timing import time_in_turns
from pipeline.quantization.calibration import Range
from pipeline.quantization.convert import Source
from pipeline.quantization.selective import has_int8_form, quantise_static, with_types
from pipeline.quantization.verify import float_layers

SCAN_IMAGES = 128  # validation images that each operator is measured on, at most
FEW_IMAGES = 4  # of the scan after a refusal
SHOWN_LAYERS = 3  # the worst ones, in messages
SCAN_LOGITS = 64_000_000  # logits of these images together, at most: they are held in memory


def scanned_images(output_shape: tuple) -> int:
    """Number of validation images to measure on, for logits (None, height, width, classes)."""
    return min(SCAN_IMAGES, max(1, SCAN_LOGITS // int(np.prod(output_shape[1:]))))


def mean_iou(logits: np.ndarray, masks: np.ndarray) -> float:
    """Mean IoU of logits (n, height, width, classes) for masks (n, height, width)."""
    counts = iou.class_counts(masks, logits.argmax(-1), logits.shape[-1])
    return float(iou.mean_iou(iou.iou_per_class(counts.sum(axis=0))))


def file_mean_iou(content: bytes, split: Split) -> float:
    """Mean IoU of a .tflite file over a split; holds one image in memory at a time."""
    return float(iou.mean_iou(iou.split_iou(open_model(content, cores()), *split)))


def scan_operators(
    content: bytes, ranges: dict[str, Range], split: tuple[np.ndarray, np.ndarray]
) -> list[dict[str, Any]]:
    """Measures the error that each operator causes when it alone is quantised to int8.

    Args:
        content: a float32 file; kernels rounded as those of the int8 file, see `convert.Source`.
        ranges: of its activations, for int8, by tensor.
        split: images uint8 (n, height, width, 3) and masks (n, height, width) to measure on.

    Returns:
        A row per operator, the lowest signal-to-noise ratio first: `operator` (index in the file),
        `layer`, `kind`, `snr_db` of the logits (10 log10 of the mean square of the float32 logits
        over that of their error) and `drop` of the mean IoU against the float32 file. Operators
        without an int8 form are left out.
    """
    images, masks = split
    scanned = operators(content)
    if left_out := unknown_layers(scanned):
        say(
            f"note: {', '.join(left_out)} cannot be measured alone: int8 or float in the whole "
            "file, and float in one that keeps other operators in float"
        )
    expected, rows = open_model(content, cores()).logits(images), []
    power, float_iou = float(np.mean(expected**2)), mean_iou(expected, masks)
    with progress("sensitivity", len(scanned), "operators") as bar:
        for index, operator in enumerate(scanned):
            bar.update()
            if not has_int8_form(operator):
                continue
            alone = quantise_static(content, ranges, only=operator)
            logits = open_model(alone, cores()).logits(images)
            noise = max(float(np.mean((logits - expected) ** 2)), 1e-12)
            row: dict[str, Any] = {"operator": index}
            row |= {"layer": operator.layer, "kind": operator.kind}
            row["snr_db"] = round(10 * float(np.log10(power / noise)), 2)
            row["drop"] = round(float_iou - mean_iou(logits, masks), 5)
            rows.append(row)
    return sorted(rows, key=lambda row: row["snr_db"])


def way_out(source: Source, images: np.ndarray) -> str:
    """How to get an int8 file, for the end of a sentence, where the one in int8 throughout is bad.

    It names the layers that disturb the logits most when they alone are in int8.

    Args:
        source: the model of an int8 file, with calibration images.
        images: uint8 (n, height, width, 3); FEW_IMAGES of them are used.
    """
    few = images[:FEW_IMAGES]
    masks = np.zeros(few.shape[:3], np.uint8)  # the drop of mean IoU is not asked for
    worst = worst_of(scan_operators(source.rounded_file, source.ranges, (few, masks)))
    return f", or let the worst layers ({worst}) stay float: --max-drop 0.01" if worst else ""


def worst_of(rows: list[dict[str, Any]]) -> str:
    """The first layers of `scan_operators`, in words."""
    return ", ".join(f"{row['layer']} ({row['snr_db']:.0f} dB)" for row in rows[:SHOWN_LAYERS])


def unknown_layers(listed: Sequence[Operator]) -> list[str]:
    """The layers, each once, that `quantise_static` leaves in float."""
    return list(dict.fromkeys(one.layer for one in listed if not has_int8_form(one)))


def scanned(
    stage: Stage, source: Source, content: bytes, types: tuple[str, str]
) -> tuple[bytes, dict[str, Any]]:
    """Measures what each operator costs in int8, and keeps to --max-drop if there is one.

    Args:
        source: the model of the int8 file, with calibration images.
        content: that file.
        types: of its input and output, each "uint8" or "int8".

    Returns:
        The int8 file, which is `content` if that keeps to the limit; what its record says of it,
        with a row for each operator under "sensitivity".
    """
    images, masks = load_split(stage.models_dir, "validation")
    number = scanned_images(source.model.output_shape)
    few = images[:number], masks[:number]
    rows = scan_operators(source.rounded_file, source.ranges, few)
    say(f"worst operators in int8 alone: {worst_of(rows)}")
    say(f"all of them: {stage.models_dir / 'int8_sensitivity.png'}")
    limit = stage.arguments.max_drop
    if limit is None:
        return content, {"sensitivity": rows}
    content, about = int8_within(limit, content, source, rows, (images, masks), types)
    return content, about | {"sensitivity": rows}


def int8_within(
    max_drop: float,
    full: bytes,
    source: Source,
    rows: list[dict[str, Any]],
    split: Split,
    types: tuple[str, str],
) -> tuple[bytes, dict[str, Any]]:
    """Returns an int8 file that loses at most `max_drop` mean IoU against the float32 file.

    That is `full` if it keeps to the limit. Otherwise the operators with the lowest
    signal-to-noise ratio stay in float32: 1, 2, 4, ... of them until the limit is kept. (The idea
    is that of accuracy control in NNCF.)

    Args:
        max_drop: of the mean IoU, 0..1.
        full: the file with all operators in int8.
        source: the model of the file, whose float32 file the drop is measured against.
        rows: of `scan_operators`.
        split: validation images and masks.
        types: of input and output, each "uint8" or "int8"; `full` has them already.

    Returns:
        The file, and fields for its record: `validation_drop`, `float_operators` (layers), and if
        there are such operators, `more_bytes` and `times_slower` compared with `full`.

    Raises:
        UserError: the limit is not kept with half of the operators in float32.
    """
    content, ranges = source.rounded_file, source.ranges
    float_iou, all_operators = file_mean_iou(source.float_file, split), operators(content)
    file, count, kept_float = full, 0, []
    drop = float_iou - file_mean_iou(full, split)
    while drop > max_drop and count < len(rows) // 2:
        count = max(1, 2 * count)
        kept_float = [all_operators[row["operator"]] for row in rows[:count]]
        file = compacted(with_types(quantise_static(content, ranges, but=kept_float), *types))
        drop = float_iou - file_mean_iou(file, split)
    say(
        f"int8 with {count} operators in float: drop of validation mean IoU {drop:+.4f}, "
        f"allowed {max_drop:+.4f}"
    )
    if drop > max_drop:
        raise UserError(
            f"int8 loses {drop:.4f} mean IoU even with {count} of {len(all_operators)} operators "
            "in float; allow a larger drop with --max-drop, or fine-tune for int8 with --qat"
        )
    names = [operator.layer for operator in kept_float]
    if kept_float:
        names += [name for name in unknown_layers(all_operators) if name not in names]
    else:  # layers without an int8 form at all
        names = float_layers(full)
    fields: dict[str, Any] = {"validation_drop": round(drop, 5), "float_operators": names}
    if names:
        say(f"kept in float: {', '.join(names)}")
    if kept_float:
        fields["more_bytes"] = len(file) - len(full)
        fields["times_slower"] = round(time_ratio(file, full, split[0][0]), 3)
        say(
            f"against int8 throughout: {fields['more_bytes']:+,} bytes, "
            f"{fields['times_slower']:.2f} times the latency"
        )
    return file, fields


def time_ratio(first: bytes, second: bytes, image: np.ndarray) -> float:
    """Median latency of the first .tflite file divided by that of the second, on one thread.

    Args:
        image: uint8 (height, width, 3).
    """
    files = {"first": first, "second": second}
    times = time_in_turns({name: open_model(file).timed(image) for name, file in files.items()})
    return float(np.median(times["first"][0]) / np.median(times["second"][0]))
