"""Stage 5 of 5: measure every model in the same way, on the test split.

Reads   models/dataset/ (test), every model in models/
Writes  models/evaluation.json, evaluation.csv    the numbers
        models/evaluation.previous.json, .npz     those that they replace: it says what changed
        models/report.html                        the numbers as one page that needs no network

    python evaluation.py
    python evaluation.py --gate int8 --max-drop 0.01 --max-bytes 1600000    (or exit code 1)
    python evaluation.py --against models_before                (what changed, with times)
    python evaluation.py --model other.tflite more.keras        (models of others, beside ours)
    python evaluation.py --image cat.jpg dog.png                (segments your own photos)
    python evaluation.py --image cat.jpg --model models/original_model.h5
    python evaluation.py --image photos --out segmented         (all pictures in a folder)
    python evaluation.py --profile                              (time per operator)
    python evaluation.py --npu                                  (estimated time on NPUs)

Takes a few minutes on two CPU cores. Size: bytes on disk and after gzip. Accuracy: mean IoU over
the classes, from pixel counts over the whole split, with a 95 % bootstrap interval over images; a
class that is neither in the split nor predicted is left out of the mean. Latency: one image at a
time, as in MLPerf's single stream; the models alternate in blocks of ten runs, in a process of
their own. Memory: by how much the resident memory of a fresh process rises at its peak.

A column of the tables: pipeline/report/tables.py. A chart: pipeline/report/charts.py. The page:
pipeline/report/page.py, page.html.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))  # python -P and -I leave it out

from pipeline.base import cli, console

if __name__ == "__main__":
    console.guard_imports()  # before the slow ones

import numpy as np

from pipeline.base.artifacts import (
    MODELS,
    artifact_path,
    command,
    read_record,
    stale_reason,
)
from pipeline.base.files import fault_of, sha256, write_csv
from pipeline.base.lazy import versions
from pipeline.base.stage import Stage
from pipeline.base.system import cores
from pipeline.checks import op_profile, other_models
from pipeline.data.dataset import load_classes, load_split
from pipeline.deploy import ethos_u
from pipeline.evaluation import (
    accuracy,
    bootstrap,
    comparison,
    file_facts,
    finished,
    latency,
    memory,
    pixel_measures,
    processor,
)
from pipeline.inference.iou import iou_per_class, mean_iou
from pipeline.inference.models import open_model
from pipeline.prediction import predict, pretrained
from pipeline.report import changes, gates, other_models_table, report_file, sidecars, tables
from pipeline.variants import VARIANTS

MADE_BEFORE = ("dataset", *MODELS)  # artifacts of earlier stages


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line (`sys.argv` if `argv` is None)."""
    parser = cli.argument_parser(__doc__, __file__)
    gates.add_flags(parser)
    predict.add_flags(parser)
    other_models.add_flags(parser)
    comparison.add_flags(parser)
    op_profile.add_flags(parser)
    ethos_u.add_flags(parser)
    arguments = parser.parse(argv)
    if (arguments.image or arguments.npu) and len(arguments.model or ()) > 1:
        parser.error("--image and --npu use one model; name one file: --model FILE")
    # Compared with what is there.
    arguments.if_needed |= arguments.against is not None or arguments.model is not None
    return arguments


# --- measuring ----------------------------------------------------------------------------


def measure_machine(stage: Stage, image: np.ndarray) -> dict[str, dict[str, Any]]:
    """Latency on one thread and on all, and memory, of every model."""
    models_dir = stage.models_dir
    measured: dict[str, dict[str, Any]] = {}
    for key, threads in (("latency_ms", 1), ("latency_ms_all_threads", cores())):
        measured[key] = latency.measure_latency(models_dir, MODELS, threads, image)
        seconds = stage.seconds()
        console.say(f"latency measured on {threads} thread(s), {seconds:.0f} s since the start")
    measured["memory_bytes"] = memory.measure_memory(models_dir, MODELS, image)
    console.say(f"memory measured, {stage.seconds():.0f} s since the start")
    return measured


def evaluate(stage: Stage, seed: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Measures everything.

    Returns:
        The content of evaluation.json; and pixel counts per image by model, see `class_counts`.
    """
    models_dir = stage.models_dir
    images, masks = load_split(models_dir, "test")
    names = load_classes(models_dir).names
    for name in VARIANTS:
        open_model(artifact_path(models_dir, name))  # or the one line that it cannot
    digests = {name: sha256(artifact_path(models_dir, name)) for name in MODELS}
    machine = measure_machine(stage, images[0])

    counted, counts = {}, {}
    for name in MODELS:
        counted[name] = accuracy.measure(models_dir, name, images, masks, len(names))
        counts[name] = counted[name].per_image
        score, seconds = mean_iou(iou_per_class(counts[name].sum(axis=0))), stage.seconds()
        console.say(f"{name}: mean IoU {score:.4f}, {seconds:.0f} s since the start")
    samples = bootstrap.bootstrap_mean_iou(counts, seed)
    rows = []
    for name in MODELS:
        row = file_facts.fields(artifact_path(models_dir, name))
        row |= {key: values[name] for key, values in machine.items()}
        row |= accuracy.fields(name, counts, samples, names)
        row |= pixel_measures.fields(counted[name], names)
        rows.append({"name": name, **row, "stale": stale_reason(models_dir, name)})
    refuse_changes(models_dir, digests)

    constant, least = bootstrap.constant_baseline(counts["original"][:, 1].sum(axis=0))
    data, records, code = read_record(models_dir, "dataset"), {}, {}
    for name in MADE_BEFORE:
        record = read_record(models_dir, name)
        kept = ("settings", "wall_seconds", "sha256", "metrics")
        records[name] = {key: record[key] for key in kept}
        code[record["stage"]] = record["code"]
    about = ("source", "synthetic", "image_size", "fingerprint", "class_names")
    test, pictures = data["splits"]["test"], finished.test_pictures(models_dir)
    evaluation = {
        "dataset": {key: data[key] for key in about}
        | {key: data.get(key) for key in ("split_rules", "same_pictures", "lost_classes")}
        | {"split": "test", **test, "class_colours": data["class_colours"]}
        | {"test_pictures": pictures}
        | {"constant_class": names[constant], "constant_mean_iou": round(least, 4)},
        "environment": {
            "cpu": processor.cpu_name(),
            "instruction_sets": processor.instruction_sets(),
            "cores": cores(),
            "threads": 1,
            "delegate": "XNNPACK",
            "system": platform.platform(),
            "versions": versions(),
        },
        "stages": records,
        "code": code | {"evaluation": stage.identity.code},
        "seed": seed,
        "test_reads": finished.reads(models_dir, pictures, data["fingerprint"]),
        "models": rows,
    }
    return evaluation, counts


def refuse_changes(models_dir: Path, digests: dict[str, str]) -> None:
    """Raises UserError if a model or the test split was changed since the evaluation began.

    The lock keeps our own stages out. A file that a user copies over one of ours would have the
    latency of the old file and the mean IoU of the new one in its row.
    """
    load_split(models_dir, "test")
    for name, digest in digests.items():
        path = artifact_path(models_dir, name)
        if fault_of(path, digest):
            raise console.UserError(
                f"{path} was changed while it was measured; nothing was written. Measure again "
                f"with: {command('evaluation', models_dir)}"
            )


def inputs(models_dir: Path) -> dict[str, str]:
    """SHA-256 of everything that is measured, by artifact.

    Raises:
        UserError: an artifact is missing or damaged.
    """
    records = {name: read_record(models_dir, name) for name in MADE_BEFORE}
    # This stage made the float32 files before quantization.py did. These were no inputs of it, and
    # what was measured then still holds.
    return {
        name: record["sha256"]
        for name, record in records.items()
        if record.get("stage") != "evaluation"
    }


# --- the stage ----------------------------------------------------------------------------


def drawings(models_dir: Path, evaluation: dict[str, Any]) -> sidecars.Drawings:
    """The numbers as a flat table for a spreadsheet, drawn from evaluation.json."""
    flat = models_dir / "evaluation.csv"
    return {flat: lambda path: write_csv(path, tables.flat_rows(evaluation))}


def main(argv: list[str] | None = None) -> int:
    """Runs the stage, or the side mode that a flag asks for. Returns the exit code."""
    arguments = parse(argv)
    models_dir = arguments.models_dir
    if arguments.profile:
        folder = pretrained.folder_of_models(models_dir, VARIANTS)
        console.say(op_profile.profile(folder, arguments.seed))
        return 0
    if arguments.image or arguments.npu:
        model = arguments.model[0] if arguments.model else None
        if not model:
            folder = pretrained.folder_of_models(models_dir, ["int8"])
            model = artifact_path(folder, "int8")
        if arguments.image:
            return predict.write_overlays(arguments.image, model, arguments.out)
        console.say(ethos_u.table(ethos_u.estimate(model)))
        return 0

    there = finished.of_folder(arguments.against, models_dir) if arguments.against else None
    # A stale model is a marked row and no reason to stop.
    others = set(vars(arguments)) - {"seed"}  # flags that change no number
    stage = Stage.begin(__file__, arguments, parse([])).ignoring(*others)
    stage = stage.with_inputs(inputs(models_dir))
    opened = other_models.open_all(arguments) if arguments.model else []
    path = artifact_path(models_dir, "evaluation")
    if stage.nothing_to_do("evaluation"):
        evaluation = json.loads(path.read_text(encoding="utf-8"))
        files = drawings(models_dir, evaluation)
        sidecars.draw_again(stage, "evaluation", files, tables.__file__)
    else:
        with stage.lock():
            evaluation, counts = evaluate(stage, arguments.seed)
            before = finished.keep(stage)
            evaluation["changes"] = comparison.since(before, evaluation, counts)
            finished.put(stage, finished.Finished(evaluation, counts), before)
            files = drawings(models_dir, evaluation)
            sidecars.draw(stage, "evaluation", files, tables.__file__)

    beside = other_models.measure(opened, models_dir, arguments.seed) if opened else None

    # The numbers are in place: what fails from here on is a note.
    changed = evaluation.get("changes")
    if there:
        changed = comparison.against(arguments.against, there, models_dir)
    report = artifact_path(models_dir, "report")
    sidecars.drawn(report, lambda _: report_file.draw(stage, evaluation, changed))
    sidecars.drawn(
        Path("the table"), lambda _: console.say("\n" + tables.terminal_table(evaluation))
    )
    if changed:
        text = Path("the comparison")
        sidecars.drawn(text, lambda _: console.say("\n" + changes.terminal(changed, evaluation)))
    if beside:
        console.say("\n" + other_models_table.terminal(beside))
    seconds = stage.seconds()
    console.say(f"\n{path} and report.html beside it have it all; {seconds:.0f} s since the start")
    broken, unknown = gates.judge(arguments, evaluation)
    for line in broken + unknown:
        console.say(f"FAILED: {line}")
    return 1 if broken else 2 if unknown else 0


if __name__ == "__main__":
    console.run(main)
