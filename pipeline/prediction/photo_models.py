"""Models of photographs, from files of this pipeline and of others, opened by what they are.

A file of others may want other input values than ours, or give a map of classes, and then says so
in its metadata, or by the types and shapes of its tensors. What nothing tells is refused, or a note
says what is assumed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.artifacts import fault_beside, refuse_changed
from pipeline.base.console import UserError, say
from pipeline.data.classes import FEWEST, MOST
from pipeline.inference.keras_files import KerasModel, read_model
from pipeline.inference.litert import open_interpreter
from pipeline.prediction.file_kinds import H5, kind_of
from pipeline.prediction.tflite_description import Description, describe

# Real values of a black and of a white pixel that networks of others are trained on.
PIXEL_RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (-0.5, 0.5), (-128.0, 127.0))
TOLERANCE = 0.02  # of such a range, by which a quantised input may differ from it
ANY_SIZE = "takes images of any size, and a photograph has to be shrunk to one; fix its input size"
INPUT_TYPES = ("float32", "uint8", "int8")


@dataclass(frozen=True)
class PhotoModel:
    """A model that tells the classes of a photograph's pixels."""

    size: tuple[int, int]  # height and width of its images
    number: int  # of classes
    names: tuple[str, ...] | None  # that the file itself gives its classes
    recorded: bool  # whether a run of this pipeline made it where it lies
    # uint8 image (height, width, 3) -> scores (height, width, classes) in any scale, or a map of
    # classes, integers (height, width)
    predict: Callable[[np.ndarray], np.ndarray]


def open_photo_model(path: Path) -> PhotoModel:
    """Opens a model file, .h5 or .tflite, whatever its suffix.

    Raises:
        UserError: the file is missing or damaged, is of another kind, or is not a segmentation
            model of photographs.
    """
    kind = kind_of(path)
    refuse_changed(path)
    model = open_keras(path) if kind == H5 else open_tflite(path)

    def checked(image: np.ndarray) -> np.ndarray:
        scores = model.predict(image)
        if scores.ndim == 2 and not 0 <= scores.min() <= scores.max() < model.number:
            raise UserError(
                f"{path} gives pixels the numbers {int(scores.min())} to {int(scores.max())}, and "
                f"classes are 0 to {model.number - 1}; name another file"
            )
        if not np.isfinite(scores).all():
            raise UserError(f"{path} gives scores that are no numbers; name another file")
        return scores

    return PhotoModel(model.size, model.number, model.names, model.recorded, checked)


def open_keras(path: Path) -> PhotoModel:
    """A Keras model, which takes pixels divided by 255."""
    network = read_model(path)
    for tensors, what in ((network.inputs, "inputs"), (network.outputs, "outputs")):
        if len(tensors) != 1:
            raise UserError(f"{path} has {len(tensors)} {what}; make a model of one of them")
    model, recorded = KerasModel(network), not fault_beside(path)
    size, number = checked_shapes(path, model.image_shape, model.scores_shape)
    if not recorded:
        note_assumed_pixels(path)
    return PhotoModel(size, number, None, recorded, model.scores)


def note_assumed_pixels(path: Path) -> None:
    """Prints a note that nothing tells how pixels become input values, and what is assumed."""
    say(f"note: {path} does not say how pixels become input values; they are divided by 255")


# --- .tflite files --------------------------------------------------------------------------


def open_tflite(path: Path) -> PhotoModel:
    """A .tflite file in an interpreter."""
    interpreter = open_interpreter(path)
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    if len(inputs) != 1:
        raise UserError(f"{path} has {len(inputs)} inputs, not one image; name another file")
    image, shape = inputs[0], unbatched(path, inputs[0])
    if min(image["shape_signature"][1:], default=0) < 0:  # LiteRT takes 1 for it
        raise UserError(f"{path} {ANY_SIZE}")
    output = chosen_output(path, shape, outputs)
    description, recorded = describe(path), not fault_beside(path)
    values = input_values(path, image, description)
    scores_shape, is_map = unbatched(path, output), is_class_map(output)
    if is_map:
        scores_shape = (*scores_shape[:2], len(description.names or ()) or MOST)
    size, number = checked_shapes(path, shape, scores_shape)
    if description.names is not None and len(description.names) != number:
        raise UserError(
            f"{path} tells {number} classes apart and names {len(description.names)}; name another "
            "file, or correct the list of classes in it"
        )
    if not FEWEST <= number <= MOST:
        raise UserError(f"{path} has {number} classes; {FEWEST} to {MOST} can be drawn")

    def predict(pixels: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(image["index"], values[pixels, np.arange(3)][None])
        interpreter.invoke()
        scores = interpreter.get_tensor(output["index"])[0]
        return scores.reshape(size) if is_map else scores

    return PhotoModel(size, number, description.names, recorded, predict)


def unbatched(path: Path, details: dict[str, Any]) -> tuple[int, ...]:
    """The shape of a tensor for one image; raises UserError if it is made for several."""
    batch, *shape = map(int, details["shape"]) if len(details["shape"]) else (0,)
    if batch != 1:
        raise UserError(f"{path} takes {batch} images at a time, not one; name another file")
    return tuple(shape)


def checked_shapes(
    path: Path, image: tuple[int, ...], output: tuple[int, ...]
) -> tuple[tuple[int, int], int]:
    """Height and width of a model's images, and the number of its classes.

    Raises:
        UserError: it maps no image to scores of several classes of its pixels.
    """
    if None in image or None in output:
        raise UserError(f"{path} {ANY_SIZE}")
    if len(image) != 3 or image[2] != 3 or output[:2] != image[:2] or len(output) != 3:
        raise UserError(
            f"{path} is not a segmentation model of this pipeline: it maps images of shape {image} "
            f"to outputs of shape {output}"
        )
    if output[2] == 1:  # whose largest score would always be class 0
        raise UserError(
            f"{path} gives one score per pixel, not one per class; for two classes make it give "
            "two logits: 0 and the one before its sigmoid"
        )
    return (image[0], image[1]), output[2]


def is_class_map(output: dict[str, Any]) -> bool:
    """Whether an output has a class for each pixel: integers that stand for no other numbers."""
    shape, kind = [int(length) for length in output["shape"]], np.dtype(output["dtype"])
    flat = len(shape) == 3 or (len(shape) == 4 and shape[3] == 1)
    plain = tuple(output["quantization"]) in ((0, 0), (1, 0))
    return flat and np.issubdtype(kind, np.integer) and plain


def chosen_output(
    path: Path, image: tuple[int, ...], outputs: list[dict[str, Any]]
) -> dict[str, Any]:
    """The output that tells the classes of an image's pixels.

    Of several, that is the only one of the image's size with a score for each class, else the only
    map of classes.

    Raises:
        UserError: nothing tells which one it is.
    """
    if len(outputs) == 1:
        return outputs[0]
    sized = [output for output in outputs if tuple(output["shape"][1:3]) == image[:2]]
    scores = [output for output in sized if len(output["shape"]) == 4 and output["shape"][3] > 1]
    for candidates in (scores, [output for output in sized if is_class_map(output)]):
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            break
    shapes = ", ".join(f"{output['name']} {tuple(map(int, output['shape']))}" for output in outputs)
    raise UserError(
        f"{path} has {len(outputs)} outputs ({shapes}), and nothing tells which one has the "
        "classes; convert the network with that output only"
    )


def input_values(path: Path, image: dict[str, Any], description: Description) -> np.ndarray:
    """What goes into a network for each value of a pixel, in the input's type: (256, 3).

    Raises:
        UserError: nothing tells, or the input cannot hold what the file says.
    """
    kind = np.dtype(image["dtype"])
    if kind.name not in INPUT_TYPES:
        raise UserError(f"{path} takes input of type {kind.name}, not {', '.join(INPUT_TYPES)}")
    pixels = np.arange(256, dtype=np.float32)[:, None]
    real = None
    if description.mean is not None and description.std is not None:
        lengths = {len(description.mean), len(description.std)}
        if not lengths <= {1, 3} or not all(np.isfinite(description.std)) or 0 in description.std:
            raise UserError(
                f"{path} says that pixels become values by mean {list(description.mean)} and std "
                f"{list(description.std)}, which are not those of three colours"
            )
        mean, std = (np.array(v, np.float32) for v in (description.mean, description.std))
        real = np.broadcast_to((pixels - mean) / std, (256, 3))
    scale, zero_point = image["quantization"]
    if kind == np.float32:
        if real is None:
            note_assumed_pixels(path)
            real = np.broadcast_to(pixels / np.float32(255), (256, 3))
        return np.ascontiguousarray(real, np.float32)
    raw = np.repeat(np.arange(256)[:, None] + np.iinfo(kind).min, 3, axis=1).astype(kind)
    if not scale:  # plain bytes
        if kind == np.uint8 or real is None:
            return raw
        raise UserError(f"{path} has an input without a scale, which its normalisation needs")
    if real is not None and is_raw(description):
        return raw
    if real is None:
        black, white = ((raw[[0, 255], 0].astype(float) - zero_point) * scale).tolist()
        for low, high in PIXEL_RANGES:
            if max(abs(black - low), abs(white - high)) <= TOLERANCE * (high - low):
                return raw
        raise UserError(
            f"{path} does not say how pixels become input values, and its input, of {black:.4g} to "
            f"{white:.4g}, is not that of pixels; add NormalizationOptions to its metadata"
        )
    exact = np.rint(real.astype(np.float64) / scale + zero_point)
    limits = np.iinfo(kind)
    beyond = max(limits.min - exact.min(), exact.max() - limits.max)
    if not beyond <= TOLERANCE * 255:  # nor if it is no number
        raise UserError(
            f"{path} says that pixels become values of {real.min():.4g} to {real.max():.4g}, and "
            "its quantised input cannot hold these; correct its metadata"
        )
    return np.clip(exact, limits.min, limits.max).astype(kind)


def is_raw(description: Description) -> bool:
    """Whether a file wants pixels as they are: the metadata of many files with bytes as input."""
    return set(description.mean or ()) == {0.0} and set(description.std or ()) == {1.0}
