"""Models of photographs, from files of this pipeline and of others, opened by what they are.

A file of others may want other input values than ours, or give a map of classes, and then says so
in its metadata, or by the types and shapes of its tensors. What nothing tells is refused, or a note
says what is assumed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.base.artifacts import fault_beside, refuse_changed
from pipeline.base.console import UserError, say
from pipeline.data.classes import FEWEST, MOST
from pipeline.inference.keras_files import KerasModel, read_model
from pipeline.inference.litert import open_interpreter
from pipeline.prediction.file_kinds import H5, kind_of
from pipeline.prediction.input_values import DIVIDED, input_values
from pipeline.prediction.tflite_description import describe

ANY_SIZE = "takes images of any size, and a photograph has to be shrunk to one; fix its input size"
LEAST_SIDE = 32  # of an image, over that of its scores, at most


@dataclass(frozen=True)
class PhotoModel:
    """A model that tells the classes of a photograph's pixels."""

    size: tuple[int, int]  # height and width of its images
    number: int  # of classes
    names: tuple[str, ...] | None  # that the file itself gives its classes
    recorded: bool  # whether a run of this pipeline made it where it lies
    told: bool  # whether the file tells how pixels become input values
    # uint8 image (height, width, 3) -> scores (height, width, classes) in any scale, or a map of
    # classes, integers (height, width)
    predict: Callable[[np.ndarray], np.ndarray]
    is_map: bool = False  # whether it gives a map of classes
    channels_first: bool = False  # whether the file's input is (1, 3, height, width)
    output: str = ""  # the name of the one that is read, if there are several


def open_photo_model(path: Path) -> PhotoModel:
    """Opens a model file, .h5 or .tflite, whatever its suffix.

    A note says what is assumed of its input, if the file does not tell.

    Raises:
        UserError: the file is missing or damaged, is of another kind, or is not a segmentation
            model of photographs.
    """
    kind = kind_of(path)
    refuse_changed(path)
    model = open_keras(path) if kind == H5 else open_tflite(path)
    if not model.told:
        say(f"note: {path} does not say how pixels become input values; they are divided by 255")
    return with_checks(path, model)


def with_checks(path: Path, model: PhotoModel) -> PhotoModel:
    """A model whose answers are checked; `predict` raises UserError if they are none."""

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

    return replace(model, predict=checked)


def open_keras(path: Path) -> PhotoModel:
    """A Keras model, which takes pixels divided by 255."""
    network = read_model(path)
    for tensors, what in ((network.inputs, "inputs"), (network.outputs, "outputs")):
        if len(tensors) != 1:
            raise UserError(f"{path} has {len(tensors)} {what}; make a model of one of them")
    model, recorded = KerasModel(network), not fault_beside(path)
    size, number = checked_shapes(path, model.image_shape, model.scores_shape)
    return PhotoModel(size, number, None, recorded, recorded, model.scores)


# --- .tflite files --------------------------------------------------------------------------


def open_tflite(
    path: Path, assumed: np.ndarray = DIVIDED, single_score: bool = False
) -> PhotoModel:
    """A .tflite file in an interpreter.

    Images and scores may have their channels before rows and columns, as networks of PyTorch have.
    Scores and maps of fewer pixels than the image are enlarged to its size.

    Args:
        path: of the file.
        assumed: float32 (256, 1) or (256, 3), what each value of a pixel becomes, if nothing tells.
        single_score: accept one score per pixel, which is returned as (height, width, 1).
    """
    interpreter = open_interpreter(path)
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    if len(inputs) != 1:
        raise UserError(f"{path} has {len(inputs)} inputs, not one image; name another file")
    image, shape = inputs[0], unbatched(path, inputs[0])
    if min(image["shape_signature"][1:], default=0) < 0:  # LiteRT takes 1 for it
        raise UserError(f"{path} {ANY_SIZE}")
    if channels_first := len(shape) == 3 and shape[0] == 3 != shape[2]:
        shape = (*shape[1:], 3)
    output = chosen_output(path, shape, outputs)
    description, recorded = describe(path), not fault_beside(path)
    values, told = input_values(path, image, description, assumed)
    scores_shape, is_map = unbatched(path, output), is_class_map(output)
    turned = not is_map and is_turned(scores_shape, shape)
    if turned:
        scores_shape = (*scores_shape[1:], scores_shape[0])
    if is_map:
        rows_and_columns = scores_shape[1:] if scores_shape[0] == 1 else scores_shape[:2]
        scores_shape = (*rows_and_columns, len(description.names or ()) or MOST)
    size, number = checked_shapes(path, shape, scores_shape, single_score, fewer_pixels=True)
    if description.names is not None and len(description.names) != number:
        raise UserError(
            f"{path} tells {number} classes apart and names {len(description.names)}; name another "
            "file, or correct the list of classes in it"
        )
    if not single_score and not FEWEST <= number <= MOST:
        raise UserError(f"{path} has {number} classes; {FEWEST} to {MOST} can be drawn")

    def predict(pixels: np.ndarray) -> np.ndarray:
        given = values[pixels, np.arange(3)]
        given = given.transpose(2, 0, 1) if channels_first else given
        interpreter.set_tensor(image["index"], np.ascontiguousarray(given[None]))
        interpreter.invoke()
        scores = interpreter.get_tensor(output["index"])[0]
        scores = scores.reshape(scores_shape[:2]) if is_map else scores
        scores = scores.transpose(1, 2, 0) if turned else scores
        if number == 1 and (scale := output["quantization"][0]):  # compared with a number
            scores = (scores.astype(np.float32) - output["quantization"][1]) * np.float32(scale)
        return scores if scores.shape[:2] == size else enlarged(scores, size)

    chosen = str(output["name"]) if len(outputs) > 1 else ""
    kind = recorded, told, predict, is_map, channels_first, chosen
    return PhotoModel(size, number, description.names, *kind)


def is_turned(scores: tuple[int, ...], image: tuple[int, ...]) -> bool:
    """Whether scores have their classes before rows and columns.

    Args:
        scores: shape of the scores of one image.
        image: height, width and channels.
    """
    return (
        len(scores) == 3
        and not in_proportion(scores[:2], image)
        and in_proportion(scores[1:], image)
    )


def in_proportion(sides: tuple[int, ...], image: tuple[int, ...]) -> bool:
    """Whether a map has the size of an image, or the same share of both of its sides."""
    shares = [side / max(1, whole) for side, whole in zip(sides, image)]
    spread = 1 / max(1, min(image[:2]))  # rounding to a pixel
    return 1 / LEAST_SIDE <= min(shares) <= max(shares) <= min(1, min(shares) + spread)


def enlarged(scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scores (rows, columns, classes), bilinearly, or a map (rows, columns), at another size."""
    height, width = size
    if scores.ndim == 2:
        picture = Image.fromarray(scores.astype(np.int32))
        return np.asarray(picture.resize((width, height), Image.Resampling.NEAREST))
    planes = [Image.fromarray(plane) for plane in np.moveaxis(scores, -1, 0).astype(np.float32)]
    smooth = Image.Resampling.BILINEAR
    return np.stack([np.asarray(plane.resize((width, height), smooth)) for plane in planes], -1)


def unbatched(path: Path, details: dict[str, Any]) -> tuple[int, ...]:
    """The shape of a tensor for one image; raises UserError if it is made for several."""
    batch, *shape = map(int, details["shape"]) if len(details["shape"]) else (0,)
    if batch != 1:
        raise UserError(f"{path} takes {batch} images at a time, not one; name another file")
    return tuple(shape)


def checked_shapes(
    path: Path,
    image: tuple[int, ...],
    output: tuple[int, ...],
    single_score: bool = False,
    fewer_pixels: bool = False,
) -> tuple[tuple[int, int], int]:
    """Height and width of a model's images, and the number of its classes.

    Args:
        single_score: as for `open_tflite`.
        fewer_pixels: accept an output of fewer pixels than the image, in proportion.

    Raises:
        UserError: it maps no image to scores of several classes of its pixels.
    """
    if None in image or None in output:
        raise UserError(f"{path} {ANY_SIZE}")
    fits = in_proportion(output[:2], image) if fewer_pixels else output[:2] == image[:2]
    if len(image) != 3 or image[2] != 3 or len(output) != 3 or not fits:
        raise UserError(
            f"{path} is not a segmentation model of this pipeline: it maps images of shape {image} "
            f"to outputs of shape {output}"
        )
    if output[2] == 1 and not single_score:  # whose largest score would always be class 0
        raise UserError(
            f"{path} gives one score per pixel, not one per class; for two classes make it give "
            "two logits: 0 and the one before its sigmoid"
        )
    return (image[0], image[1]), output[2]


def is_class_map(output: dict[str, Any]) -> bool:
    """Whether an output has a class for each pixel: integers that stand for no other numbers."""
    shape, kind = [int(length) for length in output["shape"]], np.dtype(output["dtype"])
    flat = len(shape) == 3 or (len(shape) == 4 and 1 in (shape[1], shape[3]))
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
    sized = [
        output
        for output in outputs
        if image[:2] in (tuple(output["shape"][1:3]), tuple(output["shape"][2:4]))
    ]
    scores = [
        output for output in sized if len(output["shape"]) == 4 and 1 not in output["shape"][1:]
    ]
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
