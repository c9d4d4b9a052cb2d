"""Activation ranges for int8: where 256 steps lose least of what flows between operators.

By mean squared error (Nagel et al. 2021, *A White Paper on Neural Network Quantization*): a range
that ends before the rarest values cuts these, and makes the steps of all others finer.
"""

from __future__ import annotations

from collections.abc import Iterator

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from pipeline.base.console import progress
from pipeline.base.system import cores
from pipeline.inference.litert_private import operator_details

Range = tuple[float, float]  # smallest and largest value

STEPS = 255  # between the 256 values of int8
VALUES = 20_000  # of each activation, from each image
SEED = 7  # of the random choice of values
BINS = 4096  # of the histogram of them: 16 to a step
CUTS = np.linspace(0.3, 1.0, 36)  # where a range may end, as shares of the extremes
PIXELS = (0.0, 1.0)  # range of the input, so that raw camera bytes go in unchanged
# Operators that give the values they take: int8 wants one range on both sides.
SAME_VALUES = (
    *("RESHAPE", "TRANSPOSE", "DEPTH_TO_SPACE", "MAX_POOL_2D"),
    *("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"),
)


def activation_ranges(content: bytes, images: np.ndarray) -> dict[str, Range]:
    """The range for int8 of each activation of a float32 .tflite file, by the tensor's name.

    Args:
        images: float32 (n, height, width, 3) in 0..1, for calibration.
    """
    interpreter = Interpreter(
        model_content=content,
        num_threads=cores(),
        # XNNPACK would keep what flows between its operators to itself.
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    tensors = {tensor["index"]: tensor for tensor in interpreter.get_tensor_details()}
    image = interpreter.get_input_details()[0]["index"]
    nodes = operator_details(interpreter)
    outputs = [index for node in nodes for index in node["outputs"]]
    floats = [index for index in outputs if tensors[index]["dtype"] == np.float32]

    def values() -> Iterator[tuple[int, np.ndarray]]:
        """Each activation, image by image."""
        for each in images:
            interpreter.set_tensor(image, each[None])
            interpreter.invoke()
            yield from ((index, interpreter.get_tensor(index).ravel()) for index in floats)
            bar.update()

    # How far values reach, then how often they are where: all of them would fill the memory.
    extremes = dict.fromkeys(floats, (0.0, 0.0))
    counts = dict.fromkeys(floats, 0)
    random = np.random.default_rng(SEED)
    with progress("activation ranges", 2 * len(images), "images") as bar:
        for index, each in values():
            low, high = extremes[index]
            extremes[index] = min(low, float(each.min())), max(high, float(each.max()))
        for index, each in values():
            if each.size > VALUES:
                each = each[random.integers(0, each.size, VALUES)]
            counts[index] += np.histogram(each, BINS, extremes[index])[0]
    ranges = {image: PIXELS}
    for node in nodes:
        source = node["inputs"][0]
        for index in node["outputs"]:
            if node["op_name"] in SAME_VALUES and source in ranges:
                ranges[index] = ranges[source]
            elif index in counts:
                ranges[index] = best_range(counts[index], extremes[index])
    return {tensors[index]["name"]: limits for index, limits in ranges.items()}


def best_range(counts: np.ndarray, extremes: Range) -> Range:
    """The range over which int8 has the least mean squared error.

    Args:
        counts: of values in equally wide bins between the extremes, between or at which is 0.
    """
    low, high = extremes
    if low == high:
        return extremes
    edges = np.linspace(low, high, len(counts) + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    highs = CUTS[:, None] * high if high > 0 else np.zeros((1, 1))
    best = np.inf, 0.0, 0.0
    for lowest in CUTS * low if low < 0 else [0.0]:
        step = (highs - lowest) / STEPS
        zero = np.round(-lowest / step)  # a whole step, as int8 has it
        rounded = np.clip(np.round(middles / step) + zero, 0, STEPS) - zero
        errors = ((rounded * step - middles) ** 2) @ counts
        least = int(errors.argmin())
        best = min(best, (errors[least], lowest, highs[least, 0]))
    return float(best[1]), float(best[2])


def with_ranges(content: bytes, ranges: dict[str, Range]) -> bytes:
    """A calibrated .tflite file, float32 with ranges, with other ranges for these tensors."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for tensor in model.subgraphs[0].tensors:
        name = tensor.name.decode()
        if name in ranges:
            tensor.quantization.min, tensor.quantization.max = ([end] for end in ranges[name])
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
