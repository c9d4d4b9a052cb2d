"""The same network in LiteRT, ONNX Runtime and OpenVINO, in float32 and int8, in one run.

    pip install -r tests/benchmarks/requirements.txt
    python tests/benchmarks/against_other_runtimes.py                   (models/pruned_model.h5)
    python tests/benchmarks/against_other_runtimes.py --model original --json record.json

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
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import quantization
from pipeline import console, flags, litert, metrics, packages, timing
from pipeline.artifacts import MODELS_DIR, SEED, command, write_json
from pipeline.conversion import calibration_sample, convert
from pipeline.dataset import load_split
from pipeline.keras_models import load_model

try:
    import nncf
    import onnxruntime
    import openvino
    import tf2onnx
    from onnxruntime import quantization as onnx_quantization
except ImportError as missing:
    MISSING: ImportError | None = missing
else:
    MISSING = None

THREADS = (1, 2)
RUNS = 200  # timed, of each network and number of threads
TURN_RUNS = 20  # timed runs in a turn
WARM_UP_RUNS = 5  # before those, in every turn
PAUSE_SECONDS = 0.05
ONNX_OPSET = 17
OURS = ("LiteRT", "int8")  # the others' times are printed as multiples of its time

Key = tuple[str, str]  # runtime and precision


class Network(NamedTuple):
    """A network that is ready to run."""

    give: Callable[[np.ndarray], Any]  # a uint8 image (size, size, 3)
    invoke: Callable[[], Any]
    logits: Callable[[], np.ndarray]  # (1, size, size, classes)


# --- conversion -----------------------------------------------------------------------------


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps what the converters print off the terminal; exceptions come through."""
    nowhere = io.StringIO()
    with (
        console.silenced(),
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def quantise_onnx(source: Path, path: Path, calibration: np.ndarray) -> None:
    """Writes ONNX Runtime's static int8 form of an ONNX file."""
    name = onnxruntime.InferenceSession(str(source)).get_inputs()[0].name

    class Reader(onnx_quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.left, None)
            return None if image is None else {name: image[None]}

    prepared = path.with_suffix(".prepared.onnx")
    onnx_quantization.quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    onnx_quantization.quantize_static(
        str(prepared),
        str(path),
        Reader(),
        quant_format=onnx_quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=onnx_quantization.QuantType.QUInt8,
        weight_type=onnx_quantization.QuantType.QInt8,
    )


def convert_all(model: Any, folder: Path, calibration: np.ndarray) -> dict[Key, Path]:
    """Writes the network in every form.

    Returns:
        The file of each runtime and precision; of OpenVINO, which writes two, the .xml file.
    """
    names = {"LiteRT": "{}.tflite", "ONNX Runtime": "{}.onnx", "OpenVINO": "{}.xml"}
    files = {
        (runtime, precision): folder / name.format(precision)
        for precision in ("float32", "int8")
        for runtime, name in names.items()
    }
    for precision in ("float32", "int8"):
        files["LiteRT", precision].write_bytes(convert(model, precision, calibration))
    source = str(files["LiteRT", "float32"])
    onnx = files["ONNX Runtime", "float32"]
    with quiet():
        tf2onnx.convert.from_tflite(source, opset=ONNX_OPSET, output_path=str(onnx))
        quantise_onnx(onnx, files["ONNX Runtime", "int8"], calibration)
        plain = openvino.convert_model(source)
        openvino.save_model(plain, files["OpenVINO", "float32"], compress_to_fp16=False)
        images = nncf.Dataset([image[None] for image in calibration])
        small = nncf.quantize(plain, images, subset_size=len(calibration))
        openvino.save_model(small, files["OpenVINO", "int8"], compress_to_fp16=False)
    return files


# --- runtimes -------------------------------------------------------------------------------


def as_float(image: np.ndarray) -> np.ndarray:
    """A uint8 image as a batch of one in 0..1."""
    return image[None].astype(np.float32) / 255


def open_litert(path: Path, threads: int) -> Network:
    """A .tflite file."""
    interpreter = litert.open_interpreter(path, threads)
    output = interpreter.get_output_details()[0]["index"]
    return Network(
        give=lambda image: litert.set_image(interpreter, image),
        invoke=interpreter.invoke,
        logits=lambda: interpreter.get_tensor(output),
    )


def open_onnx(path: Path, threads: int) -> Network:
    """An ONNX file in ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    source, result = session.get_inputs()[0], session.get_outputs()[0]
    held = [
        onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(end.shape, np.float32))
        for end in (source, result)
    ]
    binding = session.io_binding()
    binding.bind_ortvalue_input(source.name, held[0])
    binding.bind_ortvalue_output(result.name, held[1])
    return Network(
        give=lambda image: held[0].update_inplace(as_float(image)),
        invoke=lambda: session.run_with_iobinding(binding),
        logits=lambda: held[1].numpy(),
    )


def open_openvino(path: Path, threads: int, floats: str | None = None) -> Network:
    """An OpenVINO file.

    Args:
        floats: the type that it computes in where it is not int8; None: as OpenVINO sees fit.
    """
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    settings |= {"INFERENCE_PRECISION_HINT": floats} if floats else {}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    request = compiled.create_infer_request()
    slot = request.get_input_tensor().data  # a view of the runtime's own memory
    return Network(
        give=lambda image: np.copyto(slot, as_float(image)),
        invoke=request.infer,
        logits=lambda: request.get_output_tensor().data,
    )


def open_all(files: dict[Key, Path], threads: int) -> dict[Key, Network]:
    """Every file in its runtime.

    And the float32 one in bfloat16 too, if OpenVINO would do so unasked.
    """
    networks = {}
    for (runtime, precision), path in files.items():
        if runtime == "LiteRT":
            network = open_litert(path, threads)
        elif runtime == "ONNX Runtime":
            network = open_onnx(path, threads)
        else:
            network = open_openvino(path, threads, "f32" if precision == "float32" else None)
        networks[runtime, precision] = network
    if openvino.Core().get_property("CPU", "INFERENCE_PRECISION_HINT") == openvino.Type.bf16:
        networks["OpenVINO", "bfloat16"] = open_openvino(files["OpenVINO", "float32"], threads)
    return networks


# --- measurement ----------------------------------------------------------------------------


def time_networks(
    networks: dict[Key, Network], image: np.ndarray, runs: int
) -> dict[Key, list[float]]:
    """Milliseconds of each timed run of each network."""
    times: dict[Key, list[float]] = {key: [] for key in networks}
    for network in networks.values():
        network.give(image)
    while len(times[OURS]) < runs:
        for key, network in networks.items():
            time.sleep(PAUSE_SECONDS)
            for run in range(WARM_UP_RUNS + min(TURN_RUNS, runs - len(times[key]))):
                started = time.perf_counter()
                network.invoke()
                if run >= WARM_UP_RUNS:
                    times[key].append(1e3 * (time.perf_counter() - started))
    return times


def mean_iou(network: Network, images: np.ndarray, masks: np.ndarray) -> float:
    """Over a split of uint8 images."""
    counts = 0
    for image, mask in zip(images, masks):
        network.give(image)
        network.invoke()
        logits = network.logits()[0]
        counts += metrics.class_counts(mask[None], logits.argmax(-1)[None], logits.shape[-1])[0]
    return float(metrics.mean_iou(metrics.iou_per_class(counts)))


def stored_bytes(path: Path) -> int:
    """Size of a model's file; OpenVINO keeps the weights in a .bin file beside the .xml file."""
    weights = path.with_suffix(".bin")
    return path.stat().st_size + (weights.stat().st_size if path.suffix == ".xml" else 0)


def markdown(record: dict[str, Any]) -> str:
    """The table of a run."""
    lines = [
        "| runtime | precision | threads | median ms | p90 ms | times LiteRT int8 | MB "
        "| validation mean IoU |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in record["rows"]:
        cells = [
            row["runtime"],
            row["precision"],
            str(row["threads"]),
            f"{row['median_ms']:.2f}",
            f"{row['p90_ms']:.2f}",
            f"{row['times_litert_int8']:.2f}",
            f"{row['bytes'] / 1e6:.2f}",
            f"{row['validation_mean_iou']:.4f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def measure(
    files: dict[Key, Path], images: np.ndarray, masks: np.ndarray, runs: int
) -> list[dict[str, Any]]:
    """A row for each network and number of threads."""
    rows: list[dict[str, Any]] = []
    accuracy: dict[Key, float] = {}
    for threads in THREADS:
        networks = open_all(files, threads)
        times = time_networks(networks, images[0], runs)
        accuracy = accuracy or {
            key: mean_iou(each, images, masks) for key, each in networks.items()
        }
        for (runtime, precision), values in times.items():
            median, ours = float(np.median(values)), float(np.median(times[OURS]))
            path = files[runtime, precision.replace("bfloat16", "float32")]
            row = {
                "runtime": runtime,
                "precision": precision,
                "threads": threads,
                "median_ms": median,
                "p90_ms": float(np.percentile(values, 90)),
                "times_litert_int8": median / ours,
                "bytes": stored_bytes(path),
                "validation_mean_iou": accuracy[runtime, precision],
            }
            rows.append(row)
    return rows


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
        type=flags.bounded(int, 1),
        default=RUNS,
        help="timed, of each, per number of threads (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures here as well")
    arguments = parser.parse_args()
    if MISSING:
        remedy = "pip install -r tests/benchmarks/requirements.txt"
        raise console.UserError(f"{MISSING.name} is missing; {remedy}")
    models_dir = arguments.models_dir
    model = load_model(models_dir, arguments.model)
    images, masks = load_split(models_dir, "validation")
    size = images.shape[1]
    if model.input_shape[1] != size:
        raise console.UserError(
            f"the model takes {model.input_shape[1]} pixels, the data set has {size}; "
            f"make it anew with: {command(arguments.model, models_dir)}"
        )
    number = quantization.CALIBRATION_IMAGES
    _, calibration = calibration_sample(models_dir, number, arguments.seed)

    with tempfile.TemporaryDirectory() as folder:
        files = convert_all(model, Path(folder), calibration)
        rows = measure(files, images, masks, arguments.runs)
    ours = packages.versions()
    versions = {name: ours[name] for name in ("ai-edge-litert", "tensorflow", "numpy")}
    others = (onnxruntime, openvino, nncf, tf2onnx)
    versions |= {each.__name__: each.__version__.split("-")[0] for each in others}
    about = {
        "model": f"{model.name}, {arguments.model}",
        "pixels": size,
        "cpu": timing.cpu_name(),
        "cores": os.cpu_count(),
        "threads": list(THREADS),
        "runs": arguments.runs,
        "calibration_images": len(calibration),
        "validation_images": len(images),
        "versions": versions,
    }

    console.say(
        f"{about['model']}, {size} pixels; {about['cpu']}, {about['cores']} cores; medians of "
        f"{arguments.runs} runs; {len(calibration)} calibration and {len(images)} validation images"
    )
    console.say(", ".join(f"{name} {version}" for name, version in versions.items()) + "\n")
    console.say(markdown({"rows": rows}))
    if arguments.json:
        write_json(arguments.json, about | {"rows": rows})


if __name__ == "__main__":
    console.run(main)
