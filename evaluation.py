"""Stage 5 of 5: measure every model in the same way, on the test split.

Reads   models/dataset/ (test), every model in models/
Writes  models/evaluation.json, evaluation.csv    the numbers
        models/report.html                        the numbers to look at: one page, no network

    python evaluation.py
    python evaluation.py --max-drop 0.01 --max-bytes 1500000    (exit code 1 if a model breaks a limit)
    python evaluation.py --image cat.jpg dog.png                (cat.overlay.png: your own photos)
    python evaluation.py --image cat.jpg --model models/original_model.h5
    python evaluation.py --profile                              (where the time goes, operator by operator)

Takes a few minutes on two cores. Size: bytes on disk and after gzip. Accuracy: mean IoU over the
three classes, from one confusion matrix over the whole split, with a 95 % bootstrap interval over
images. Latency: as MLPerf's single stream, one image at a time, the models taking turns of ten runs
in a row, in a process of its own. Memory: how far the resident memory of a fresh process rises at its peak.
"""

from __future__ import annotations

import argparse
import base64
import copy
import csv
import functools
import gzip
import html
import io
import json
import multiprocessing
import os
import platform
import shlex
import string
import tempfile
import textwrap
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pipeline  # first: it sets what TensorFlow reads at import
from data_preparation import COLOURS, load_split, overlay
from quantization import (TIMED_RUNS, TURN_RUNS, SharingBuilder, convert, open_interpreter, predict_tflite, set_image,
                          time_in_turns)  # fmt: skip
from training import NUMBER_OF_CLASSES, confusion_matrix, draw_curves, iou_per_class, load_model, predict, write_csv

import numpy as np
import tensorflow as tf
import tf_keras as keras
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps

BOOTSTRAP_SAMPLES = 2000
CLASS_COLLAPSE = 0.02  # a class that loses more IoU than this is called out
OPERATOR_RUNS = 30  # timed runs of each operator alone, for --profile
WARM_UP_RUNS = 5  # before them
BAND = 256  # rows of a photo that are drawn at a time: memory does not grow with the photo
SHOWN_PHOTOS = 6  # in the report: so many worst ones and so many spread over the ranking
TABLE_WIDTH = 100  # columns of everything printed

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
    arrays = keras.models.load_model(path, compile=False).get_weights() if path.suffix == ".h5" else tflite_weights(path)
    return sum(a.size for a in arrays), sum(int(np.count_nonzero(a)) for a in arrays)


def tflite_weights(path: Path) -> list[np.ndarray]:
    """The constant tensors of a .tflite file that hold weights: float, int8, and int32 biases."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    kinds = {schema.TensorType.FLOAT32: np.float32, schema.TensorType.FLOAT16: np.float16,
             schema.TensorType.INT8: np.int8, schema.TensorType.INT32: np.int32}  # fmt: skip
    weights = []
    for tensor in model.subgraphs[0].tensors:
        data = model.buffers[tensor.buffer].data
        quantised = tensor.quantization is not None and tensor.quantization.scale is not None
        bare_integers = tensor.type == schema.TensorType.INT32 and not quantised
        if data is not None and tensor.type in kinds and not bare_integers:
            weights.append(data.view(kinds[tensor.type]))
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


def class_maps(models_dir: Path, name: str, images: np.ndarray) -> np.ndarray:
    """Class indices (n, size, size) that a model gives to a few uint8 images (n, size, size, 3)."""
    if name in KERAS_MODELS:
        return np.concatenate(list(predict(load_model(models_dir, name), images)))
    return np.stack(list(predict_tflite(open_interpreter(pipeline.artifact_path(models_dir, name)), images)))


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


def single_run(models_dir: Path, name: str, threads: int, image: np.ndarray) -> Callable[[], Any]:
    """Loads a model and returns what runs it once on a uint8 image (size, size, 3).

    For LiteRT that is `invoke`, for Keras a compiled call with a batch of one.
    """
    if name in KERAS_MODELS:
        compiled = tf.function(functools.partial(load_model(models_dir, name), training=False))
        return functools.partial(compiled, tf.constant(image[None].astype(np.float32) / 255))
    interpreter = open_interpreter(pipeline.artifact_path(models_dir, name), threads)
    set_image(interpreter, image)
    return interpreter.invoke


def latency_runs(models_dir: Path, names: tuple[str, ...], threads: int, image: np.ndarray) -> dict[str, dict[str, Any]]:
    """Times single runs of every model in turn, see `time_in_turns` and `single_run`. Runs in a process of its own.

    Returns:
        For each name milliseconds: median and p90 (the 90th percentile) of the runs in a row, after_another (the median
        of runs right after another model), first (the first run after loading); and runs, the number of runs in a row.
    """
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    calls, first = {name: single_run(models_dir, name, threads, image) for name in names}, {}
    for name, call in calls.items():
        started = time.perf_counter()
        call()
        first[name] = 1e3 * (time.perf_counter() - started)
    rows = {}
    for name, (in_a_row, after_another) in time_in_turns(calls).items():
        figures = {"median": np.median(in_a_row), "p90": np.percentile(in_a_row, 90),
                   "after_another": np.median(after_another), "first": first[name]}  # fmt: skip
        rows[name] = {key: round(float(value), 3) for key, value in figures.items()} | {"runs": len(in_a_row)}
    return rows


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


# --- memory -------------------------------------------------------------------------------


def resident_bytes(field: str) -> int:
    """This process' resident memory: now (field "VmRSS") or at its peak ("VmHWM")."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def memory_growth(models_dir: Path, name: str, image: np.ndarray) -> int | None:
    """How far resident memory rises, at its peak, by loading a model and running it once, in bytes.

    Runs in a process of its own that has everything imported. For LiteRT it is the file, the
    weights as XNNPACK packs them and the activations; for Keras also TensorFlow's own start.
    None where the system does not tell (no /proc).
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten: it was the imports'
        before = resident_bytes("VmRSS")
    except OSError:
        return None
    single_run(models_dir, name, 1, image)()
    return resident_bytes("VmHWM") - before


def measure_memory(models_dir: Path, names: tuple[str, ...], image: np.ndarray) -> dict[str, int | None]:
    """`memory_growth` of each model, each in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(os.cpu_count(), maxtasksperchild=1) as pool:
        return dict(zip(names, pool.starmap(memory_growth, [(models_dir, name, image) for name in names], chunksize=1)))


# --- where the time goes ------------------------------------------------------------------


def delegated_operators(path: Path) -> tuple[set[int], int]:
    """Numbers of the operators that XNNPACK runs, and into how many parts of the graph they fall.

    The interpreter lists the file's operators and, after them, one DELEGATE per part. It does
    not say what is in a part: that is what leads from its inputs to its outputs.
    """
    nodes = open_interpreter(path)._get_ops_details()  # LiteRT has no public call for this
    parts = [node for node in nodes if node["op_name"] == "DELEGATE"]
    makers = {int(tensor): node for node in nodes if node["op_name"] != "DELEGATE" for tensor in node["outputs"]}
    inside: set[int] = set()
    for part in parts:
        ends, ahead = {int(tensor) for tensor in part["inputs"]}, [int(tensor) for tensor in part["outputs"]]
        while ahead:
            tensor = ahead.pop()
            if tensor not in ends and tensor in makers and makers[tensor]["index"] not in inside:
                inside.add(makers[tensor]["index"])
                ahead += [int(before) for before in makers[tensor]["inputs"]]
    return inside, len(parts)


def time_operators(path: Path, seed: int) -> list[tuple[int, str, float]]:
    """Times every operator of a .tflite file alone, as a file of its own, on random input and 1 thread.

    The wheel's `litert-benchmark` times whole models only, and the profiler inside LiteRT has no
    Python interface. Dequantisation of constants (float16) is done once at loading, and not listed.

    Returns:
        For each operator: number in the file, kind, median milliseconds of OPERATOR_RUNS.
    """
    random = np.random.default_rng(seed)
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    graph = model.subgraphs[0]
    kinds = {number: kind for kind, number in vars(schema.BuiltinOperator).items()}
    empty = {tensor for tensor, about in enumerate(graph.tensors) if model.buffers[about.buffer].data is None}
    unpackers = {int(operator.outputs[0]): operator for operator in graph.operators
                 if not empty.intersection(map(int, operator.inputs))}  # fmt: skip
    times = []
    for number, operator in enumerate(graph.operators):
        if int(operator.outputs[0]) in unpackers:
            continue
        chain = [unpackers[tensor] for tensor in map(int, operator.inputs) if tensor in unpackers] + [operator]
        used = {graph.tensors[tensor].buffer for link in chain for tensor in (*link.inputs, *link.outputs) if tensor >= 0}
        alone, part = copy.copy(model), copy.copy(graph)
        part.operators, part.outputs = chain, operator.outputs
        part.inputs = [tensor for tensor in map(int, operator.inputs) if tensor in empty and tensor not in unpackers]
        alone.subgraphs, alone.signatureDefs, alone.metadata = [part], None, None
        alone.buffers = [buffer if k in used else schema.BufferT() for k, buffer in enumerate(model.buffers)]
        builder = SharingBuilder()
        builder.Finish(alone.Pack(builder), b"TFL3")
        interpreter = Interpreter(model_content=bytes(builder.Output()), num_threads=1)
        interpreter.allocate_tensors()
        for slot in interpreter.get_input_details():
            interpreter.set_tensor(slot["index"], (100 * random.random(slot["shape"])).astype(slot["dtype"]))
        runs = []
        for _ in range(WARM_UP_RUNS + OPERATOR_RUNS):
            started = time.perf_counter()
            interpreter.invoke()
            runs.append(time.perf_counter() - started)
        kind = kinds[model.operatorCodes[operator.opcodeIndex].builtinCode]
        times.append((number, kind, 1e3 * float(np.median(runs[WARM_UP_RUNS:]))))
    return times


def profile(models_dir: Path, seed: int) -> str:
    """For every .tflite file there is: its operators by kind, who runs them and how long they take.

    Raises:
        pipeline.UserError: there is no .tflite file.
    """
    paths = [pipeline.artifact_path(models_dir, name) for name in MODELS if name not in KERAS_MODELS]
    paths = [path for path in paths if path.exists()]
    if not paths:
        raise pipeline.UserError(f"{models_dir} holds no .tflite file; make them with: {pipeline.command('int8', models_dir)}")
    lines = []
    for path in paths:
        interpreter, whole = open_interpreter(path), []
        for _ in range(WARM_UP_RUNS + OPERATOR_RUNS):
            started = time.perf_counter()
            interpreter.invoke()
            whole.append(1e3 * (time.perf_counter() - started))
        operators = time_operators(path, seed)
        inside, parts = delegated_operators(path)
        total = sum(milliseconds for *_, milliseconds in operators)
        by_kind: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for number, kind, milliseconds in operators:
            by_kind[kind].append((number, milliseconds))
        lines += [f"{path.name}: {np.median(whole[WARM_UP_RUNS:]):.2f} ms as a whole, {total:.2f} ms operator by operator; "
                  f"XNNPACK in {parts} part{'s' * (parts != 1)}",
                  f"  {'operator':24}{'count':>7}{'XNNPACK':>9}{'others':>8}{'ms':>9}{'share':>8}"]  # fmt: skip
        for kind, runs in sorted(by_kind.items(), key=lambda item: -sum(run[1] for run in item[1])):
            own, spent = sum(number in inside for number, _ in runs), sum(run[1] for run in runs)
            lines.append(f"  {kind:24}{len(runs):7}{own:9}{len(runs) - own:8}{spent:9.3f}{spent / total:8.1%}")
        lines.append("")
    notes = (f"ms: each operator alone, 1 thread, median of {OPERATOR_RUNS} runs, then summed. The whole differs from that "
             "by what passes between operators, and by what else the machine does. XNNPACK, others: who runs the operator "
             "in the whole model, as counted in the interpreter's plan.")  # fmt: skip
    lines += textwrap.wrap(notes, TABLE_WIDTH)
    return "\n".join(lines)


# --- your own photos ----------------------------------------------------------------------


def open_scorer(path: Path) -> tuple[int, Callable[[np.ndarray], np.ndarray]]:
    """Opens a model file of any kind.

    Returns:
        Its image side in pixels, and what gives the scores (size, size, classes) of a uint8 image
        (size, size, 3): the highest score is the class. Their scale depends on the model.

    Raises:
        pipeline.UserError: the file is missing, or no segmentation model of ours.
    """
    if not path.exists():
        makers = [pipeline.command(name, path.parent) for name, (file, _) in pipeline.ARTIFACTS.items() if file == path.name]
        remedy = f"make it with: {makers[0]}" if makers else "name a model that exists"
        raise pipeline.UserError(f"{path} is missing; {remedy}")
    if path.suffix == ".h5":
        try:
            model = keras.models.load_model(path, compile=False)
        except (OSError, ValueError) as error:
            raise pipeline.UserError(f"{path} cannot be read as a Keras model ({str(error).splitlines()[0]})") from None
        shapes = model.input_shape[1:], model.output_shape[1:]
        compiled = tf.function(functools.partial(model, training=False))

        def scores(image: np.ndarray) -> np.ndarray:
            return compiled(tf.constant(image[None].astype(np.float32) / 255))[0].numpy()
    else:
        interpreter = open_interpreter(path)
        slot, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        shapes = tuple(slot["shape"][1:]), tuple(result["shape"][1:])

        def scores(image: np.ndarray) -> np.ndarray:
            set_image(interpreter, image)
            interpreter.invoke()
            return interpreter.get_tensor(result["index"])[0]

    size = int(shapes[0][0])
    if shapes != ((size, size, 3), (size, size, NUMBER_OF_CLASSES)):
        raise pipeline.UserError(f"{path} maps {shapes[0]} to {shapes[1]}; it is no segmentation model of this pipeline")
    return size, scores


def read_photo(path: Path) -> Image.Image:
    """A photo as it is meant to be seen: upright, RGB.

    Raises:
        pipeline.UserError: missing, or no picture.
    """
    try:
        with Image.open(path) as photo:
            return ImageOps.exif_transpose(photo).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "missing" if isinstance(error, FileNotFoundError) else f"no picture that can be read ({error})"
        raise pipeline.UserError(f"the photo {path} is {reason}") from None


def draw_photo_overlay(photo: Image.Image, scores: np.ndarray) -> Image.Image:
    """`overlay` at the photo's own resolution, from scores (size, size, classes).

    The scores are enlarged, not the classes, so that outlines are smooth and not in steps.
    """
    width, height = photo.size
    side = len(scores)
    planes = [Image.fromarray(scores[..., k].astype(np.float32)) for k in range(scores.shape[-1])]
    drawn = Image.new("RGB", photo.size)
    for top in range(0, height, BAND):
        bottom = min(top + BAND, height)
        rows = (0, top * side / height, side, bottom * side / height)  # in the planes; they are read beyond it too: no seams
        enlarged = [np.asarray(plane.resize((width, bottom - top), Image.Resampling.BILINEAR, rows)) for plane in planes]
        band = overlay(np.asarray(photo.crop((0, top, width, bottom))), np.argmax(enlarged, axis=0))
        drawn.paste(Image.fromarray(band), (0, top))
    return drawn


def write_overlays(photos: list[Path], model: Path) -> None:
    """Writes NAME.overlay.png beside each photo and says how long it took.

    Raises:
        pipeline.UserError: a photo or the model cannot be read, or an overlay not be written.
    """
    size, scores = open_scorer(model)
    scores(np.zeros((size, size, 3), np.uint8))  # the first run is slower than all others
    for path in photos:
        started = time.perf_counter()
        photo = read_photo(path)
        small = np.asarray(photo.resize((size, size), Image.Resampling.BILINEAR))
        began = time.perf_counter()
        result = scores(small)
        milliseconds = 1e3 * (time.perf_counter() - began)
        target = path.with_name(f"{path.stem}.overlay.png")
        try:
            with pipeline.atomic(target) as temporary:
                draw_photo_overlay(photo, result).save(temporary)
        except OSError as error:
            raise pipeline.UserError(f"{target} cannot be written ({error.strerror or error})") from None
        pipeline.say(f"wrote {target}: {photo.width} x {photo.height} pixels, network {milliseconds:.1f} ms, "
                     f"{time.perf_counter() - started:.2f} s with reading, drawing and writing")  # fmt: skip


# --- the table ----------------------------------------------------------------------------


def signed(value: float) -> str:
    """A difference of mean IoU to four places, without a negative zero."""
    return f"{round(value, 4) + 0.0:+.4f}"


def format_table(evaluation: dict[str, Any]) -> str:
    """The numbers as a table of at most 100 columns, with what they mean below."""
    rows = evaluation["models"]
    reference = next((row for row in rows if row["name"] == "float32"), rows[0])
    threads = evaluation["environment"]["threads"]
    lines = [f"{'model':15}{'MB':>6}{'gzip':>6}{'smaller':>9}{'ms':>8}{'p90':>8}{'faster':>8}"
             f"{'mean IoU':>10}{'95 % interval':>17}{'drop':>9}"]  # fmt: skip
    for row in rows:
        (low, high), latency = row["mean_iou_interval"], row["latency_ms"]
        lines.append(
            f"{row['name']:15}{row['bytes'] / 1e6:6.2f}{row['gzip_bytes'] / 1e6:6.2f}"
            f"{reference['gzip_bytes'] / row['gzip_bytes']:8.1f}x{latency['median']:8.2f}{latency['p90']:8.2f}"
            f"{reference['latency_ms']['median'] / latency['median']:7.2f}x{row['mean_iou']:10.4f}"
            f"    {low:.4f}-{high:.4f}{signed(row['mean_iou_drop']):>9}"
        )
        if row.get("stale"):
            lines += textwrap.wrap(f"  stale: {row['stale']}", TABLE_WIDTH, subsequent_indent="  ")
    synthetic = " SYNTHETIC DATA." if evaluation["dataset"]["synthetic"] else ""
    notes = (f"ms: one image, {threads} thread, median and 90th percentile. smaller: after gzip. smaller, faster: against "
             f"float32. drop: mean IoU of the original less this model's.{synthetic}")  # fmt: skip
    lines += [*textwrap.wrap(notes, TABLE_WIDTH), ""]
    for sentence in explain(evaluation):
        lines += textwrap.wrap(sentence, TABLE_WIDTH, subsequent_indent="  ")
    return "\n".join(lines)


def explain(evaluation: dict[str, Any]) -> list[str]:
    """What the numbers mean on this machine, in a few sentences."""
    rows = {row["name"]: row for row in evaluation["models"]}
    sentences = []

    def times(value: float) -> str:
        return f"{value:.2f} times"

    if {"float32", "pruned_float32"} <= rows.keys():
        a, b = rows["float32"], rows["pruned_float32"]
        speed = times(a["latency_ms"]["median"] / b["latency_ms"]["median"])
        packed = times(a["gzip_bytes"] / b["gzip_bytes"])
        if b["bytes"] < 0.98 * a["bytes"]:
            sentences.append(f"Pruning removed channels: the float32 file is {times(a['bytes'] / b['bytes'])} smaller, "
                             f"{packed} after gzip, and ran at {speed} the speed.")  # fmt: skip
        else:
            sentences.append(
                f"Pruning set {1 - b['nonzero_share']:.0%} of the weights to zero: the file is as large as before, after gzip "
                f"{packed} smaller. It ran at {speed} the speed here; dense kernels also multiply zeros, so 1 is to be "
                "expected.")  # fmt: skip
    for name in ("float16", "dynamic", "int8"):
        if {name, "pruned_float32"} <= rows.keys():
            row, base = rows[name], rows["pruned_float32"]
            gain = base["latency_ms"]["median"] / row["latency_ms"]["median"]
            sentences.append(f"{name}: {times(base['bytes'] / row['bytes'])} smaller than the pruned float32 file, "
                             f"{times(gain)} its speed, mean IoU {signed(row['mean_iou'] - base['mean_iou'])}.")  # fmt: skip
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


def flat_rows(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """The models' numbers as rows of a flat table, for evaluation.csv."""
    rows = []
    for row in evaluation["models"]:
        flat = {key: value for key, value in row.items() if not isinstance(value, (dict, list))}
        for key in ("latency_ms", "latency_ms_all_threads", "iou"):
            flat |= {f"{key}_{inner}": value for inner, value in row[key].items()}
        flat["mean_iou_low"], flat["mean_iou_high"] = row["mean_iou_interval"]
        rows.append(flat)
    return rows


def readme_table(evaluation: dict[str, Any]) -> str:
    """The models as a table in GitHub's Markdown, for the README."""
    rows = evaluation["models"]
    baseline = next((row for row in rows if row["name"] == "float32"), rows[0])["latency_ms"]["median"]
    head = ("model", "file, MB", "gzip, MB", "median ms (p90), 1 thread", "times faster than float32", "mean IoU (95 % interval)",
            "pet / background / border IoU", "drop of mean IoU")  # fmt: skip
    lines = [head, ("---",) + ("---:",) * (len(head) - 1)]
    for row in rows:
        latency, (low, high) = row["latency_ms"], row["mean_iou_interval"]
        lines.append((row["name"], f"{row['bytes'] / 1e6:.2f}", f"{row['gzip_bytes'] / 1e6:.2f}",
                      f"{latency['median']:.2f} ({latency['p90']:.2f})", f"{baseline / latency['median']:.2f}",
                      f"{row['mean_iou']:.4f} ({low:.4f} to {high:.4f})",
                      " / ".join(f"{row['iou'][name]:.3f}" for name in pipeline.CLASSES),
                      f"{signed(row['mean_iou_drop'])}"))  # fmt: skip
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


# --- the report ---------------------------------------------------------------------------

TEMPLATE = pipeline.ROOT / "docs" / "report_template.html"
CHART_COLOURS = {"pet": "#f28e2b", "background": "#3a4862", "border": "#9c755f"}  # white cannot be seen on white
WRONG = np.array((230, 0, 126), np.uint8)  # pixels of the wrong class
THUMBNAIL = 160  # pixels, the largest side of a picture in the report


def data_uri(content: bytes, kind: str) -> str:
    """A file as an address that holds the file itself."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def html_figure(figure: Any, caption: str) -> str:
    """A matplotlib figure as an SVG inside an HTML figure."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "report"}):  # the same figure gives the same bytes
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = html.escape(caption)
    return f'<figure><img src="{data_uri(buffer.getvalue(), "svg+xml")}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def html_table(head: list[str], rows: list[list[str]], label: str, kind: str = "") -> str:
    """A table in a box of its own that scrolls sideways; cells are HTML."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = [f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>" for row in rows]
    body = "\n".join(lines)
    return (f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(label)}"><table class="{kind}">'
            f"<thead><tr>{top}</tr></thead>\n<tbody>{body}</tbody></table></div>")  # fmt: skip


def pareto_front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those (cost, gain) than which none is at once no dearer and better, by rising cost."""
    front: list[tuple[float, float]] = []
    for cost, gain in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or gain > front[-1][1]:
            front.append((cost, gain))
    return front


def spread(values: list[float], gap: float) -> list[float]:
    """Moves values within 0..1 apart until neighbours are `gap` apart; their order stays."""
    order = np.argsort(values, kind="stable")
    places = np.clip(np.asarray(values, float)[order], 0, 1)
    for k in range(1, len(places)):
        places[k] = max(places[k], places[k - 1] + gap)
    places[-1] = min(places[-1], 1)
    for k in range(len(places) - 2, -1, -1):
        places[k] = min(places[k], places[k + 1] - gap)
    result = np.empty_like(places)
    result[order] = places
    return result.tolist()


def draw_trade_off(rows: list[dict[str, Any]], costs: list[float], label: str) -> Any:
    """Cost against mean IoU with its 95 % interval, the Pareto front and a label for every point.

    Labels stand in a column on the right, so that they cannot overlap where models lie close.
    """
    import matplotlib.figure

    figure = matplotlib.figure.Figure((5.4, 3.7), layout="constrained")
    axis = figure.subplots()
    gains = [row["mean_iou"] for row in rows]
    front = pareto_front(list(zip(costs, gains)))
    axis.plot(*zip(*front), color="#f28e2b", linewidth=1.5, drawstyle="steps-post", label="Pareto front", zorder=2)
    intervals = np.abs(np.array([row["mean_iou_interval"] for row in rows]).T - gains)
    axis.errorbar(costs, gains, intervals, fmt="none", ecolor="#b9bec7", elinewidth=1, zorder=1)
    colours = ["#f28e2b" if point in front else "#3a4862" for point in zip(costs, gains)]
    axis.scatter(costs, gains, 36, colours, zorder=3)
    axis.set(xlabel=label, ylabel="mean IoU", xlim=(0, 1.06 * max(costs)))
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right", fontsize=8, frameon=False)
    low, high = axis.get_ylim()
    places = spread([(gain - low) / (high - low) for gain in gains], 0.09)
    for row, cost, gain, place in zip(rows, costs, gains, places):
        axis.annotate(row["name"], (cost, gain), (1.05, 0.03 + 0.94 * place), textcoords="axes fraction", va="center", fontsize=9,
                      arrowprops={"arrowstyle": "-", "color": "#b9bec7", "linewidth": 0.7, "shrinkB": 4,
                                  "relpos": (0, 0.5)})  # fmt: skip
    return figure


def draw_bars(names: list[str], groups: dict[str, tuple[str, list[float]]], label: str, form: str) -> Any:
    """Horizontal bars: a row per name, in it a bar per group (colour and values), each with its value as `form` says."""
    import matplotlib.figure

    thick = 0.8 / len(groups)
    limit = 1.15 * max(max(values) for _, values in groups.values())  # room for what is written at the end of a bar
    figure = matplotlib.figure.Figure((5.4, 0.8 + len(names) * max(0.17, 0.21 * len(groups))), layout="constrained")
    axis = figure.subplots()
    for k, (group, (colour, values)) in enumerate(groups.items()):
        places = np.arange(len(names)) + (k - (len(groups) - 1) / 2) * thick
        bars = axis.barh(places, values, 0.9 * thick, color=colour, label=group)
        axis.bar_label(bars, [form.format(value) for value in values], padding=2, fontsize=7)
    axis.set(xlabel=label, yticks=range(len(names)), xlim=(0, limit))
    axis.set_yticklabels(names, fontsize=7 if len(names) > 12 else 9)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.spines[["top", "right"]].set_visible(False)
    if len(groups) > 1:
        figure.legend(loc="outside upper center", ncols=len(groups), frameon=False, fontsize=8)
    return figure


def charts_html(evaluation: dict[str, Any]) -> str:
    """The figures that are drawn from the numbers alone."""
    rows, of = evaluation["models"], " (synthetic data)" if evaluation["dataset"]["synthetic"] else ""
    names = [row["name"] for row in rows]
    sizes, times = [row["bytes"] / 1e6 for row in rows], [row["latency_ms"]["median"] for row in rows]
    classes = {key: (CHART_COLOURS[key], [row["iou"][key] for row in rows]) for key in pipeline.CLASSES}
    figures = [
        (draw_trade_off(rows, sizes, "size of the file, MB"), f"Size against mean IoU{of}; upright lines: 95 % interval."),
        (draw_trade_off(rows, times, "median latency, ms, 1 thread"), f"Latency against mean IoU{of}."),
        (draw_bars(names, classes, "IoU", "{:.3f}"), f"IoU of each class{of}."),
    ]
    if all(row.get("memory_bytes") for row in rows):
        memory = {"memory": (CHART_COLOURS["background"], [row["memory_bytes"] / 1e6 for row in rows])}
        figures.append((draw_bars(names, memory, "MB", "{:.1f}"),
                        "Peak memory: growth of a fresh process by loading the model and running it once. "
                        "For the Keras models, that is mostly TensorFlow itself."))  # fmt: skip
    if layers := evaluation.get("stages", {}).get("pruned", {}).get("metrics", {}).get("layers"):
        labels = [f"{name} ({layer['weights']:,})" for name, layer in layers.items()]
        zeros = {"zeros": (CHART_COLOURS["border"], [100 * layer["sparsity"] for layer in layers.values()])}
        figures.append((draw_bars(labels, zeros, "zeros, %", "{:.1f}"),
                        f"Sparsity of each pruned layer{of}; in brackets the weights of its kernel."))  # fmt: skip
    return "\n".join(html_figure(*pair) for pair in figures)


def curves_html(models_dir: Path, of: str) -> str:
    """Training and pruning, epoch by epoch, from the tables that those stages left; "" if there are none."""
    parts = []
    for name, what in (("original", "Training"), ("pruned", "Pruning and fine-tuning")):
        path = models_dir / f"{name}_training.csv"
        if not path.exists():
            continue
        with path.open(newline="") as file:
            history = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "curves.svg"
            draw_curves(path, history, what)
            content = path.read_bytes()
        caption = f"{what}{of}: loss on the training split, IoU on the validation split, by epoch."
        picture = f'<img src="{data_uri(content, "svg+xml")}" alt="{caption}">'
        parts.append(f'<figure><div class="card" tabindex="0" role="region" aria-label="{what}">{picture}</div>'
                     f"<figcaption>{caption}</figcaption></figure>")  # fmt: skip
    return f"<h2>Training{of}</h2>\n" + "\n".join(parts) if parts else ""


def chosen_photos(confusion: np.ndarray, number: int) -> dict[int, str]:
    """Rows of the worst test photos and of as many spread evenly over the others, with what they are.

    Args:
        confusion: per-image confusion matrices (n, classes, classes); the mean IoU of each image ranks it.
    """
    ranking = np.argsort(iou_per_class(confusion).mean(axis=-1), kind="stable")
    worst = {int(row): f"worst {k + 1}" for k, row in enumerate(ranking[:number])}
    places = np.unique(np.linspace(number, len(ranking) - 1, number).astype(int)) if len(ranking) > number else []
    others = {int(ranking[k]): f"better than {k / len(ranking):.0%}" for k in places}
    return worst | others | ({int(ranking[-1]): "best"} if others else {})


def picture_html(pictures: list[np.ndarray], text: str) -> str:
    """Pictures of one size (height, width, 3), uint8, one below the other, as an HTML image."""
    stack = [np.asarray(ImageOps.contain(Image.fromarray(picture), (THUMBNAIL, THUMBNAIL))) for picture in pictures]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(stack)).save(buffer, "webp", quality=75)
    size = f'width="{stack[0].shape[1]}" height="{len(stack) * len(stack[0])}"'
    return f'<img src="{data_uri(buffer.getvalue(), "webp")}" {size} alt="{html.escape(text)}">'


def photos_html(models_dir: Path, evaluation: dict[str, Any]) -> str:
    """A grid of test photos: truth, the prediction of each model, and where it is wrong."""
    with np.load(models_dir / "confusion_per_image.npz") as confusions:
        scores = {name: iou_per_class(confusions[name]).mean(axis=-1) for name in confusions.files}
        chosen = chosen_photos(confusions["int8"], SHOWN_PHOTOS)
    rows = list(chosen)
    images, masks = (array[rows] for array in load_split(models_dir, "test"))
    predictions = {name: class_maps(models_dir, name, images) for name in MODELS}
    what = "synthetic test picture" if evaluation["dataset"]["synthetic"] else "test photo"
    lines = []
    for k, row in enumerate(rows):
        image, mask = images[k], masks[k]
        faint = np.repeat((0.45 * image.mean(axis=-1, keepdims=True)).astype(np.uint8), 3, axis=-1)
        cells = [picture_html([image, overlay(image, mask)], f"{what} {row}, truth below")]
        for name, prediction in predictions.items():
            wrong = np.where((prediction[k] != mask)[..., None], WRONG, faint)
            text = f"{name} on {what} {row}: its prediction, below it the wrong pixels"
            cells.append(picture_html([overlay(image, prediction[k]), wrong], text) + f"{scores[name][row]:.3f}")
        lines.append([f"{chosen[row]}<br>number {row}", *cells])
    swatches = [f'<span class="key"><span class="swatch" style="background:rgb{(*map(int, colour),)}"></span> {name}</span>'
                for name, colour in zip((*pipeline.CLASSES, "wrong pixel"), (*COLOURS, WRONG))]  # fmt: skip
    about = (f"The {SHOWN_PHOTOS} on which the int8 model has the lowest mean IoU, and as many spread evenly over the ranking of "
             "the others. Above: the prediction; below: where it differs from the truth. The number is the mean IoU of this one "
             "picture; a class that it does not hold counts as 1.")  # fmt: skip
    return (f"<h2>Worst and other {what}s</h2>\n<p>{about}</p>\n<p>{' &ensp; '.join(swatches)}</p>\n"
            + html_table([what, "as it is, truth", *predictions], lines, f"{what}s", "photos"))  # fmt: skip


def numbers_html(evaluation: dict[str, Any]) -> str:
    """The table of all models."""
    head = ["model", "file, MB", "gzip, MB", "ms, 1 thread", "p90", "mean IoU", "95 % interval", "drop", *pipeline.CLASSES,
            "pixels right", "after another, ms", "first run, ms", "ms, all threads", "memory, MB", "weights",
            "not zero"]  # fmt: skip
    rows = []
    for row in evaluation["models"]:
        latency, every, memory = row["latency_ms"], row.get("latency_ms_all_threads"), row.get("memory_bytes")
        name = html.escape(row["name"])
        if row.get("stale"):
            name += f' <span class="stale" title="{html.escape(row["stale"])}">stale</span>'
        rows.append([name, f"{row['bytes'] / 1e6:.2f}", f"{row['gzip_bytes'] / 1e6:.2f}", f"{latency['median']:.2f}",
                     f"{latency['p90']:.2f}", f"<b>{row['mean_iou']:.4f}</b>",
                     "{:.4f}&ndash;{:.4f}".format(*row["mean_iou_interval"]), f"{signed(row['mean_iou_drop'])}",
                     *(f"{row['iou'][key]:.3f}" for key in pipeline.CLASSES),
                     f"{row['pixel_accuracy']:.3f}", f"{latency['after_another']:.2f}", f"{latency['first']:.2f}",
                     f"{every['median']:.2f}" if every else "unknown",
                     f"{memory / 1e6:.1f}" if memory else "unknown", f"{row['parameters']:,}",
                     f"{row['nonzero_share']:.1%}"])  # fmt: skip
    return html_table(head, rows, "sizes, times and accuracy of all models")


def stage_command(models_dir: Path, name: str, settings: dict[str, Any]) -> str:
    """The command that repeats a stage with the settings its record holds."""
    flags = [f"--{key.replace('_', '-')}" + ("" if value is True else f" {shlex.quote(str(value))}")
             for key, value in settings.items() if value is not None and value is not False]  # fmt: skip
    return " ".join([pipeline.command(name, models_dir), *flags])


def sources_html(models_dir: Path, evaluation: dict[str, Any]) -> str:
    """Commands, seeds, hashes, versions and the machine."""
    data, place = evaluation["dataset"], evaluation["environment"]
    seed = evaluation.get("seed", pipeline.SEED)
    facts = [
        f"Data: {data['source']}, split {data['split']}, {data['examples']} images, {data['image_size']} pixels square, "
        f"fingerprint {data['fingerprint']}. All of it called background: mean IoU {data['all_background_mean_iou']:.4f}.",
        f"Machine: {place['cpu']}, {place['cores']} cores, {place['system']}; LiteRT with {place['delegate']}.",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in place["versions"].items()) + ".",
        f"Latency: one image at a time, {place['threads']} thread (all threads: {place['cores']}), up to {TIMED_RUNS} timed "
        f"runs, the models taking turns of {TURN_RUNS} in a row, in a process of their own. After another: the run before those, "
        "which finds the caches full of the model before. First run: after loading.",
        "Memory: growth of resident memory at its peak (VmHWM) by loading and one run, 1 thread, each model in a fresh process.",
        f"Mean IoU: from one confusion matrix over the split; interval: {BOOTSTRAP_SAMPLES} bootstrap samples of the images, "
        f"seed {seed}; drop: mean IoU of the original less this model's. gzip: level 9. MB: a million bytes.",
        f"This evaluation: {pipeline.command('evaluation', models_dir)} --seed {seed}",
    ]  # fmt: skip
    rows = []
    for name, stage in evaluation.get("stages", {}).items():
        command = html.escape(stage_command(models_dir, name, stage["settings"]))
        rows.append([html.escape(pipeline.ARTIFACTS[name][0]), f"<code>{command}</code>", f"{stage['wall_seconds']:.0f}",
                     f"<code>{stage['sha256']}</code>"])  # fmt: skip
    table = html_table(["file", "command", "seconds", "SHA-256"], rows, "commands and hashes", "sources")
    return "<ul>\n" + "\n".join(f"<li>{html.escape(fact)}</li>" for fact in facts) + f"\n</ul>\n{table}"


def report_page(evaluation: dict[str, Any], models_dir: Path, photos: str = "") -> str:
    """The whole page; `photos` is what `photos_html` gives."""
    data, place = evaluation["dataset"], evaluation["environment"]
    synthetic = " (synthetic data)" if data["synthetic"] else ""
    notice = ('<p class="notice"><b>Synthetic data.</b> Trained and measured on drawn animals, not on photographs: '
              "the accuracies say nothing about real pets.</p>") if synthetic else ""  # fmt: skip
    stale = [f'<li><span class="stale">{html.escape(row["name"])} is stale:</span> {html.escape(row["stale"])}</li>'
             for row in evaluation["models"] if row.get("stale")]  # fmt: skip
    sentences = "\n".join(f"<li>{html.escape(sentence)}</li>" for sentence in explain(evaluation))
    notes = f"<ul>{''.join(stale)}</ul>" if stale else ""
    return string.Template(TEMPLATE.read_text()).substitute(
        title="Pet segmentation: size, speed and accuracy" + synthetic, notice=notice, kind=synthetic,
        summary=html.escape(f"{len(evaluation['models'])} models on {data['examples']} test images of {data['source']}, "
                            f"measured on {place['cpu']}, {place['threads']} thread."),
        table=numbers_html(evaluation), table_notes=notes,
        sentences=f"<ul>\n{sentences}\n</ul>",
        charts=charts_html(evaluation), curves=curves_html(models_dir, synthetic), photos=photos,
        sources=sources_html(models_dir, evaluation))  # fmt: skip


def write_report(models_dir: Path, evaluation: dict[str, Any]) -> Path:
    """Writes report.html from the numbers and from what lies in the models folder."""
    path = models_dir / "report.html"
    page = report_page(evaluation, models_dir, photos_html(models_dir, evaluation))
    with pipeline.atomic(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


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
    """The command line."""
    parser = pipeline.argument_parser(__doc__)
    parser.add_argument("--max-drop", type=float, metavar="IOU", help="gate: largest allowed drop of mean IoU")
    parser.add_argument("--max-latency-ms", type=float, metavar="MS", help="gate: largest allowed median latency")
    parser.add_argument("--max-bytes", type=int, metavar="BYTES", help="gate: largest allowed file")
    parser.add_argument("--min-mean-iou", type=float, metavar="IOU", help="gate: least allowed mean IoU")
    parser.add_argument("--image", type=Path, nargs="+", metavar="PHOTO",
                        help="do nothing but write PHOTO's name with .overlay.png beside each photo")  # fmt: skip
    parser.add_argument("--model", type=Path, metavar="FILE",
                        help="the .h5 or .tflite file that --image uses (default: the int8 one)")  # fmt: skip
    parser.add_argument("--profile", action="store_true",
                        help="do nothing but time the operators of each .tflite file, and say who runs them")  # fmt: skip
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
    memory = measure_memory(models_dir, MODELS, images[0])
    pipeline.say(f"memory measured, {stage.seconds():.0f} s so far")

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
            "latency_ms": one[name], "latency_ms_all_threads": every[name], "memory_bytes": memory[name],
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
    least = round(float(iou_per_class(background).mean()), 4)
    return {
        "dataset": {key: data_set[key] for key in ("source", "synthetic", "image_size", "fingerprint", "class_names")}
        | {"split": "test", "examples": len(images), "all_background_mean_iou": least},
        "environment": {"cpu": cpu_name(), "cores": cores, "threads": 1, "delegate": "XNNPACK", "system": platform.platform(),
                        "versions": pipeline.versions()},
        "stages": {name: {key: record[key] for key in ("settings", "wall_seconds", "sha256", "metrics")}
                   for name in ("dataset", "original", "pruned", "dynamic", "int8", "float16")
                   if (record := pipeline.read_record(models_dir, name))},
        "seed": seed,
        "models": rows,
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Measures, prints and writes; or draws overlays, or profiles. Returns the exit code."""
    arguments = parse(argv)
    models_dir = arguments.models_dir
    if arguments.image:
        write_overlays(arguments.image, arguments.model or pipeline.artifact_path(models_dir, "int8"))
        return 0
    if arguments.profile:
        pipeline.say(profile(models_dir, arguments.seed))
        return 0
    apart = ("max_drop", "max_latency_ms", "max_bytes", "min_mean_iou", "image", "model", "profile")
    stage = pipeline.Stage(__file__, arguments, *apart)
    for name in ("dataset", "original", "pruned", "dynamic", "int8", "float16"):
        stage.inputs[name] = pipeline.read_record(models_dir, name)["sha256"]  # a stale one is a marked row
    path = pipeline.artifact_path(models_dir, "evaluation")
    up_to_date = arguments.if_needed and stage.up_to_date("evaluation")
    evaluation = json.loads(path.read_text()) if up_to_date else evaluate(stage, arguments.seed)
    if not up_to_date or not (models_dir / "report.html").exists():
        write_csv(models_dir / "evaluation.csv", flat_rows(evaluation))
        write_report(models_dir, evaluation)
    if not up_to_date:  # last: whether all this is up to date is asked of evaluation.json
        with stage.new_artifact("evaluation", {}) as temporary:
            temporary.write_text(json.dumps(evaluation, indent=1) + "\n")
    pipeline.say("\n" + format_table(evaluation))
    pipeline.say(f"\n{path} and report.html beside it have it all; {stage.seconds():.0f} s")
    broken = broken_limits(arguments, evaluation)
    for line in broken:
        pipeline.say(f"FAILED: {line}")
    return 1 if broken else 0


if __name__ == "__main__":
    pipeline.run(main)
