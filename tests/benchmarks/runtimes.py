"""A network as files of LiteRT, ONNX Runtime and OpenVINO, and these files ready to run."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.base import console
from pipeline.evaluation import memory_plan
from pipeline.inference import litert
from pipeline.inference.tflite_files import weight_counts
from pipeline.quantization.convert import convert

try:
    with console.silenced():  # they load TensorFlow
        import nncf
        import onnxruntime
        import openvino
        import tf2onnx
        from onnxruntime import quantization as onnx_quantization
except ImportError as missing:
    MISSING: ImportError | None = missing
else:
    MISSING = None

ONNX_OPSET = 17


class File(NamedTuple):
    """A network as one runtime takes it."""

    network: str  # its name
    runtime: str
    precision: str
    path: Path  # of OpenVINO, which has two, the .xml file
    parameters: int
    multiply_accumulates: int  # per image


class Network(NamedTuple):
    """A network that is ready to run."""

    give: Callable[[np.ndarray], Any]  # a uint8 image (height, width, 3)
    invoke: Callable[[], Any]
    output: Callable[[], np.ndarray]  # of ours, logits (1, height, width, classes)


def versions() -> dict[str, str]:
    """Of the packages that only this benchmark needs."""
    found = (onnxruntime, openvino, nncf, tf2onnx)
    return {each.__name__: each.__version__.split("-")[0] for each in found}


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


def convert_litert(model: Any, name: str, folder: Path, calibration: np.ndarray) -> list[File]:
    """Writes a Keras model as .tflite files: float32 and int8."""
    paths = {precision: folder / f"{precision}.tflite" for precision in ("float32", "int8")}
    for precision, path in paths.items():
        path.write_bytes(convert(model, precision, calibration))
    source = paths["float32"]
    counts = (
        weight_counts(source)[0],
        memory_plan.plan(source.read_bytes()).multiply_accumulates,
    )
    return [File(name, "LiteRT", precision, path, *counts) for precision, path in paths.items()]


def convert_all(model: Any, name: str, folder: Path, calibration: np.ndarray) -> list[File]:
    """Writes a Keras model in every form.

    Parameters and multiply-accumulates of all forms are those of the float32 .tflite file, where
    normalisation is folded into the convolutions.
    """
    files = convert_litert(model, name, folder, calibration)
    source, onnx = files[0].path, folder / "float32.onnx"
    with quiet():
        tf2onnx.convert.from_tflite(str(source), opset=ONNX_OPSET, output_path=str(onnx))
        quantise_onnx(onnx, folder / "int8.onnx", calibration)
        plain = openvino.convert_model(str(source))
        openvino.save_model(plain, folder / "float32.xml", compress_to_fp16=False)
        images = nncf.Dataset([image[None] for image in calibration])
        small = nncf.quantize(plain, images, subset_size=len(calibration))
        openvino.save_model(small, folder / "int8.xml", compress_to_fp16=False)
    for runtime, suffix in (("ONNX Runtime", ".onnx"), ("OpenVINO", ".xml")):
        files += [
            file._replace(runtime=runtime, path=file.path.with_suffix(suffix)) for file in files[:2]
        ]
    return files


def stored_bytes(path: Path) -> int:
    """Size of a model's file; OpenVINO keeps the weights in a .bin file beside the .xml file."""
    weights = path.with_suffix(".bin")
    return path.stat().st_size + (weights.stat().st_size if path.suffix == ".xml" else 0)


# --- runtimes -------------------------------------------------------------------------------


def as_batch(image: np.ndarray, shape: Any) -> np.ndarray:
    """A uint8 image as a batch of one in 0..1 of this shape: planar if its colours come first."""
    batch = image[None].astype(np.float32) / 255
    return batch.transpose(0, 3, 1, 2) if shape[1] == image.shape[-1] else batch


def open_litert(path: Path, threads: int) -> Network:
    """A .tflite file."""
    interpreter = litert.open_interpreter(path, threads)
    slot, output = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

    def give(image: np.ndarray) -> None:
        if slot["shape"][1] == image.shape[-1]:  # planar, which none of ours is
            interpreter.set_tensor(slot["index"], as_batch(image, slot["shape"]))
        else:
            litert.set_image(interpreter, image)

    return Network(
        give=give,
        invoke=interpreter.invoke,
        output=lambda: interpreter.get_tensor(output["index"]),
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
        give=lambda image: held[0].update_inplace(as_batch(image, source.shape)),
        invoke=lambda: session.run_with_iobinding(binding),
        output=lambda: held[1].numpy(),
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
        give=lambda image: np.copyto(slot, as_batch(image, slot.shape)),
        invoke=request.infer,
        output=lambda: request.get_output_tensor().data,
    )


def open_all(files: list[File], threads: int) -> dict[File, Network]:
    """Every file in its runtime; OpenVINO's float32 in bfloat16 too, if it would do so unasked."""
    networks = {}
    bfloat16 = openvino.Core().get_property("CPU", "INFERENCE_PRECISION_HINT") == openvino.Type.bf16
    for file in files:
        if file.runtime == "LiteRT":
            networks[file] = open_litert(file.path, threads)
        elif file.runtime == "ONNX Runtime":
            networks[file] = open_onnx(file.path, threads)
        elif file.precision == "float32":
            networks[file] = open_openvino(file.path, threads, "f32")
            if bfloat16:
                networks[file._replace(precision="bfloat16")] = open_openvino(file.path, threads)
        else:
            networks[file] = open_openvino(file.path, threads)
    return networks
