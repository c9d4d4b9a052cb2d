"""The same trained network in LiteRT, ONNX Runtime and OpenVINO, float32 and int8, in one run.

    pip install -r tests/benchmarks/requirements.txt
    python tests/benchmarks/against_other_runtimes.py --models-dir models

All are made from models/pruned_model.h5 with the same calibration images and take turns, one run each. ONNX Runtime:
static int8, per channel, uint8 activations, its own graph optimisation before. OpenVINO: NNCF's post-training int8, latency
hint. Times are of the inference call alone; mean IoU is of the validation split. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pipeline  # first: it sets what TensorFlow reads at import
import evaluation
import quantization
import training
from data_preparation import load_split

import tensorflow as tf

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

WARM_UP_RUNS = 10
Run = Callable[[np.ndarray], np.ndarray]  # an image (1, size, size, 3) to logits: float32 in 0..1, or uint8 for LiteRT int8


def write_onnx(model: Any, path: Path) -> None:
    """The Keras model as ONNX, for one image."""
    size = model.input_shape[1]
    signature = [tf.TensorSpec((1, size, size, 3), tf.float32, name="image")]
    function = tf.function(lambda image: model(image, training=False), input_signature=signature)
    tf2onnx.convert.from_function(function, input_signature=signature, opset=17, output_path=str(path))


def quantise_onnx(path: Path, calibration: np.ndarray) -> Path:
    """ONNX Runtime's static quantisation, as its documentation recommends it for x86: QDQ, per channel, uint8 x int8."""

    class Reader(onnx_quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.left, None)
            return None if image is None else {"image": image[None]}

    ready, result = path.with_suffix(".ready.onnx"), path.with_suffix(".int8.onnx")
    onnx_quantization.quant_pre_process(str(path), str(ready), skip_symbolic_shape=True)
    onnx_quantization.quantize_static(
        str(ready), str(result), Reader(), per_channel=True, quant_format=onnx_quantization.QuantFormat.QDQ,
        activation_type=onnx_quantization.QuantType.QUInt8, weight_type=onnx_quantization.QuantType.QInt8,
        calibrate_method=onnx_quantization.CalibrationMethod.MinMax)  # fmt: skip
    return result


def litert(content: bytes, threads: int) -> Run:
    """A LiteRT file."""
    interpreter = quantization.Interpreter(model_content=content, num_threads=threads)
    interpreter.allocate_tensors()
    slot, output = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(image: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(slot, image)
        interpreter.invoke()
        return interpreter.get_tensor(output)

    return run


def onnx(path: Path, threads: int) -> Run:
    """An ONNX file in ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"image": image})[0]


def intel(model: Any, threads: int) -> Run:
    """An OpenVINO model."""
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()

    def run(image: np.ndarray) -> np.ndarray:
        request.infer([image], share_inputs=True, share_outputs=True)
        return request.get_output_tensor(0).data

    return run


def as_input(key: tuple[str, str], image: np.ndarray) -> np.ndarray:
    """A uint8 image (1, size, size, 3) as a runtime takes it; LiteRT's int8 file takes the bytes themselves."""
    return image if key == ("LiteRT", "int8") else image.astype(np.float32) / 255


def mean_iou(key: tuple[str, str], run: Run, images: np.ndarray, masks: np.ndarray) -> float:
    """Over a split of uint8 images."""
    guesses = np.stack([run(as_input(key, image[None]))[0].argmax(-1) for image in images])
    return float(training.iou_per_class(training.confusion_matrix(masks, guesses).sum(axis=0)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models-dir", type=Path, default=pipeline.MODELS_DIR)
    parser.add_argument("--runs", type=int, default=200, help="of each, per number of threads (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    arguments = parser.parse_args()
    if MISSING:
        raise pipeline.UserError(f"{MISSING.name} is not installed; pip install -r tests/benchmarks/requirements.txt")
    model = training.load_model(arguments.models_dir, "pruned")
    images, masks = load_split(arguments.models_dir, "validation")
    _, calibration = quantization.calibration_sample(arguments.models_dir, quantization.CALIBRATION_IMAGES, pipeline.SEED)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(model, path)
        onnx_int8 = quantise_onnx(path, calibration)
        openvino_float = openvino.convert_model(str(path))
        data = nncf.Dataset([image[None] for image in calibration])
        openvino_int8 = nncf.quantize(openvino.convert_model(str(path)), data, preset=nncf.QuantizationPreset.MIXED,
                                      subset_size=len(calibration))  # fmt: skip
        openvino.save_model(openvino_float, Path(folder) / "float.xml", compress_to_fp16=False)
        openvino.save_model(openvino_int8, Path(folder) / "int8.xml", compress_to_fp16=False)
        files = {variant: quantization.convert(model, variant, calibration) for variant in ("float32", "int8")}
        sizes = {("LiteRT", variant): len(content) for variant, content in files.items()}
        sizes |= {("ONNX Runtime", "float32"): path.stat().st_size, ("ONNX Runtime", "int8"): onnx_int8.stat().st_size}
        for variant, name in (("float32", "float"), ("int8", "int8")):
            sizes["OpenVINO", variant] = sum((Path(folder) / f"{name}{end}").stat().st_size for end in (".xml", ".bin"))
        accuracy: dict[tuple[str, str], float] = {}
        for threads in (1, 2):
            runs = {("LiteRT", "float32"): litert(files["float32"], threads), ("LiteRT", "int8"): litert(files["int8"], threads),
                    ("ONNX Runtime", "float32"): onnx(path, threads), ("ONNX Runtime", "int8"): onnx(onnx_int8, threads),
                    ("OpenVINO", "float32"): intel(openvino_float, threads),
                    ("OpenVINO", "int8"): intel(openvino_int8, threads)}  # fmt: skip
            accuracy = accuracy or {key: mean_iou(key, run, images, masks) for key, run in runs.items()}
            given, times = {key: as_input(key, images[:1]) for key in runs}, {key: [] for key in runs}
            for turn in range(WARM_UP_RUNS + arguments.runs):
                for key, run in runs.items():
                    started = time.perf_counter()
                    run(given[key])
                    if turn >= WARM_UP_RUNS:
                        times[key].append(1e3 * (time.perf_counter() - started))
            ours = np.median(times["LiteRT", "int8"])
            for key, values in times.items():
                rows.append({"runtime": key[0], "precision": key[1], "threads": threads, "median_ms": float(np.median(values)),
                             "p90_ms": float(np.percentile(values, 90)), "over_litert_int8": float(np.median(values) / ours),
                             "bytes": sizes[key], "validation_mean_iou": accuracy[key]})  # fmt: skip
    versions = pipeline.versions() | {each.__name__: each.__version__ for each in (onnxruntime, openvino, nncf, tf2onnx)}
    pipeline.say(f"{evaluation.cpu_name()}; onnxruntime {versions['onnxruntime']}, openvino {versions['openvino']}, "
                 f"nncf {versions['nncf']}, ai-edge-litert {versions['ai-edge-litert']}")  # fmt: skip
    pipeline.say("| runtime | precision | threads | median ms | p90 ms | time over LiteRT int8 | MB | validation mean IoU |")
    pipeline.say("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        pipeline.say(f"| {row['runtime']} | {row['precision']} | {row['threads']} | {row['median_ms']:.2f} | "
                     f"{row['p90_ms']:.2f} | {row['over_litert_int8']:.2f} | {row['bytes'] / 1e6:.2f} | "
                     f"{row['validation_mean_iou']:.4f} |")  # fmt: skip
    if arguments.json:
        pipeline.write_json(arguments.json, {"cpu": evaluation.cpu_name(), "versions": versions, "rows": rows})


if __name__ == "__main__":
    pipeline.run(main)
