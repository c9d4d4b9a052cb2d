"""Activation ranges for int8 that minimise the mean squared error of rounding and clipping.

A range narrower than the extremes clips rare values and makes the steps for all others finer
(Nagel et al. 2021, *A White Paper on Neural Network Quantization*, section 3.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from pipeline.base.console import progress
from pipeline.base.system import cores
from pipeline.inference.tflite_files import packed, read_graph, tables

Range = tuple[float, float]  # smallest and largest real value

STEPS = 255  # steps between the 256 values of int8
VALUES = 20_000  # values drawn from each activation of each image for its histogram
SEED = 7  # of that draw
BINS = 4096  # bins of the histogram: 16 per step of int8
CUTS = np.linspace(0.3, 1.0, 36)  # candidate ends of a range, as fractions of the extremes
PIXELS = (0.0, 1.0)  # range of the input, so that uint8 pixels are valid input as they are
# Operators that copy values: int8 requires the same range for input and output.
SAME_VALUES = (
    *("RESHAPE", "TRANSPOSE", "DEPTH_TO_SPACE", "MAX_POOL_2D"),
    *("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"),
)


def activation_ranges(content: bytes, images: np.ndarray) -> dict[str, Range]:
    """Finds the int8 range of each activation of a float32 .tflite file.

    The input's range is that of pixels. An operator that copies values passes on the range of its
    input. Any other output gets the best range for its histogram.

    Args:
        images: float32 (n, height, width, 3) in 0..1, for calibration.

    Returns:
        The ranges by name of the tensor, the input included.
    """
    graph = read_graph(content)
    outputs = [tensor for operator in graph.operators for tensor in operator.outputs]
    activations = [tensor.index for tensor in outputs if tensor.type == "float32"]
    histograms = histograms_of(content, graph.inputs[0].index, activations, images)
    ranges = {graph.inputs[0].index: PIXELS}
    for operator in graph.operators:
        source = operator.inputs[0].index
        for tensor in operator.outputs:
            if operator.kind in SAME_VALUES and source in ranges:
                ranges[tensor.index] = ranges[source]
            elif tensor.index in histograms:
                ranges[tensor.index] = best_range(*histograms[tensor.index])
    return {graph.tensors[index].name: limits for index, limits in ranges.items()}


def histograms_of(
    content: bytes, image_index: int, activations: list[int], images: np.ndarray
) -> dict[int, tuple[np.ndarray, Range]]:
    """Runs a float32 .tflite file on images and counts the values of its activations.

    Args:
        image_index: of the input tensor.
        activations: indices of the tensors.
        images: float32 (n, height, width, 3) in 0..1.

    Returns:
        By index, the counts and the extremes of a tensor, as `best_range` takes them.
    """
    interpreter = Interpreter(
        model_content=content,
        num_threads=cores(),
        # XNNPACK would not expose the activations between its operators.
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()

    def activation_values() -> Iterator[tuple[int, np.ndarray]]:
        """Yields index and values (flat) of each activation, image by image."""
        for image in images:
            interpreter.set_tensor(image_index, image[None])
            interpreter.invoke()
            yield from ((index, interpreter.get_tensor(index).ravel()) for index in activations)
            bar.update()

    # Two passes, extremes and then histograms between them, because all activations of all images
    # would not fit into memory.
    extremes = dict.fromkeys(activations, (0.0, 0.0))
    counts: dict[int, Any] = dict.fromkeys(activations, 0)  # integers (BINS,)
    random = np.random.default_rng(SEED)
    with progress("activation ranges", 2 * len(images), "images") as bar:
        for index, values in activation_values():
            low, high = extremes[index]
            extremes[index] = min(low, float(values.min())), max(high, float(values.max()))
        for index, values in activation_values():
            if values.size > VALUES:
                values = values[random.integers(0, values.size, VALUES)]
            counts[index] += np.histogram(values, BINS, extremes[index])[0]
    return {index: (counts[index], extremes[index]) for index in activations}


def best_range(counts: np.ndarray, extremes: Range) -> Range:
    """Returns the range over which int8 has the least mean squared error.

    Args:
        counts: histogram of the values, integers (bins,), in bins of equal width over `extremes`.
        extremes: smallest value (at most 0) and largest value (at least 0).
    """
    low, high = extremes
    if low == high:
        return extremes
    edges = np.linspace(low, high, len(counts) + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    highs = CUTS[:, None] * high if high > 0 else np.zeros((1, 1))
    best = np.inf, 0.0, 0.0  # error and the two ends
    for lowest in CUTS * low if low < 0 else [0.0]:
        step = (highs - lowest) / STEPS
        zero_point = np.round(-lowest / step)  # an integer, so that 0 is exact
        rounded = np.clip(np.round(centres / step) + zero_point, 0, STEPS) - zero_point
        errors = ((rounded * step - centres) ** 2) @ counts
        least = int(errors.argmin())
        best = min(best, (errors[least], lowest, highs[least, 0]))
    return float(best[1]), float(best[2])


def with_ranges(content: bytes, ranges: dict[str, Range]) -> bytes:
    """Returns a calibrated float32 .tflite file with other ranges.

    Args:
        content: a file whose tensors have a minimum and a maximum.
        ranges: by name of the tensor; tensors without an entry keep theirs.
    """
    model = tables(content)
    for tensor in model.subgraphs[0].tensors:
        name = tensor.name.decode()
        if name in ranges:
            tensor.quantization.min, tensor.quantization.max = ([end] for end in ranges[name])
    return packed(model)
