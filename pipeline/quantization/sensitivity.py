"""What int8 costs operator by operator, and int8 files that keep the worst in float."""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from pipeline.base.console import UserError, progress, say
from pipeline.base.lazy import keras
from pipeline.base.system import cores
from pipeline.data.dataset import Split
from pipeline.inference import iou
from pipeline.inference.litert import logits_of, operators, predict_tflite, set_image
from pipeline.inference.tflite_files import compacted
from pipeline.inference.timing import time_in_turns
from pipeline.quantization.calibration import Range, activation_ranges
from pipeline.quantization.convert import convert
from pipeline.quantization.gptq import round_kernels
from pipeline.quantization.selective import quantise_static

SCAN_IMAGES = 128  # validation images on which each operator is tried, or fewer,
SCAN_LOGITS = 64_000_000  # if they have more logits together
FLOAT_ONLY = ("DEPTH_TO_SPACE",)  # litert-quantizer has no int8 form of these


def scanned_images(output_shape: tuple) -> int:
    """How many validation images are looked at, for logits (None, height, width, classes)."""
    return min(SCAN_IMAGES, max(1, SCAN_LOGITS // int(np.prod(output_shape[1:]))))


def mean_iou(logits: np.ndarray, masks: np.ndarray) -> float:
    """Mean IoU of logits (n, height, width, classes) against masks (n, height, width)."""
    counts = iou.class_counts(masks, logits.argmax(-1), logits.shape[-1])
    return float(iou.mean_iou(iou.iou_per_class(counts.sum(axis=0))))


def file_mean_iou(content: bytes, split: Split) -> float:
    """Mean IoU of a .tflite file over a split, image by image."""
    images, masks = split
    interpreter = Interpreter(model_content=content, num_threads=cores())
    interpreter.allocate_tensors()
    classes = interpreter.get_output_details()[0]["shape"][-1]
    counts = np.zeros((3, classes), np.int64)
    for prediction, mask in zip(predict_tflite(interpreter, images), masks):
        counts += iou.class_counts(mask[None], prediction[None], classes)[0]
    return float(iou.mean_iou(iou.iou_per_class(counts)))


def ready_to_scan(model: keras.Model, calibration: np.ndarray) -> tuple[bytes, dict[str, Range]]:
    """The float32 file of a model whose kernels are rounded for int8, and its activation ranges."""
    content = convert(round_kernels(model, calibration), "float32")
    return content, activation_ranges(content, calibration)


def scan_operators(content: bytes, ranges: dict[str, Range], split: Split) -> list[dict[str, Any]]:
    """What int8 costs operator by operator, each quantised alone.

    Returns:
        A row per operator, the worst signal-to-noise ratio first: operator (its place in the
        file), layer, kind, `snr_db` of the logits (10 log10 of the power of the float logits over
        that of the error) and `drop` of the mean IoU. Operators without an int8 form are left
        out.
    """
    images, masks = split
    every = operators(content)
    expected, rows = logits_of(content, images), []
    power, whole = float(np.mean(expected**2)), mean_iou(expected, masks)
    with progress("sensitivity", len(every), "operators") as bar:
        for place, operator in enumerate(every):
            bar.update()
            if operator.kind in FLOAT_ONLY:
                continue
            logits = logits_of(quantise_static(content, ranges, only=operator), images)
            noise = max(float(np.mean((logits - expected) ** 2)), 1e-12)
            row = {"operator": place, "layer": operator.layer, "kind": operator.kind}
            row["snr_db"] = round(10 * float(np.log10(power / noise)), 2)
            row["drop"] = round(whole - mean_iou(logits, masks), 5)
            rows.append(row)
    return sorted(rows, key=lambda row: row["snr_db"])


def int8_within(
    max_drop: float,
    full: bytes,
    unrounded: bytes,
    scanned: tuple[bytes, dict[str, Range], list[dict[str, Any]]],
    split: Split,
) -> tuple[bytes, dict[str, Any]]:
    """The int8 file that loses at most `max_drop` mean IoU against the float32 file.

    That is `full`, int8 throughout, if it holds. Else the operators with the worst
    signal-to-noise ratio stay in float: 1, 2, 4 ... of them, until it does. (The idea of NNCF's
    accuracy control.)

    Args:
        unrounded: the float32 file that drops are measured against.
        scanned: what `ready_to_scan` gave, and the rows of `scan_operators`.
        split: validation images and masks.

    Returns:
        The file and what its record says of it.

    Raises:
        UserError: not even half of the operators in float are enough.
    """
    content, ranges, rows = scanned
    whole, every = file_mean_iou(unrounded, split), operators(content)
    file, count, chosen = full, 0, []
    drop = whole - file_mean_iou(full, split)
    while drop > max_drop and count < len(rows) // 2:
        count = max(1, 2 * count)
        chosen = [every[row["operator"]] for row in rows[:count]]
        file = compacted(quantise_static(content, ranges, but=chosen))
        drop = whole - file_mean_iou(file, split)
    say(
        f"int8 with {count} operators in float: drop of validation mean IoU {drop:+.4f}, "
        f"allowed {max_drop:+.4f}"
    )
    if drop > max_drop:
        raise UserError(
            f"int8 loses {drop:.4f} mean IoU even with {count} of {len(every)} operators in float; "
            "allow more with --max-drop, or train for it with --qat"
        )
    names = [operator.layer for operator in chosen]
    about: dict[str, Any] = {"validation_drop": round(drop, 5), "float_operators": names}
    if chosen:
        about["more_bytes"] = len(file) - len(full)
        about["times_slower"] = round(time_ratio(file, full, split[0][0]), 3)
        say(f"kept in float: {', '.join(names)}")
        say(f"they cost {about['more_bytes']:+,} bytes, {about['times_slower']:.2f} times the time")
    return file, about


def time_ratio(first: bytes, second: bytes, image: np.ndarray) -> float:
    """Median time of the first .tflite file over that of the second, taking turns on one thread."""
    calls = {}
    for name, content in (("first", first), ("second", second)):
        interpreter = Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
        set_image(interpreter, image)
        calls[name] = interpreter.invoke
    times = time_in_turns(calls)
    return float(np.median(times["first"][0]) / np.median(times["second"][0]))
