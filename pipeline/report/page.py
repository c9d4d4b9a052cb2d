"""The numbers as one page, models/report.html: no network, no script, no other file.

What is on the page and where stands in page.html beside this module (a jinja2 template); here
is what fills it.
"""

from __future__ import annotations

import csv
import shlex
from pathlib import Path
from typing import Any

from pipeline.base.artifacts import ARTIFACTS, command, written_beside
from pipeline.base.lazy import jinja2
from pipeline.data.classes import make_classes
from pipeline.evaluation.bootstrap import BOOTSTRAP_SAMPLES
from pipeline.inference.timing import TIMED_RUNS, TURN_RUNS
from pipeline.report.chart_style import rendered
from pipeline.report.charts import BLUE, ORANGE, bars, curves, line_colour, trade_off
from pipeline.report.findings import (
    DROP_NOTE,
    baseline_of,
    findings,
    format_activations,
    format_class_iou,
    format_drop,
    relative_speed,
)
from pipeline.report.gallery import data_uri

TEMPLATE = Path(__file__).with_name("page.html")
CLASSES_IN_CHART = 6  # more are in the table alone
SAME_SPARSITY = 0.01  # layers whose shares of zeros differ by less need no chart


def page(evaluation: dict[str, Any], models_dir: Path, photos: dict[str, Any] | None = None) -> str:
    """The whole page. `photos` is what `photo_grid` gives; without it, it has none."""
    data, place = evaluation["dataset"], evaluation["environment"]
    of = " (synthetic data)" if data["synthetic"] else ""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title="Segmentation: size, speed and accuracy" + of,
        of=of,
        synthetic=data["synthetic"],
        summary=f"{len(evaluation['models'])} models on {data['examples']} test images of "
        f"{data['source']}, measured on {place['cpu']}, {place['threads']} thread.",
        numbers=numbers(evaluation),
        drop=DROP_NOTE,
        classes=classes_table(evaluation),
        stale=[row for row in evaluation["models"] if row.get("stale")],
        sentences=findings(evaluation),
        charts=number_charts(evaluation, of),
        curves=training_curves(models_dir, evaluation, of),
        photos=photos,
        facts=facts(evaluation, models_dir),
        sources=sources(evaluation, models_dir),
    )


def numbers(evaluation: dict[str, Any]) -> dict[str, list]:
    """The table of all models: head and rows."""
    rows, baseline = [], baseline_of(evaluation["models"])
    for row in evaluation["models"]:
        latency, every = row["latency_ms"], row.get("latency_ms_all_threads")
        memory, (low, high) = row.get("memory_bytes"), row["mean_iou_interval"]
        products = row.get("multiply_accumulates")
        cells = {
            "model": row["name"] + (" (stale)" if row.get("stale") else ""),
            "file, MB": f"{row['bytes'] / 1e6:.2f}",
            "gzip, MB": f"{row['gzip_bytes'] / 1e6:.2f}",
            "ms, 1 thread": f"{latency['median']:.2f}",
            "p90": f"{latency['p90']:.2f}",
            "against float32": relative_speed(row, baseline, " times"),
            "mean IoU": f"{row['mean_iou']:.4f}",
            "95 % interval": f"{low:.4f}\N{EN DASH}{high:.4f}",
            "drop": format_drop(row["mean_iou_drop"]),
            "pixels right": f"{row['pixel_accuracy']:.3f}",
            "after another, ms": f"{latency['after_another']:.2f}",
            "first run, ms": f"{latency['first']:.2f}",
            "ms, all threads": f"{every['median']:.2f}" if every else "unknown",
            "memory, MB": f"{memory / 1e6:.1f}" if memory else "unknown",
            "activations, KB": format_activations(row),
            "million multiply-adds": f"{products / 1e6:.0f}" if products else "-",
            "weights": f"{row['parameters']:,}",
            "not zero": f"{row['nonzero_share']:.1%}",
        }
        rows.append(cells)
    return {"head": list(rows[0]), "rows": [list(cells.values()) for cells in rows]}


def classes_table(evaluation: dict[str, Any]) -> dict[str, list]:
    """The table of all classes: how many pixels each has, and its IoU by model."""
    models, data = evaluation["models"], evaluation["dataset"]
    head = ["class", "pixels", "pictures", *(row["name"] for row in models)]
    rows = []
    for name, share in data["class_shares"].items():
        about = [name, f"{share:.2%}", f"{data['class_pictures'][name]:,}"]
        rows.append(about + [format_class_iou(row, [name]) for row in models])
    return {"head": head, "rows": rows}


# --- charts ---------------------------------------------------------------------------------


def drawn(figure: Any, caption: str, name: str = "") -> dict[str, str]:
    """A matplotlib figure as an SVG, with its caption."""
    picture = data_uri(rendered(figure, "svg"), "svg+xml")
    return {"picture": picture, "caption": caption, "name": name}


def number_charts(evaluation: dict[str, Any], of: str) -> list[dict[str, str]]:
    """What is drawn from the numbers alone."""
    rows = evaluation["models"]
    names = [row["name"] for row in rows]
    sizes = [row["bytes"] / 1e6 for row in rows]
    times = [row["latency_ms"]["median"] for row in rows]
    charts = [
        drawn(
            trade_off(rows, sizes, "size of the file, MB"),
            f"Size against mean IoU{of}; upright lines: 95 % interval.",
        ),
        drawn(
            trade_off(rows, times, "median latency, ms, 1 thread"),
            f"Latency against mean IoU{of}.",
        ),
    ]
    data = evaluation["dataset"]
    if len(data["class_names"]) <= CLASSES_IN_CHART:
        classes = {
            name: (line_colour(colour), [row["iou"][name] or 0 for row in rows])
            for name, colour in zip(data["class_names"], data["class_colours"])
        }
        figure = bars(names, classes, "IoU", "{:.3f}", most=1.0)
        charts.append(drawn(figure, f"IoU of each class{of}."))
    if all(row.get("memory_bytes") for row in rows):
        memory = {"memory": (BLUE, [row["memory_bytes"] / 1e6 for row in rows])}
        caption = (
            "Peak memory: growth of a fresh process by loading the model and running it once. "
            "For the Keras models, that is mostly TensorFlow itself."
        )
        charts.append(drawn(bars(names, memory, "MB", "{:.1f}"), caption))
    return charts + sparsity_charts(evaluation, of)


def sparsity_charts(evaluation: dict[str, Any], of: str) -> list[dict[str, str]]:
    """Zeros of each pruned layer, if the layers differ in them."""
    metrics = evaluation.get("stages", {}).get("pruned", {}).get("metrics", {})
    layers = metrics.get("layers", {})
    shares = [layer["sparsity"] for layer in layers.values()]
    if not shares or max(shares) - min(shares) < SAME_SPARSITY:
        return []
    labels = [f"{name} ({layer['weights']:,})" for name, layer in layers.items()]
    zeros = {"zeros": (ORANGE, [100 * share for share in shares])}
    caption = f"Sparsity of each pruned layer{of}; in brackets the weights of its kernel."
    return [drawn(bars(labels, zeros, "zeros, %", "{:.1f}"), caption)]


def training_curves(models_dir: Path, evaluation: dict[str, Any], of: str) -> list[dict[str, str]]:
    """Training and pruning, epoch by epoch, from the tables that those stages left."""
    data, stages = evaluation["dataset"], evaluation.get("stages", {})
    classes = make_classes(data["class_names"], data["class_colours"])
    charts = []
    for name, what in (("original", "Training"), ("pruned", "Pruning and fine-tuning")):
        path = models_dir / f"{name}_training.csv"
        if path.name not in written_beside(models_dir, name):
            continue  # there is none, or it is of another training than the model
        kept = stages.get(name, {}).get("metrics", {}).get("best_epoch")
        with path.open(encoding="utf-8", newline="") as file:
            history = [
                {key: float(value) if value else None for key, value in row.items()}
                for row in csv.DictReader(file)
            ]
        caption = f"{what}{of}: loss on the training split, IoU on the validation split, by epoch."
        charts.append(drawn(curves(history, what, classes, kept), caption, what))
    return charts


# --- where the numbers come from ------------------------------------------------------------


def stage_command(models_dir: Path, name: str, settings: dict[str, Any]) -> str:
    """The command that repeats a stage with the settings its record holds."""
    flags = [
        f"--{key.replace('_', '-')}" + ("" if value is True else f" {shlex.quote(typed(value))}")
        for key, value in settings.items()
        if value is not None and value is not False
    ]
    return " ".join([command(name, models_dir), *flags])


def typed(value: Any) -> str:
    """A setting as it is typed: 480x352, a,b,c or 255:1,0:0 for what is kept as a list or table."""
    if isinstance(value, dict):
        return ",".join(f"{key}:{what}" for key, what in value.items())
    if isinstance(value, list):
        return ("x" if all(isinstance(each, int) for each in value) else ",").join(map(str, value))
    return str(value)


def parts(text: str) -> list[str]:
    """A command cut before each flag."""
    first, *flags = text.split(" --")
    return [first, *(f"--{flag}" for flag in flags)]


def facts(evaluation: dict[str, Any], models_dir: Path) -> list[str]:
    """Data, machine, versions, and how each number was taken."""
    data, place, seed = evaluation["dataset"], evaluation["environment"], evaluation["seed"]
    versions = ", ".join(f"{name} {version}" for name, version in place["versions"].items())
    return [
        f"Data: {data['source']}, split {data['split']}, {data['examples']} images, "
        f"{' x '.join(map(str, data['image_size']))} pixels, fingerprint {data['fingerprint']}. "
        f"{data['ignored_share']:.1%} of the pixels are of no class and left out. All of it called "
        f"{data['constant_class']}: mean IoU {data['constant_mean_iou']:.4f}.",
        f"Machine: {place['cpu']}, {place['cores']} cores, {place['system']}; LiteRT with "
        f"{place['delegate']}.",
        f"Versions: {versions}.",
        f"Latency: one image at a time, {place['threads']} thread (all threads: {place['cores']}), "
        f"up to {TIMED_RUNS} timed runs, the models taking turns of {TURN_RUNS} in a row, in a "
        "process of their own. After another: the run before those, which finds the caches full of "
        "the model before. First run: after loading.",
        "Memory: growth of resident memory at its peak (VmHWM) by loading and one run, 1 thread, "
        "each model in a fresh process. Activations: what a device keeps in memory beside the "
        "file, laid out as TFLite Micro does it (KB: a thousand bytes). Multiply-adds: of "
        "convolutions and dense layers, for one image.",
        "Mean IoU: from counts over the whole split; a class that is neither in it nor predicted "
        f"counts for nothing. Interval: {BOOTSTRAP_SAMPLES} "
        f"bootstrap samples of the images, seed {seed}. gzip: level 9. MB: a million bytes.",
        f"This evaluation: {command('evaluation', models_dir)} --seed {seed}",
    ]


def sources(evaluation: dict[str, Any], models_dir: Path) -> list[dict[str, Any]]:
    """How each file was made: command (in parts that stay on a line), seconds, hash."""
    return [
        {
            "file": ARTIFACTS[name][0],
            "command": parts(stage_command(models_dir, name, stage["settings"])),
            "seconds": f"{stage['wall_seconds']:.0f}",
            "sha256": stage["sha256"],
        }
        for name, stage in evaluation.get("stages", {}).items()
    ]
