""".tflite files run: interpreters, predictions, and the operators in them."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from pipeline.base.artifacts import is_recorded, remedy
from pipeline.base.console import UserError, silenced
from pipeline.base.system import Died, cores, in_own_process, limit_address_space
from pipeline.inference.litert_private import operator_details

CONVOLUTIONS = ("CONV_2D", "TRANSPOSE_CONV")  # that mix channels
TRIAL_SECONDS = 60  # for a file of somebody else, with the start of the process that tries it
TRIAL_BYTES = 8 << 30  # of address space for that process; a damaged shape can ask for any size


def open_interpreter(path: Path, threads: int = 1, made_here: bool = False) -> Interpreter:
    """A LiteRT interpreter, ready to run, with XNNPACK as by default.

    LiteRT trusts a file: a damaged or hostile one can crash the process. So a file that is not
    what its record says is first tried in a process of its own, once (see `try_out`).

    Args:
        made_here: this process wrote the file: it need not be tried, and has no record yet.

    Raises:
        UserError: the file is missing, no .tflite file, or cannot be run.
    """
    if not path.exists():
        raise UserError(f"{path} is missing; {remedy(path)}")
    # A process of ours that was started for a file was started after the file was tried.
    if not made_here and multiprocessing.parent_process() is None and not is_recorded(path):
        status = path.stat()
        try_out(path, status.st_size, status.st_mtime_ns)
    return opened(path, threads)


@functools.cache
def try_out(path: Path, size: int, modified: int) -> None:
    """Opens and runs a file in a process of its own, once for each that has this size and time.

    That takes 0.22 s on one core of 2.6 GHz, nearly all of it the start of Python.

    Raises:
        UserError: the process crashed or hung, or LiteRT refuses the file.
    """
    try:
        in_own_process(run_once, path, seconds=TRIAL_SECONDS)
    except (Died, TimeoutError) as error:
        how = "crashes on it" if isinstance(error, Died) else f"takes over {TRIAL_SECONDS} s for it"
        raise UserError(f"{path} cannot be run: LiteRT {how}; {remedy(path)}") from None


def run_once(path: Path) -> None:
    """Opens a file and runs it on noise, for `try_out`; raises UserError if LiteRT refuses it."""
    limit_address_space(TRIAL_BYTES)
    interpreter = opened(path)
    random = np.random.default_rng(0)
    try:
        with silenced():
            for slot in interpreter.get_input_details():
                noise = 255 * random.random(slot["shape"], np.float32)
                interpreter.set_tensor(slot["index"], noise.astype(slot["dtype"]))
            interpreter.invoke()
            for slot in interpreter.get_output_details():
                interpreter.get_tensor(slot["index"])
    except (ValueError, RuntimeError, TypeError, MemoryError) as error:
        raise refused(path, error) from None


def refused(path: Path, error: Exception) -> UserError:
    """What is said of a file that LiteRT does not take."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(f"{path} cannot be read as a .tflite file ({reason}); {remedy(path)}")


def opened(path: Path, threads: int = 1) -> Interpreter:
    """An interpreter of a file that may be trusted; raises UserError if LiteRT refuses it."""
    try:
        with silenced():
            interpreter = Interpreter(model_path=str(path), num_threads=threads)
            interpreter.allocate_tensors()
        return interpreter
    except (ValueError, RuntimeError, TypeError, MemoryError) as error:
        raise refused(path, error) from None


def set_image(interpreter: Interpreter, image: np.ndarray) -> None:
    """Gives one uint8 image (height, width, 3) to an interpreter, in the type its input has."""
    slot = interpreter.get_input_details()[0]
    if slot["dtype"] == np.float32:
        image = image.astype(np.float32) / 255
    elif slot["dtype"] == np.int8:
        image = (image.astype(np.int16) - 128).astype(np.int8)
    interpreter.set_tensor(slot["index"], image[None])


def predict_tflite(interpreter: Interpreter, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Class indices (height, width) of uint8 images, one by one.

    Quantised outputs share one scale over all classes, so their largest is the largest logit.
    """
    output = interpreter.get_output_details()[0]["index"]
    for image in images:
        set_image(interpreter, image)
        interpreter.invoke()
        yield interpreter.get_tensor(output)[0].argmax(-1)


def logits_of(content: bytes, images: np.ndarray) -> np.ndarray:
    """Float32 logits (n, height, width, classes) of a .tflite file for uint8 images."""
    interpreter = Interpreter(model_content=content, num_threads=cores())
    interpreter.allocate_tensors()
    output = interpreter.get_output_details()[0]
    logits = []
    for image in images:
        set_image(interpreter, image)
        interpreter.invoke()
        logits.append(interpreter.get_tensor(output["index"])[0])
    if output["dtype"] == np.float32:
        return np.stack(logits)
    scale, zero_point = output["quantization"]
    return (np.stack(logits).astype(np.float32) - zero_point) * np.float32(scale)


@dataclass
class Operator:
    """An operator of a .tflite file."""

    kind: str  # as LiteRT calls it: CONV_2D
    tensor: str  # name of its output
    depth: int  # of a convolution: products per sum, kernel height x width x input channels; else 0
    limits: tuple[float, float] | None  # smallest and largest value of an int8 output, if it is

    @property
    def layer(self) -> str:
        """The Keras layer that it came from; of several fused ones, the convolution."""
        parts = self.tensor.split(";")[-1].split("/")  # network/layer/operation
        return parts[1] if len(parts) > 2 else self.kind.lower()


def operators(content: bytes) -> list[Operator]:
    """The operators of a .tflite file in the order of execution."""
    interpreter = Interpreter(model_content=content)
    tensors = {tensor["index"]: tensor for tensor in interpreter.get_tensor_details()}
    found = []
    for node in operator_details(interpreter):
        depth, limits = 0, None
        if node["op_name"] in CONVOLUTIONS:  # the kernel is input 1: (out, height, width, in)
            depth = int(np.prod(tensors[node["inputs"][1]]["shape"][1:]))
        output = tensors[node["outputs"][0]]
        if output["dtype"] == np.int8:
            scale, zero_point = output["quantization"]
            limits = scale * (-128 - zero_point), scale * (127 - zero_point)
        found.append(Operator(node["op_name"], output["name"], depth, limits))
    return found
