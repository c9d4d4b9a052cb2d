"""The same network in LiteRT, ONNX Runtime and OpenVINO, in float32 and int8, in one run.

    pip install -r tests/benchmarks/requirements.txt
    python tests/benchmarks/against_other_runtimes.py                   (models/pruned_model.h5)
    python tests/benchmarks/against_other_runtimes.py --model original --json record.json
    python tests/benchmarks/against_other_runtimes.py --peers DIR       (of peer_networks.py)
    python tests/benchmarks/against_other_runtimes.py --family DIR ...  (other trained networks)

All int8 forms are made here after training, from the same calibration images; a file that
`quantization.py --qat` wrote is not read. The others start from the float32 .tflite file: there
normalisation is folded into the convolutions already, and tf2onnx leaves one transposition at
either end (from the Keras function ONNX Runtime got 11 and was 6 % slower in int8).

Each runtime has the settings that its documentation recommends, or what proved faster on a
processor with AVX-512 VNNI:
ONNX Runtime    quant_pre_process, QDQ, int8 weights per channel, uint8 activations (S8S8 took 1.5
                times as long), all graph optimisation, input and output bound beforehand
OpenVINO        latency hint, NNCF's default preset (MIXED took 1.15 times as long); float32 is
                told to compute in float32, int8 leaves what is not int8 to OpenVINO's choice:
                bfloat16 where the processor has it. "bfloat16", printed only there, is what
                OpenVINO makes of the float32 network when nothing is said

Times are of the inference call alone. The networks take turns of TURN_RUNS runs; before each turn
a pause, in which the last one's waiting threads fall asleep, and runs that do not count. LiteRT's
int8 file takes the bytes of a photo, the others floats; the conversion is not timed. Mean IoU is
of the validation split: evaluation.py alone reads test. Takes about 2 minutes for the compact
network on an otherwise idle machine; for the classic one use --runs 40.

With --family networks that were trained on the same data in other folders, as by `training.py
--preset small --models-dir DIR`, take turns with these, in LiteRT alone.

With --peers the files of other networks take turns with these, with the same settings: what a user
would pick instead. They take planar floats. They were not trained, so that they have no mean IoU.
Ours end in logits at full size; so do they, but for YOLO in OpenVINO, whose own export ends in a
map of classes: its time includes the argmax. Multiply-accumulates are the products in convolutions
and dense layers; parameters, weights and biases once normalisation is folded in.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import runtimes
from runtimes import File, Network

import quantization
from pipeline.base import cli, console, lazy
from pipeline.base.artifacts import MODELS_DIR, command, read_record
from pipeline.base.cli import SEED
from pipeline.base.files import sha256, write_json
from pipeline.data.dataset import load_classes, load_split
from pipeline.evaluation import bootstrap, processor
from pipeline.inference import iou
from pipeline.inference.keras_files import load_model
from pipeline.quantization.convert import calibration_sample

THREADS = (1, 2)
RUNS = 200  # timed, of each network and number of threads
TURN_RUNS = 20  # timed runs in a turn
WARM_UP_RUNS = 5  # before those, in every turn
PAUSE_SECONDS = 0.05
OURS = ("LiteRT", "int8")  # the others' times are printed as multiples of this, of --models-dir


def read_peers(folder: Path, size: tuple[int, int], classes: int) -> tuple[dict, list[File]]:
    """What peer_networks.py left in a folder.

    Args:
        size: width and height of our pictures in pixels. classes: how many we tell apart.

    Returns:
        What it says of all its networks, and their files.

    Raises:
        UserError: the folder is not whole, or its networks are for other pictures or classes.
    """
    make = (
        f"python tests/benchmarks/peer_networks.py --folder {shlex.quote(str(folder))} "
        f"--image-size {size[0]}x{size[1]} --classes {classes}"
    )
    try:
        about = json.loads((folder / "peers.json").read_text(encoding="utf-8"))
        files = []
        for row in about.pop("networks"):
            for name, digest in row["files"].items():
                if sha256(folder / name) != digest:
                    raise ValueError(f"{name} was changed after it was made")
            path = folder / next(iter(row["files"]))
            known = (row["name"], row["runtime"], row["precision"], path)
            files.append(File(*known, row["parameters"], row["multiply_accumulates"]))
        width, height = about["image_size"]
        number = about["classes"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise console.UserError(
            f"{folder} is no whole folder of peer_networks.py ({error}); make it with: {make}"
        ) from None
    if (width, height, number) != (*size, classes):
        raise console.UserError(
            f"the networks in {folder} are for {width} x {height} pixels and {number} classes, the "
            f"data set has {size[0]} x {size[1]} and {classes}; make them anew with: {make}"
        )
    return about, files


def read_network(models_dir: Path, stage: str) -> tuple[str, Any]:
    """The network that `stage` left in a folder, as "compact_unet small" and as a model."""
    model = load_model(models_dir, stage)
    preset = read_record(models_dir, "original")["settings"].get("preset", "default")
    return f"{model.name} {preset}" if model.name == "compact_unet" else model.name, model


def read_family(folders: list[Path], stage: str, models_dir: Path) -> list[tuple[str, Any]]:
    """The networks of other folders, which must have learned from the data of `models_dir`.

    Raises:
        UserError: they learned from other data, or two networks have one name.
    """
    data = read_record(models_dir, stage)["inputs"]["dataset"]
    family = []
    for folder in folders:
        if read_record(folder, stage)["inputs"]["dataset"] != data:
            raise console.UserError(
                f"the network in {folder} learned from other data than that in {models_dir}; "
                f"make it anew with: {command(stage, folder)}"
            )
        family.append(read_network(folder, stage))
    names = [read_network(models_dir, stage)[0], *(name for name, _ in family)]
    if len(set(names)) < len(names):
        raise console.UserError(
            f"two networks have one name ({', '.join(names)}); give --family other presets"
        )
    return family


# --- measurement ----------------------------------------------------------------------------


def time_networks(
    networks: dict[File, Network], image: np.ndarray, runs: int
) -> dict[File, list[float]]:
    """Milliseconds of each timed run of each network."""
    times: dict[File, list[float]] = {file: [] for file in networks}
    for network in networks.values():
        network.give(image)
    while min(map(len, times.values())) < runs:
        for file, network in networks.items():
            time.sleep(PAUSE_SECONDS)
            for run in range(WARM_UP_RUNS + min(TURN_RUNS, runs - len(times[file]))):
                started = time.perf_counter()
                network.invoke()
                if run >= WARM_UP_RUNS:
                    times[file].append(1e3 * (time.perf_counter() - started))
    return times


def judge(network: Network, images: np.ndarray, masks: np.ndarray) -> dict[str, Any]:
    """Mean IoU over a split of uint8 images, with its 95 % interval over them."""
    counts = []
    for image, mask in zip(images, masks):
        network.give(image)
        network.invoke()
        logits = network.output()[0]
        counts += [iou.class_counts(mask[None], logits.argmax(-1)[None], logits.shape[-1])[0]]
    found = iou.mean_iou(iou.iou_per_class(np.sum(counts, axis=0)))
    samples = bootstrap.bootstrap_mean_iou({"network": np.array(counts)}, SEED)["network"]
    return {"validation_mean_iou": float(found), "mean_iou_interval": bootstrap.interval(samples)}


def measure(
    ours: list[File], peers: list[File], images: np.ndarray, masks: np.ndarray, runs: int
) -> list[dict[str, Any]]:
    """A row for each network and number of threads; `ours` begins with that of --models-dir."""
    rows: list[dict[str, Any]] = []
    accuracy: dict[File, dict[str, Any]] = {}
    yardstick = next(file for file in ours if (file.runtime, file.precision) == OURS)
    trained = {file.network for file in ours}
    for threads in THREADS:
        networks = runtimes.open_all([*ours, *peers], threads)
        times = time_networks(networks, images[0], runs)
        accuracy = accuracy or {
            file: judge(network, images, masks)
            for file, network in networks.items()
            if file.network in trained
        }
        for file, values in times.items():
            median = float(np.median(values))
            row = {
                "network": file.network,
                "runtime": file.runtime,
                "precision": file.precision,
                "threads": threads,
                "median_ms": median,
                "p90_ms": float(np.percentile(values, 90)),
                "times_our_litert_int8": median / float(np.median(times[yardstick])),
                "bytes": runtimes.stored_bytes(file.path),
                "parameters": file.parameters,
                "multiply_accumulates": file.multiply_accumulates,
            }
            rows.append(row | accuracy.get(file, {"validation_mean_iou": None}))
    return rows


# --- the table ------------------------------------------------------------------------------


class Column(NamedTuple):
    """A column of the table; a record whose rows lack the key does not have it."""

    title: str
    key: str
    text: Callable[[Any], str]


WORDS = (
    Column("network", "network", str),
    Column("runtime", "runtime", str),
    Column("precision", "precision", str),
)
NUMBERS = (
    Column("threads", "threads", str),
    Column("median ms", "median_ms", "{:.2f}".format),
    Column("p90 ms", "p90_ms", "{:.2f}".format),
    Column("times LiteRT int8", "times_litert_int8", "{:.2f}".format),  # of one network alone
    Column("times our LiteRT int8", "times_our_litert_int8", "{:.2f}".format),
    Column("MB", "bytes", lambda number: f"{number / 1e6:.2f}"),
    Column("M parameters", "parameters", lambda number: f"{number / 1e6:.2f}"),
    Column("M multiply-accumulates", "multiply_accumulates", lambda each: f"{each / 1e6:.0f}"),
    Column(
        "validation mean IoU",
        "validation_mean_iou",
        lambda value: "not trained" if value is None else f"{value:.4f}",
    ),
)


def markdown(record: dict[str, Any]) -> str:
    """The table of a run."""
    rows = record["rows"]
    columns = [column for column in (*WORDS, *NUMBERS) if column.key in rows[0]]
    table = [
        [column.title for column in columns],
        ["---" if column in WORDS else "---:" for column in columns],
        *([column.text(row[column.key]) for column in columns] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in table)


def main() -> None:
    """Converts, measures, prints the table, writes the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models-dir", type=Path, default=MODELS_DIR, metavar="DIR")
    parser.add_argument(
        "--model", choices=("original", "pruned"), default="pruned", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=SEED, help="of the calibration images (default: %(default)s)"
    )
    parser.add_argument(
        "--runs",
        type=cli.bounded(int, 1),
        default=RUNS,
        help="timed, of each, per number of threads (default: %(default)s)",
    )
    parser.add_argument(
        "--peers",
        type=Path,
        metavar="DIR",
        help="time the networks that peer_networks.py left here as well",
    )
    parser.add_argument(
        "--family",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="time the networks in these models folders as well; same data set",
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures here as well")
    arguments = parser.parse_args()
    if runtimes.MISSING:
        remedy = "pip install -r tests/benchmarks/requirements.txt"
        raise console.UserError(f"{runtimes.MISSING.name} is missing; {remedy}")
    models_dir = arguments.models_dir
    name, model = read_network(models_dir, arguments.model)
    family = read_family(arguments.family, arguments.model, models_dir)
    images, masks = load_split(models_dir, "validation")
    (height, width), (tall, wide) = images.shape[1:3], model.input_shape[1:3]
    if (tall, wide) != (height, width):
        raise console.UserError(
            f"the model takes {wide} x {tall} pixels, the data set has {width} x {height}; "
            f"make it anew with: {command(arguments.model, models_dir)}"
        )
    peers_about, peers = {}, []
    if arguments.peers:
        classes = len(load_classes(models_dir))
        peers_about, peers = read_peers(arguments.peers, (width, height), classes)
    number = quantization.CALIBRATION_IMAGES
    _, calibration = calibration_sample(models_dir, number, arguments.seed)

    with tempfile.TemporaryDirectory() as folder:
        ours = runtimes.convert_all(model, name, Path(folder), calibration)
        for member, network in family:
            place = Path(folder, member)
            place.mkdir()
            ours += runtimes.convert_litert(network, member, place, calibration)
        rows = measure(ours, peers, images, masks, arguments.runs)
    installed = lazy.versions()
    versions = {name: installed[name] for name in ("ai-edge-litert", "tensorflow", "numpy")}
    versions |= runtimes.versions()
    about = {
        "model": f"{name}, {arguments.model}",
        "image_size": [width, height],
        "cpu": processor.cpu_name(),
        "cores": os.cpu_count(),
        "threads": list(THREADS),
        "runs": arguments.runs,
        "calibration_images": len(calibration),
        "validation_images": len(images),
        "versions": versions,
    }
    about |= {"peers": peers_about} if peers else {}

    console.say(
        f"{about['model']}, {width} x {height} pixels; {about['cpu']}, {about['cores']} cores; "
        f"medians of {arguments.runs} runs; {len(calibration)} calibration and {len(images)} "
        "validation images"
    )
    console.say(", ".join(f"{name} {version}" for name, version in versions.items()))
    if peers:
        made = peers_about["versions"]
        console.say("peers: " + ", ".join(f"{name} {version}" for name, version in made.items()))
    console.say("\n" + markdown({"rows": rows}))
    if arguments.json:
        write_json(arguments.json, about | {"rows": rows})


if __name__ == "__main__":
    console.run(main)
