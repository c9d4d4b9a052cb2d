"""evaluation.py --model FILE ...: models of others beside ours, on the same test pictures.

Nothing of ours is measured anew but the times, which are only comparable within one process.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.artifacts import artifact_path, read_record
from pipeline.base.console import progress, say
from pipeline.base.files import sha256, write_json
from pipeline.data.dataset import load_classes, load_split
from pipeline.evaluation import finished, latency, pixel_measures, processor
from pipeline.evaluation.bootstrap import bootstrap_mean_iou, interval
from pipeline.evaluation.file_facts import device_needs
from pipeline.evaluation.pixel_measures import named
from pipeline.inference.conventions import RANGES, order_of
from pipeline.inference.iou import iou_per_class, mean_iou
from pipeline.inference.keras_files import save_model
from pipeline.inference.tflite_files import gzip_bytes
from pipeline.prediction.foreign_model import ForeignModel, open_foreign, resized
from pipeline.report.other_models_table import FILE, OURS


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say what is found out otherwise."""
    parser.add_argument(
        "--input-range",
        choices=tuple(RANGES),
        help="values that the input of --model wants, where no --image is given (default: what "
        "the file says, or else the best on validation pictures)",
    )
    parser.add_argument(
        "--class-order",
        metavar="A,B,C",
        help="the data set's classes in the order of the outputs of --model (default: the data "
        "set's order)",
    )


def open_all(arguments: argparse.Namespace) -> list[ForeignModel]:
    """Opens the models that --model names, before anything is measured.

    Raises:
        UserError: one is missing, cannot be read or run, or does not fit the data set.
    """
    names = load_classes(arguments.models_dir).names
    order = order_of(arguments.class_order, names) if arguments.class_order else None
    opened = []
    for path in {path.resolve(): path for path in arguments.model}.values():
        model = open_foreign(path, arguments.models_dir, arguments.input_range, order)
        say(f"{path}: {model.about}")
        opened.append(model)
    return opened


def measure(models: Sequence[ForeignModel], models_dir: Path, seed: int) -> dict[str, Any]:
    """Measures models of others on the test split and writes FILE.

    Args:
        models: from `open_all`.
        models_dir: of ours, whose evaluation is finished.
        seed: of the bootstrap samples.

    Returns:
        The content of FILE: `ours` and `others`, a row each, see `COLUMNS`; what they belong to.
    """
    (images, masks), names = load_split(models_dir, "test"), load_classes(models_dir).names
    here = finished.here(models_dir)
    labels = labels_of([model.path for model in models])
    times = time_beside(dict(zip(labels, models)), models_dir, images[0])
    counts = {OURS[-1]: here.counts[OURS[-1]]}
    for label, model in zip(labels, models):
        with progress(f"accuracy {label}", len(images), "images") as bar:
            counted = pixel_measures.count(model, images, masks, len(names), bar.update)
        counts[label] = counted.per_image
        say(f"{label}: mean IoU {mean_iou(iou_per_class(counts[label].sum(axis=0))):.4f}")
    samples = bootstrap_mean_iou(counts, seed)
    rows = []
    for label, model in zip(labels, models):
        iou = iou_per_class(counts[label].sum(axis=0))
        rows.append(
            {
                "name": label,
                "path": str(model.path),
                "sha256": sha256(model.path),
                "about": model.about,
                "image_size": [model.network.size[1], model.network.size[0]],
                "bytes": model.path.stat().st_size,
                "gzip_bytes": gzip_bytes(model.path),
                "latency_ms": times[label],
                "mean_iou": round(float(mean_iou(iou)), 5),
                "mean_iou_interval": interval(samples[label]),
                "gain_interval": interval(samples[label] - samples[OURS[-1]]),
                "iou": named(names, iou),
                **({} if model.keras_model else device_needs(model.path)),
            }
        )
    ours = [
        {key: row[key] for key in ("name", "bytes", "mean_iou", "mean_iou_interval", "iou")}
        | {"latency_ms": times[row["name"]]}
        for row in here.numbers["models"]
        if row["name"] in OURS
    ]
    content = {
        "evaluation": read_record(models_dir, "evaluation")["sha256"],
        "environment": {
            "cpu": processor.cpu_name(),
            "instruction_sets": processor.instruction_sets(),
            "threads": 1,
        },
        "ours": ours,
        "others": rows,
    }
    write_json(models_dir / FILE, content)
    return content


def labels_of(paths: Sequence[Path]) -> list[str]:
    """What tables call files: their names, or whole paths if two have one name, or one of OURS."""
    names = Counter(path.name for path in paths)
    alone = {name for name, number in names.items() if number == 1} - set(OURS)
    return [path.name if path.name in alone else str(path.resolve()) for path in paths]


def time_beside(
    models: dict[str, ForeignModel], models_dir: Path, image: np.ndarray
) -> dict[str, Any]:
    """Times of our OURS and of others on one thread, in turns; see `latency.latency_runs`.

    Args:
        models: by label.
        image: uint8 (height, width, 3), of the test split.
    """
    paths = {name: artifact_path(models_dir, name) for name in OURS}
    images = dict.fromkeys(OURS, image)
    with tempfile.TemporaryDirectory() as folder:
        for number, (label, model) in enumerate(models.items()):
            paths[label], pixels = model.path, resized(image, model.network)
            first = model.network.channels_first
            images[label] = np.ascontiguousarray(pixels.transpose(2, 0, 1)) if first else pixels
            if model.keras_model is not None:
                paths[label] = Path(folder) / f"{number}.h5"
                save_model(model.keras_model, paths[label])
        return latency.measure_files(paths, 1, images)
