"""Stage 5 of 5: measure every model in the same way, on the test split.

Reads   models/dataset/ (test), every model in models/
Writes  models/evaluation.json, evaluation.csv    the numbers
        models/report.html                        the numbers to look at: one page, no network

    python evaluation.py
    python evaluation.py --max-drop 0.01 --max-bytes 1500000    (exit code 1 if a model breaks a limit)
    python evaluation.py --image cat.jpg dog.png                (overlays of your own photos)

Takes a few minutes on two cores. Size: bytes on disk and after gzip. Accuracy: mean IoU over the three classes, from one
confusion matrix over the whole split, with a 95 % bootstrap interval over images. Latency: as
MLPerf's single stream, one image at a time, the models taking turns, in a process of its own.
"""

from __future__ import annotations

import argparse
import csv
import functools
import gzip
import json
import multiprocessing
import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pipeline  # first: it sets what TensorFlow reads at import
from data_preparation import load_split
from quantization import convert, open_interpreter, predict_tflite, set_image
from training import NUMBER_OF_CLASSES, confusion_matrix, iou_per_class, load_model, predict

import numpy as np
import tensorflow as tf
import tf_keras as keras

LATENCY_RUNS = 100  # timed runs of each model
LATENCY_SECONDS = 60  # per model and thread count; slow models get fewer runs, but at least 10
WARM_UP_RUNS = 5
BOOTSTRAP_SAMPLES = 2000
CLASS_COLLAPSE = 0.02  # a class that loses more IoU than this is called out

# Every row of the table: name -> the model that it was made from (its drop and its latency gain are
# against the original all the same).
MODELS = ("original", "pruned", "float32", "pruned_float32", "dynamic", "int8", "float16")
KERAS_MODELS = ("original", "pruned")
BASELINES = {"float32": "original", "pruned_float32": "pruned"}  # unquantised conversions, written here


# --- size ---------------------------------------------------------------------------------


def gzip_bytes(path: Path) -> int:
    """Size of the file after gzip at its best: what an app store or an update would carry."""
    return len(gzip.compress(path.read_bytes(), 9, mtime=0))


def weight_counts(path: Path) -> tuple[int, int]:
    """Parameters and non-zero parameters of a model file: every weight and bias that it stores.

    A Keras file also stores the moving averages of batch normalisation, which conversion folds
    into the weights; a .tflite file stores shapes and such as int32 vectors, which do not count.
    """
    if path.suffix == ".h5":
        arrays = keras.models.load_model(path, compile=False).get_weights()
    else:
        arrays = tflite_weights(path)
    return sum(a.size for a in arrays), sum(int(np.count_nonzero(a)) for a in arrays)


def tflite_weights(path: Path) -> list[np.ndarray]:
    """The constant tensors of a .tflite file that hold weights: float, int8, and int32 biases."""
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.Model.GetRootAsModel(path.read_bytes(), 0)
    kinds = {schema.TensorType.FLOAT32: np.float32, schema.TensorType.FLOAT16: np.float16,
             schema.TensorType.INT8: np.int8, schema.TensorType.INT32: np.int32}  # fmt: skip
    weights, graph = [], model.Subgraphs(0)
    for number in range(graph.TensorsLength()):
        tensor = graph.Tensors(number)
        data = model.Buffers(tensor.Buffer()).DataAsNumpy()
        quantised = tensor.Quantization() is not None and tensor.Quantization().ScaleLength() > 0
        bare_integers = tensor.Type() == schema.TensorType.INT32 and not quantised
        if isinstance(data, np.ndarray) and tensor.Type() in kinds and not bare_integers:
            weights.append(data.view(kinds[tensor.Type()]))
    return weights


# --- accuracy -----------------------------------------------------------------------------


def confusion_per_image(models_dir: Path, name: str, images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Confusion matrices (n, classes, classes) of a model over a split, on all cores.

    Args:
        images: uint8 (n, size, size, 3). masks: uint8 (n, size, size).
    """
    with pipeline.progress(f"accuracy {name}", len(images), "images") as bar:
        if name in KERAS_MODELS:
            start, parts = 0, []
            for prediction in predict(load_model(models_dir, name), images):
                parts.append(confusion_matrix(masks[start : start + len(prediction)], prediction))
                start += len(prediction)
                bar.update(len(prediction))
            return np.concatenate(parts)
        # One single-threaded interpreter per core, each on its share: quicker than one on all cores.
        workers = os.cpu_count() or 1
        path = pipeline.artifact_path(models_dir, name)

        def share(rows: np.ndarray) -> np.ndarray:
            matrices = np.empty((len(rows), NUMBER_OF_CLASSES, NUMBER_OF_CLASSES), np.int64)
            interpreter = open_interpreter(path)
            for k, prediction in enumerate(predict_tflite(interpreter, images[rows])):
                matrices[k] = confusion_matrix(masks[rows[k], None], prediction[None])[0]
                bar.update()
            return matrices

        with ThreadPoolExecutor(workers) as pool:
            return np.concatenate(list(pool.map(share, np.array_split(np.arange(len(images)), workers))))


def bootstrap_mean_iou(confusion: np.ndarray, seed: int) -> np.ndarray:
    """Mean IoU of BOOTSTRAP_SAMPLES resamples of the images (Efron 1979), sorted by sample, not size.

    With one seed the resamples are the same for every model, so that differences are paired.

    Args:
        confusion: per-image confusion matrices (n, classes, classes).
    """
    random = np.random.default_rng(seed)
    number = len(confusion)
    counts = random.multinomial(number, np.full(number, 1 / number), BOOTSTRAP_SAMPLES)
    resampled = counts @ confusion.reshape(number, -1)
    return iou_per_class(resampled.reshape(-1, NUMBER_OF_CLASSES, NUMBER_OF_CLASSES)).mean(axis=-1)


def interval(samples: np.ndarray) -> list[float]:
    """The middle 95 % of bootstrap samples."""
    return [round(float(value), 5) for value in np.percentile(samples, (2.5, 97.5))]


# --- latency ------------------------------------------------------------------------------


def latency_runs(models_dir: Path, names: tuple[str, ...], threads: int, image: np.ndarray) -> dict[str, dict[str, Any]]:
    """Times single runs of every model, taking turns so that a noisy machine hits all alike.

    Runs in a process of its own. Only the run is timed: for LiteRT `invoke`, for Keras a compiled
    call with a batch of one.

    Returns:
        For each name milliseconds: median, p90 (the 90th percentile), first (the first run after
        loading), runs, and arena_bytes, the growth of the process' resident memory by loading and
        the first run (unknown, None, where /proc is missing).
    """
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    calls, times = {}, {}
    for name in names:
        if name in KERAS_MODELS:
            model = load_model(models_dir, name)
            compiled = tf.function(functools.partial(model, training=False))
            batch = tf.constant(image[None].astype(np.float32) / 255)
            calls[name] = functools.partial(compiled, batch)
        else:
            interpreter = open_interpreter(pipeline.artifact_path(models_dir, name), threads)
            set_image(interpreter, image)
            calls[name] = interpreter.invoke
    for name, call in calls.items():
        started = time.perf_counter()
        call()
        times[name] = [time.perf_counter() - started]
        for _ in range(WARM_UP_RUNS):
            call()
    runs = {}
    for name, call in calls.items():
        started = time.perf_counter()
        call()
        runs[name] = int(np.clip(LATENCY_SECONDS / (time.perf_counter() - started), 10, LATENCY_RUNS))
    for turn in range(LATENCY_RUNS):
        for name, call in calls.items():
            if turn * runs[name] // LATENCY_RUNS < (turn + 1) * runs[name] // LATENCY_RUNS:
                started = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - started)
    return {name: {"median": round(1e3 * float(np.median(t[1:])), 3), "p90": round(1e3 * float(np.percentile(t[1:], 90)), 3),
                   "first": round(1e3 * t[0], 3), "runs": len(t) - 1} for name, t in times.items()}  # fmt: skip


def measure_latency(models_dir: Path, names: tuple[str, ...], threads: int, image: np.ndarray) -> dict[str, dict[str, Any]]:
    """`latency_runs` in a fresh process that does nothing else."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(latency_runs, (models_dir, names, threads, image))


def cpu_name() -> str:
    """The processor's own name for itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


# --- the table ----------------------------------------------------------------------------


def format_table(evaluation: dict[str, Any]) -> str:
    """The numbers as a table of at most 100 columns, with what they mean below."""
    rows = evaluation["models"]
    reference = next((row for row in rows if row["name"] == "float32"), rows[0])
    threads = evaluation["environment"]["threads"]
    lines = [f"{'model':15}{'MB':>6}{'gzip':>6}{'smaller':>9}{'ms':>8}{'p90':>8}{'faster':>8}{'mean IoU':>10}{'95 % interval':>17}{'drop':>9}"]
    for row in rows:
        low, high = row["mean_iou_interval"]
        lines.append(
            f"{row['name']:15}{row['bytes'] / 1e6:6.2f}{row['gzip_bytes'] / 1e6:6.2f}"
            f"{reference['gzip_bytes'] / row['gzip_bytes']:8.1f}x{row['latency_ms']['median']:8.2f}{row['latency_ms']['p90']:8.2f}"
            f"{reference['latency_ms']['median'] / row['latency_ms']['median']:7.2f}x{row['mean_iou']:10.4f}"
            f"    {low:.4f}-{high:.4f}{row['mean_iou_drop']:+9.4f}"
        )
        if row.get("stale"):
            lines.append(f"  stale: {row['stale']}")
    lines.append(f"ms: one image, {threads} thread, median and 90th percentile. smaller: after gzip. "
                 "smaller, faster: against float32.")  # fmt: skip
    lines.append("drop: mean IoU of the original less this model's." + (" SYNTHETIC DATA." if evaluation["dataset"]["synthetic"] else ""))
    return "\n".join(lines + [""] + explain(evaluation))


def explain(evaluation: dict[str, Any]) -> list[str]:
    """What the numbers mean on this machine, in a few sentences."""
    rows = {row["name"]: row for row in evaluation["models"]}
    sentences = []

    def times(value: float) -> str:
        return f"{value:.2f} times"

    if {"float32", "pruned_float32"} <= rows.keys():
        a, b = rows["float32"], rows["pruned_float32"]
        sentences.append(
            f"Pruning set {1 - b['nonzero_share']:.0%} of the weights to zero: the file is as large as before, after gzip "
            f"{times(a['gzip_bytes'] / b['gzip_bytes'])} smaller, and runs at {times(a['latency_ms']['median'] / b['latency_ms']['median'])} "
            "the speed, because dense kernels also multiply zeros.")  # fmt: skip
    for name in ("float16", "dynamic", "int8"):
        if {name, "pruned_float32"} <= rows.keys():
            row, base = rows[name], rows["pruned_float32"]
            gain = base["latency_ms"]["median"] / row["latency_ms"]["median"]
            sentences.append(f"{name}: {times(base['bytes'] / row['bytes'])} smaller than the pruned float32 file, "
                             f"{times(gain)} its speed, mean IoU {row['mean_iou'] - base['mean_iou']:+.4f}.")  # fmt: skip
    best_drop = 0.01
    fit_to_ship = [row for row in rows.values() if row["file"].endswith(".tflite") and row["mean_iou_drop"] <= best_drop]
    if fit_to_ship:
        fastest = min(fit_to_ship, key=lambda row: row["latency_ms"]["median"])
        sentences.append(f"To ship: {fastest['file']}, the fastest that loses at most {best_drop} mean IoU.")
    for row in rows.values():
        for name, lost in row["iou_drop"].items():
            if lost > CLASS_COLLAPSE:
                sentences.append(f"Look out: {row['name']} loses {lost:.3f} IoU on the class {name}.")
    return sentences


def write_csv(path: Path, evaluation: dict[str, Any]) -> None:
    """The models' numbers as a flat table."""
    rows = []
    for row in evaluation["models"]:
        flat = {key: value for key, value in row.items() if not isinstance(value, (dict, list))}
        for key in ("latency_ms", "latency_ms_all_threads", "iou"):
            flat |= {f"{key}_{inner}": value for inner, value in row[key].items()}
        flat["mean_iou_low"], flat["mean_iou_high"] = row["mean_iou_interval"]
        rows.append(flat)
    with pipeline.atomic(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)


# --- the stage ----------------------------------------------------------------------------


def broken_limits(arguments: argparse.Namespace, evaluation: dict[str, Any]) -> list[str]:
    """Which quantised model breaks which of the limits asked for on the command line."""
    broken = []
    for row in evaluation["models"]:
        if row["name"] not in ("dynamic", "int8", "float16"):
            continue
        for flag, value, limit, above in (
            ("--max-drop", row["mean_iou_drop"], arguments.max_drop, True),
            ("--max-latency-ms", row["latency_ms"]["median"], arguments.max_latency_ms, True),
            ("--max-bytes", row["bytes"], arguments.max_bytes, True),
            ("--min-mean-iou", row["mean_iou"], arguments.min_mean_iou, False),
        ):
            if limit is not None and (value > limit if above else value < limit):
                broken.append(f"{row['name']} breaks {flag} {limit}: {value}")
    return broken


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = pipeline.argument_parser(__doc__)
    parser.add_argument("--max-drop", type=float, metavar="IOU", help="gate: largest allowed drop of mean IoU")
    parser.add_argument("--max-latency-ms", type=float, metavar="MS", help="gate: largest allowed median latency")
    parser.add_argument("--max-bytes", type=int, metavar="BYTES", help="gate: largest allowed file")
    parser.add_argument("--min-mean-iou", type=float, metavar="IOU", help="gate: least allowed mean IoU")
    return parser.parse_args(argv)


def write_baselines(stage: pipeline.Stage) -> None:
    """Converts original and pruned without quantisation: the fair baseline for speed."""
    for name, source in BASELINES.items():
        part = pipeline.Stage(__file__, argparse.Namespace(models_dir=stage.models_dir))
        part.inputs = {source: stage.inputs[source]}
        content = convert(load_model(stage.models_dir, source), "float32")
        with part.new_artifact(name, {"bytes": len(content)}) as path:
            path.write_bytes(content)


def evaluate(stage: pipeline.Stage, seed: int) -> dict[str, Any]:
    """Measures everything; the content of evaluation.json."""
    models_dir = stage.models_dir
    images, masks = load_split(models_dir, "test")
    write_baselines(stage)
    cores = os.cpu_count() or 1
    one = measure_latency(models_dir, MODELS, 1, images[0])
    pipeline.say(f"latency measured on 1 thread, {stage.seconds():.0f} s so far")
    every = measure_latency(models_dir, MODELS, cores, images[0])
    pipeline.say(f"latency measured on {cores} threads, {stage.seconds():.0f} s so far")

    rows, confusions = [], {}
    for name in MODELS:
        path = pipeline.artifact_path(models_dir, name)
        confusion = confusions[name] = confusion_per_image(models_dir, name, images, masks)
        total = confusion.sum(axis=0)
        iou, reference = iou_per_class(total), iou_per_class(confusions["original"].sum(axis=0))
        samples = bootstrap_mean_iou(confusion, seed)
        parameters, nonzero = weight_counts(path)
        rows.append({
            "name": name, "file": path.name, "bytes": path.stat().st_size, "gzip_bytes": gzip_bytes(path),
            "parameters": parameters, "nonzero_share": round(nonzero / parameters, 4),
            "latency_ms": one[name], "latency_ms_all_threads": every[name],
            "mean_iou": round(float(iou.mean()), 5), "mean_iou_interval": interval(samples),
            "iou": {key: round(float(value), 5) for key, value in zip(pipeline.CLASSES, iou)},
            "pixel_accuracy": round(float(np.trace(total) / total.sum()), 5),
            "mean_iou_drop": round(float(reference.mean() - iou.mean()), 5),
            "mean_iou_drop_interval": interval(bootstrap_mean_iou(confusions["original"], seed) - samples),
            "iou_drop": {key: round(float(value), 5) for key, value in zip(pipeline.CLASSES, reference - iou)},
            "stale": pipeline.stale_reason(models_dir, name),
        })  # fmt: skip
        pipeline.say(f"{name}: mean IoU {iou.mean():.4f}, {stage.seconds():.0f} s so far")
    with pipeline.atomic(models_dir / "confusion_per_image.npz") as temporary:
        np.savez_compressed(temporary, **confusions)

    data_set = pipeline.read_record(models_dir, "dataset")
    background = np.zeros((NUMBER_OF_CLASSES, NUMBER_OF_CLASSES))
    background[:, 1] = confusions["original"].sum(axis=(0, 2))  # the truth, all of it called background
    return {
        "dataset": {key: data_set[key] for key in ("source", "synthetic", "image_size", "fingerprint", "class_names")}
        | {"split": "test", "examples": len(images), "all_background_mean_iou": round(float(iou_per_class(background).mean()), 4)},
        "environment": {"cpu": cpu_name(), "cores": cores, "threads": 1, "delegate": "XNNPACK", "system": platform.platform(),
                        "versions": pipeline.versions()},
        "stages": {name: {key: record[key] for key in ("settings", "wall_seconds", "sha256", "metrics")}
                   for name in ("dataset", "original", "pruned", "dynamic", "int8", "float16")
                   if (record := pipeline.read_record(models_dir, name))},
        "models": rows,
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    models_dir = arguments.models_dir
    gates = ("max_drop", "max_latency_ms", "max_bytes", "min_mean_iou")
    stage = pipeline.Stage(__file__, arguments, *gates)
    for name in ("dataset", "original", "pruned", "dynamic", "int8", "float16"):
        stage.inputs[name] = pipeline.read_record(models_dir, name)["sha256"]  # a stale one is a marked row
    path = pipeline.artifact_path(models_dir, "evaluation")
    if arguments.if_needed and stage.up_to_date("evaluation"):
        evaluation = json.loads(path.read_text())
    else:
        evaluation = evaluate(stage, arguments.seed)
        with stage.new_artifact("evaluation", {}) as temporary:
            temporary.write_text(json.dumps(evaluation, indent=1) + "\n")
        write_csv(models_dir / "evaluation.csv", evaluation)
    pipeline.say("\n" + format_table(evaluation))
    pipeline.say(f"\nwrote {path} in {stage.seconds():.0f} s")
    broken = broken_limits(arguments, evaluation)
    for line in broken:
        pipeline.say(f"FAILED: {line}")
    return 1 if broken else 0


if __name__ == "__main__":
    pipeline.run(main)
