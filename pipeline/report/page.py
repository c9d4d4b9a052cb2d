"""The report, models/report.html: one page without scripts, that needs no other file or network.

The layout and the fixed text are in page.html beside this module, a jinja2 template; this module
computes what is filled in.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.base.artifacts import ARTIFACTS, command, read_record
from pipeline.base.cli import flags_of
from pipeline.base.console import UserError, say
from pipeline.base.lazy import jinja2
from pipeline.data.classes import make_classes
from pipeline.evaluation.bootstrap import BOOTSTRAP_SAMPLES
from pipeline.inference.timing import TIMED_RUNS, TURN_RUNS
from pipeline.report import changes, class_tables, other_models_table
from pipeline.report.chart_style import rendered
from pipeline.report.charts import (
    BLUE,
    ORANGE,
    bars,
    confusion,
    curves,
    line_colour,
    trade_off,
)
from pipeline.report.findings import (
    DROP_NOTE,
    Row,
    baseline_of,
    findings,
    format_activations,
    format_drop,
    relative_speed,
)
from pipeline.report.gallery import data_uri

TEMPLATE = Path(__file__).with_name("page.html")
CLASSES_IN_CHART = 6  # most classes in the chart of IoU; more are in the table only
SAME_SPARSITY = 0.01  # layers whose sparsities differ by less get no chart


def page(
    evaluation: dict[str, Any],
    models_dir: Path,
    photos: dict[str, Any] | None = None,
    comparison: dict[str, Any] | None = None,
    changed_photos: dict[str, Any] | None = None,
    others: dict[str, Any] | None = None,
) -> str:
    """The page as HTML.

    Args:
        evaluation: content of evaluation.json.
        models_dir: folder with the records of the models, which hold the training histories.
        photos: what `gallery.photo_grid` returns; None: a page without photos.
        comparison: what `comparison.compare` returns; None: a page without that section.
        changed_photos: what `gallery.changed_photos` returns, for that section.
        others: what `other_models_table.kept` returns; None: a page without that section.
    """
    data, machine = evaluation["dataset"], evaluation["environment"]
    suffix = " (synthetic data)" if data["synthetic"] else ""
    by_name = {row["name"]: row for row in evaluation["models"]}
    shipped = by_name.get("int8", evaluation["models"][0])
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    html = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title="Segmentation: size, speed and accuracy" + suffix,
        suffix=suffix,
        synthetic=data["synthetic"],
        summary=f"{len(evaluation['models'])} models on {data['examples']} test images of "
        f"{data['source']}, measured on {machine['cpu']}, {machine['threads']} thread.",
        numbers=numbers(evaluation),
        changes=changes.section(comparison, evaluation),
        changed_photos=changed_photos,
        others=other_models_table.section(others),
        drop=DROP_NOTE,
        classes=class_tables.shares_and_iou(evaluation),
        shipped=shipped["name"],
        measures=class_tables.measures(shipped),
        confusion=confusion_chart(shipped, suffix),
        stale=[row for row in evaluation["models"] if row.get("stale")],
        findings=findings(evaluation),
        charts=number_charts(evaluation, suffix),
        curves=training_curves(models_dir, evaluation, suffix),
        photos=photos,
        facts=facts(evaluation, models_dir),
        sources=sources(evaluation, models_dir),
    )
    # Names of files may be bytes that are no UTF-8, which Python holds as surrogates.
    return html.encode("utf-8", "replace").decode("utf-8")


def numbers(evaluation: dict[str, Any]) -> dict[str, list]:
    """The table of all models: `head` (column names) and `rows` (texts)."""
    rows, baseline = [], baseline_of(evaluation["models"])
    for row in evaluation["models"]:
        latency, all_threads = row["latency_ms"], row.get("latency_ms_all_threads")
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
            **class_tables.means(row),
            "after another, ms": f"{latency['after_another']:.2f}",
            "first run, ms": f"{latency['first']:.2f}",
            "ms, all threads": f"{all_threads['median']:.2f}" if all_threads else "unknown",
            "memory, MB": f"{memory / 1e6:.1f}" if memory else "unknown",
            "activations, KB": format_activations(row),
            "million multiply-adds": f"{products / 1e6:.0f}" if products else "-",
            "weights": f"{row['parameters']:,}",
            "nonzero": f"{row['nonzero_share']:.1%}",
        }
        rows.append(cells)
    return {"head": list(rows[0]), "rows": [list(cells.values()) for cells in rows]}


def confusion_chart(row: Row, suffix: str) -> dict[str, str] | None:
    """The confusion matrix of a model as a chart; None where it was not counted."""
    if "confusion" not in row:
        return None
    caption = f"Of the pixels of each class (rows), the share that {row['name']} gives each class"
    return chart(f"{caption}{suffix}.", confusion, row["confusion"], [*row["iou"]])


# --- charts ---------------------------------------------------------------------------------


def chart(
    caption: str, draw: Callable[..., Any], *args: Any, name: str = "", **kwargs: Any
) -> dict[str, str]:
    """A chart for the page: `picture` (an SVG in a data URI, or empty), `caption`, `name`.

    A chart that cannot be drawn costs neither the page nor the other charts: its caption says so,
    and a note is printed.

    Args:
        draw: function that returns the figure; it gets the other arguments.
        name: what screen readers call a chart that can be scrolled.
    """
    try:
        picture = data_uri(rendered(draw(*args, **kwargs), "svg"), "svg+xml")
    except Exception as error:  # whatever a library raises
        reason = str(error).partition("\n")[0] or type(error).__name__
        say(f'note: the chart "{caption}" of the report could not be drawn: {reason}')
        picture, caption = "", f"{caption} This chart could not be drawn: {reason}"
    return {"picture": picture, "caption": caption, "name": name}


def number_charts(evaluation: dict[str, Any], suffix: str) -> list[dict[str, str]]:
    """Charts of the numbers in evaluation.json; `suffix` belongs to each caption."""
    rows = evaluation["models"]
    names = [row["name"] for row in rows]
    sizes = [row["bytes"] / 1e6 for row in rows]
    times = [row["latency_ms"]["median"] for row in rows]
    caption = f"Size against mean IoU{suffix}; vertical lines: 95 % interval."
    charts = [chart(caption, trade_off, rows, sizes, "size of the file, MB")]
    caption = f"Latency against mean IoU{suffix}."
    charts.append(chart(caption, trade_off, rows, times, "median latency, ms, 1 thread"))
    data = evaluation["dataset"]
    if len(data["class_names"]) <= CLASSES_IN_CHART:
        classes = {
            name: (line_colour(colour), [row["iou"][name] or 0 for row in rows])
            for name, colour in zip(data["class_names"], data["class_colours"])
        }
        caption = f"IoU of each class{suffix}."
        charts.append(chart(caption, bars, names, classes, "IoU", "{:.3f}", most=1.0))
    if all(row.get("memory_bytes") for row in rows):
        memory = {"memory": (BLUE, [row["memory_bytes"] / 1e6 for row in rows])}
        caption = (
            "Peak memory: growth of a fresh process by loading the model and running it once. "
            "For the Keras models, that is mostly TensorFlow itself."
        )
        charts.append(chart(caption, bars, names, memory, "MB", "{:.1f}"))
    return charts + sparsity_charts(evaluation, suffix)


def sparsity_charts(evaluation: dict[str, Any], suffix: str) -> list[dict[str, str]]:
    """Chart of the sparsity of each pruned layer; none if all layers have the same sparsity."""
    metrics = evaluation.get("stages", {}).get("pruned", {}).get("metrics", {})
    layers = metrics.get("layers", {})
    sparsities = [layer["sparsity"] for layer in layers.values()]
    if not sparsities or max(sparsities) - min(sparsities) < SAME_SPARSITY:
        return []
    labels = [f"{name} ({layer['weights']:,})" for name, layer in layers.items()]
    zeros = {"zeros": (ORANGE, [100 * sparsity for sparsity in sparsities])}
    caption = f"Sparsity of each pruned layer{suffix}; in brackets the weights of its kernel."
    return [chart(caption, bars, labels, zeros, "zeros, %", "{:.1f}")]


def training_curves(
    models_dir: Path, evaluation: dict[str, Any], suffix: str
) -> list[dict[str, str]]:
    """Charts of training and pruning, epoch by epoch; none of a stage without a history."""
    data, stages = evaluation["dataset"], evaluation.get("stages", {})
    classes = make_classes(data["class_names"], data["class_colours"])
    charts = []
    for name, title in (("original", "Training"), ("pruned", "Pruning and fine-tuning")):
        history = training_history(models_dir, name)
        if not history:
            continue
        kept = stages.get(name, {}).get("metrics", {}).get("best_epoch")
        caption = f"{title}{suffix}: training loss and validation IoU by epoch."
        charts.append(chart(caption, curves, history, title, classes, kept, name=title))
    return charts


def training_history(models_dir: Path, name: str) -> list[dict[str, float | None]]:
    """A row for each epoch of a model's training, from its record; [] if there is none.

    Records of older versions hold no history: then the table beside the model is read, unless it
    is of another training, as a run leaves it that was stopped halfway.
    """
    try:
        record = read_record(models_dir, name)
    except UserError:
        return []
    table = models_dir / f"{name}_training.csv"
    if "history" in record or table not in record.unchanged_files():
        return record.get("history") or []
    with table.open(encoding="utf-8", newline="") as file:
        return [
            {key: float(value) if value else None for key, value in row.items()}
            for row in csv.DictReader(file)
        ]


# --- where the numbers come from ------------------------------------------------------------


def stage_command(models_dir: Path, name: str, settings: dict[str, Any]) -> str:
    """The command that repeats a stage with the settings that its record holds.

    Settings that did nothing are left out: the scripts refuse them.
    """
    flags = flags_of(Path(ARTIFACTS[name][1]).stem, settings)
    return " ".join([command(name, models_dir), *flags])


def split_command(text: str) -> list[str]:
    """A command cut before each flag."""
    first, *flags = text.split(" --")
    return [first, *(f"--{flag}" for flag in flags)]


def facts(evaluation: dict[str, Any], models_dir: Path) -> list[str]:
    """Sentences about data, machine and versions, and about how each number was measured."""
    data, machine = evaluation["dataset"], evaluation["environment"]
    seed, versions = evaluation["seed"], machine["versions"]
    return [
        f"Data: {data['source']}, split {data['split']}, {data['examples']} images, "
        f"{' x '.join(map(str, data['image_size']))} pixels, fingerprint {data['fingerprint']}. "
        f"{data['ignored_share']:.1%} of the pixels belong to no class and are left out. "
        f"Predicting {data['constant_class']} for every pixel gives a mean IoU of "
        f"{data['constant_mean_iou']:.4f}.",
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['system']}; instruction "
        f"sets: {', '.join(machine.get('instruction_sets') or ['unknown'])}; LiteRT with "
        f"{machine['delegate']}.",
        f"Versions: {', '.join(f'{name} {version}' for name, version in versions.items())}.",
        f"Latency: one image at a time, {machine['threads']} thread (all threads: "
        f"{machine['cores']}), up to {TIMED_RUNS} timed runs in a process of their own; the models "
        f"alternate in blocks of {TURN_RUNS} runs. After another: one more run before each block, "
        "which finds the caches full of the previous model. First run: right after loading.",
        "Memory: growth of the peak resident memory (VmHWM) of a fresh process by loading the "
        "model and running it once on 1 thread. Activations: memory that a device needs besides "
        "the file, laid out as TFLite Micro does it (KB: 1000 bytes). Multiply-adds: of "
        "convolutions and dense layers, for one image.",
        "Mean IoU: from pixel counts over the whole split, without classes that neither occur in "
        f"it nor are predicted. Interval: {BOOTSTRAP_SAMPLES} bootstrap samples of the images, "
        f"seed {seed}. gzip: level 9. MB: 1,000,000 bytes.",
        f"This evaluation: {command('evaluation', models_dir)} --seed {seed}",
    ]


def sources(evaluation: dict[str, Any], models_dir: Path) -> list[dict[str, Any]]:
    """How each file was made: command (in parts that are not wrapped), seconds, SHA-256."""
    return [
        {
            "file": ARTIFACTS[name][0],
            "command": split_command(stage_command(models_dir, name, stage["settings"])),
            "seconds": f"{stage['wall_seconds']:.0f}",
            "sha256": stage["sha256"],
        }
        for name, stage in evaluation.get("stages", {}).items()
    ]
