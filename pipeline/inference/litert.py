"""Open and run .tflite files with LiteRT."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from pipeline.base.artifacts import fault_beside, remedy
from pipeline.base.console import UserError, silenced
from pipeline.base.system import Died, in_own_process, limit_address_space

TRIAL_SECONDS = 60  # time limit for the trial of an unknown file, start of the process included
TRIAL_BYTES = 8 << 30  # address space of that process; a damaged shape can ask for any amount
# What LiteRT raises for a file that it cannot run. ValueError: no flatbuffer of the right kind, a
# name that is no UTF-8. RuntimeError: an operator rejects its tensors.
REFUSALS = (ValueError, RuntimeError, MemoryError)


def open_interpreter(path: Path, threads: int = 1, made_here: bool = False) -> Interpreter:
    """Opens a .tflite file in LiteRT with its default delegate, XNNPACK; tensors are allocated.

    LiteRT does not validate a file: a damaged or hostile one can crash the process. So a file that
    has no record, or differs from it, first runs once in a separate process (see `try_out`).

    Args:
        threads: threads of the interpreter.
        made_here: this process wrote the file; it is trusted although it has no record yet.

    Raises:
        UserError: the file is missing, is no .tflite file, or cannot be run.
    """
    if not path.exists():
        raise UserError(f"{path} is missing; {remedy(path)}")
    # A child process of the pipeline starts after its parent has tried the file.
    if not made_here and multiprocessing.parent_process() is None and fault_beside(path):
        status = path.stat()
        try_out(path, status.st_size, status.st_mtime_ns)
    try:
        return load_interpreter(path, threads)
    except REFUSALS as error:
        raise refusal(path, error) from None


@functools.cache
def try_out(path: Path, size: int, modified: int) -> None:
    """Opens and runs a file in a separate process, to see whether it crashes or hangs.

    Takes 0.22 s on one core of 2.6 GHz, nearly all of it for the start of Python. The result is
    cached: one trial per file, as long as size and time of modification stay the same.

    Args:
        size, modified: the file's size in bytes and modification time in ns; keys of the cache.

    Raises:
        UserError: the process crashed or timed out, or LiteRT refuses the file.
    """
    try:
        in_own_process(run_once, path, seconds=TRIAL_SECONDS)
    except (Died, TimeoutError) as error:
        fault = (
            "crashes on it" if isinstance(error, Died) else f"takes over {TRIAL_SECONDS} s for it"
        )
        raise UserError(f"{path} cannot be run: LiteRT {fault}; {remedy(path)}") from None


def run_once(path: Path) -> None:
    """Opens a file and runs it on random input; the part of `try_out` in the separate process.

    Raises:
        UserError: LiteRT refuses the file.
    """
    limit_address_space(TRIAL_BYTES)
    random = np.random.default_rng(0)
    try:
        interpreter = load_interpreter(path)
        with silenced():
            for tensor in interpreter.get_input_details():
                noise = 255 * random.random(tensor["shape"], np.float32)
                interpreter.set_tensor(tensor["index"], noise.astype(tensor["dtype"]))
            interpreter.invoke()
            for tensor in interpreter.get_output_details():
                interpreter.get_tensor(tensor["index"])
    except REFUSALS as error:
        raise refusal(path, error) from None


def refusal(path: Path, error: Exception) -> UserError:
    """The one-line error for a file that LiteRT refused with `error`."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(f"{path} cannot be read as a .tflite file ({reason}); {remedy(path)}")


def load_interpreter(source: Path | bytes, threads: int = 1) -> Interpreter:
    """Opens a trusted file, or its content, in this process; raises REFUSALS."""
    with silenced():
        if isinstance(source, bytes):
            interpreter = Interpreter(model_content=source, num_threads=threads)
        else:
            interpreter = Interpreter(model_path=str(source), num_threads=threads)
        interpreter.allocate_tensors()
    return interpreter


def set_image(interpreter: Interpreter, image: np.ndarray) -> None:
    """Sets the input of an interpreter to one uint8 image (height, width, 3).

    The pixel is converted to the input's type: uint8 as it is, int8 less 128, float32 divided by
    255. Scale and zero point are not read: `verify.check_input` has checked that they agree.
    """
    tensor = interpreter.get_input_details()[0]
    if tensor["dtype"] == np.float32:
        image = image.astype(np.float32) / 255
    elif tensor["dtype"] == np.int8:
        image = (image.astype(np.int16) - 128).astype(np.int8)
    interpreter.set_tensor(tensor["index"], image[None])


class TfliteModel:
    """A .tflite file in an interpreter, behind the face of `iou.Model`."""

    batch = 1

    def __init__(self, interpreter: Interpreter) -> None:
        image, output = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        self.interpreter, self.output = interpreter, output
        self.image_shape = tuple(map(int, image["shape"][1:]))
        self.scores_shape = tuple(map(int, output["shape"][1:]))

    def scores(self, image: np.ndarray) -> np.ndarray:
        """See `iou.Model`."""
        self.timed(image)()
        return self.interpreter.get_tensor(self.output["index"])[0]

    def logits(self, images: np.ndarray) -> np.ndarray:
        """See `iou.Model`."""
        scores = np.stack([self.scores(image) for image in images])
        if scores.dtype == np.float32:
            return scores
        scale, zero_point = self.output["quantization"]
        return (scores.astype(np.float32) - zero_point) * np.float32(scale)

    def class_maps(self, images: np.ndarray) -> np.ndarray:
        """See `iou.Model`."""
        # A quantised output has one scale for all classes, so argmax needs no real values.
        return np.stack([self.scores(image).argmax(-1) for image in images])

    def timed(self, image: np.ndarray) -> Callable[[], Any]:
        """See `iou.Model`."""
        set_image(self.interpreter, image)
        return self.interpreter.invoke
