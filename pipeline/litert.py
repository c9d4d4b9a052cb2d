""".tflite files run: interpreters, predictions, and the operators in them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from pipeline.artifacts import remedy
from pipeline.console import UserError, silenced

CONVOLUTIONS = ("CONV_2D", "TRANSPOSE_CONV")  # that mix channels


def open_interpreter(path: Path, threads: int = 1) -> Interpreter:
    """A LiteRT interpreter, ready to run, with XNNPACK as by default.

    Raises:
        UserError: the file is missing, or no .tflite file.
    """
    if not path.exists():
        raise UserError(f"{path} is missing; {remedy(path)}")
    try:
        with silenced():
            interpreter = Interpreter(model_path=str(path), num_threads=threads)
            interpreter.allocate_tensors()
        return interpreter
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} cannot be read as a .tflite file ({reason}); {remedy(path)}"
        ) from None


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
    interpreter = Interpreter(model_content=content, num_threads=os.cpu_count())
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
    for node in interpreter._get_ops_details():  # LiteRT has no public call for this
        depth, limits = 0, None
        if node["op_name"] in CONVOLUTIONS:  # the kernel is input 1: (out, height, width, in)
            depth = int(np.prod(tensors[node["inputs"][1]]["shape"][1:]))
        output = tensors[node["outputs"][0]]
        if output["dtype"] == np.int8:
            scale, zero_point = output["quantization"]
            limits = scale * (-128 - zero_point), scale * (127 - zero_point)
        found.append(Operator(node["op_name"], output["name"], depth, limits))
    return found
