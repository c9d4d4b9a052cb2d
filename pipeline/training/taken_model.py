"""A model that was trained elsewhere, made the original of this pipeline (`training.py --take`).

What the file does not say is found out on pictures of the validation split: the range of values
that its input wants, and whether its classes stand in another order than those of the data set. The
range becomes a layer of the network, so that raw pixels mean 0 to 1 as for our own networks.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.base.artifacts import artifact_path, read_record
from pipeline.base.console import UserError, say
from pipeline.base.lazy import keras, layers
from pipeline.base.stage import Stage
from pipeline.data.dataset import load_classes, load_split
from pipeline.inference.conventions import RANGES, TRIED, match, order_of, proposed_order
from pipeline.inference.iou import mean_iou, split_iou
from pipeline.inference.keras3_files import read_whole_model
from pipeline.inference.keras_files import KerasModel, save_model
from pipeline.training.building import float32_logits, named_for_tensorflow
from pipeline.training.keras_private import is_graph_model, producing_layer, tensors_read
from pipeline.training.rebuilding import MOVING, flattened, with_logits


class Taken(NamedTuple):
    """A model that was taken, and what was found out about it."""

    model: keras.Model  # from images of 0 to 1 to logits, in plain layers
    notes: list[str]  # for the user
    tables: dict[str, Any]  # for the record


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --take, and the flags that say what is found out otherwise."""
    parser.add_argument(
        "--take",
        type=Path,
        metavar="FILE",
        help="train nothing: take a whole Keras model that was trained elsewhere (.h5 or .keras, "
        "of Keras 2 or 3); its size and classes must be the data set's",
    )
    parser.add_argument(
        "--input-range",
        choices=tuple(RANGES),
        help="values that the input of --take wants (default: each is tried on validation "
        "pictures, and the best taken)",
    )
    parser.add_argument(
        "--class-order",
        metavar="A,B,C",
        help="the data set's classes in the order of the outputs of --take (default: the data "
        "set's order)",
    )


def take(stage: Stage, path: Path) -> Taken:
    """Reads a model and makes it one that the later stages take.

    Args:
        stage: its models folder has the data set; its arguments are those of `add_flags`.
        path: of the model.

    Raises:
        UserError: it cannot be read, or does not fit the data set.
    """
    arguments, names = stage.arguments, load_classes(stage.models_dir).names
    validation = load_split(stage.models_dir, "validation")
    rows = np.unique(np.linspace(0, len(validation[0]) - 1, TRIED).astype(int))
    images, masks = (part[rows] for part in validation)
    read, version = read_whole_model(path)
    model, notes = fitting(path, read, (images.shape[1], images.shape[2]), len(names))
    if arguments.class_order:
        reorder(path, model, order_of(arguments.class_order, names))
    tried = [arguments.input_range] if arguments.input_range else list(RANGES)
    matches = {
        kind: match(masks, KerasModel(with_range(model, kind)).class_maps(images), len(names))
        for kind in tried
    }
    # In the data set's order of classes or in another one: the range decides whether the network
    # sees anything, the order only what it calls that.
    best = max(tried, key=lambda kind: max(matches[kind].mean_iou, matches[kind].reordered))
    listed = ", ".join(f"{kind} {matches[kind].mean_iou:.3f}" for kind in tried)
    say(f"{path}: a model of Keras {version}, {model.count_params():,} parameters")
    say(f"mean IoU on {len(images)} validation pictures by input range: {listed}; taken: {best}")
    notes += proposed_order(matches[best], names)
    about = {"file": path.name, "keras": version, "input_range": best}
    return Taken(with_range(model, best), notes, {"network": model.name, "taken": about})


def write(stage: Stage, taken: Taken) -> None:
    """Measures a model that was taken and puts it and its record in place."""
    models_dir = stage.models_dir
    iou = split_iou(KerasModel(taken.model), *load_split(models_dir, "validation"))
    score = float(mean_iou(iou))
    metrics = {"parameters": taken.model.count_params(), "validation_mean_iou": score}
    with stage.new_artifact("original", metrics, tables=taken.tables) as (path,):
        save_model(taken.model, path)
    shares = read_record(models_dir, "dataset")["splits"]["validation"]["class_shares"].values()
    constant = max(shares) / np.count_nonzero([*shares])
    say(
        f"wrote {artifact_path(models_dir, 'original')}: validation mean IoU {score:.4f}; the "
        f"most frequent class everywhere has {constant:.4f}"
    )


# --- the network ------------------------------------------------------------------------------


def fitting(
    path: Path, model: keras.Model, size: tuple[int, int], classes: int
) -> tuple[keras.Model, list[str]]:
    """The network in plain layers with logits; what was changed, for the user.

    Raises:
        UserError: its input or its output is not that of the data set.
    """
    if not is_graph_model(model):
        raise UserError(f"{path} is a model of a class of its own, not made of calls of layers")
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise UserError(
            f"{path} has {len(model.inputs)} inputs and {len(model.outputs)} outputs "
            f"({', '.join(model.output_names)}), not one each; save one that ends with its main "
            "output, number K from 0: keras.Model(model.input, model.outputs[K])"
        )
    if model.inputs[0].dtype.name != "float32":
        raise UserError(f"{path} takes {model.inputs[0].dtype.name} pixels, not float32 ones")
    given = tuple(model.input_shape[1:])
    if len(given) != 3 or given[2] != 3:
        raise UserError(f"{path} takes values of shape {given}, not colour pictures (H, W, 3)")
    if any(side not in (None, own) for side, own in zip(given, size)):
        raise UserError(
            f"{path} takes pictures of {given[1]} x {given[0]}, and the data set's are {size[1]} x "
            f"{size[0]}; prepare them with --image-size {given[1]}x{given[0]}"
        )
    model = flattened(model)
    if given[:2] != size:  # it takes any size
        sized = keras.models.clone_model(model, layers.Input((*size, 3)))
        sized.set_weights(model.get_weights())
        model = sized
    model, notes = with_logits(model, classes)
    output = tuple(model.output_shape[1:])
    if len(output) != 3 or not model.outputs[0].dtype.is_floating:
        raise UserError(
            f"{path} gives a class for each pixel, not scores of all classes; save it without its "
            "last step (argmax)"
        )
    if output != (*size, classes):
        raise UserError(
            f"{path} gives scores of shape {output}, and the data set needs {(*size, classes)}: "
            f"{classes} classes"
        )
    return named_for_tensorflow(float32_logits(model)), notes


def with_range(model: keras.Model, kind: str) -> keras.Model:
    """The network with a first layer that makes values of another range of those of 0 to 1.

    Args:
        kind: one of RANGES.
    """
    scale, offset = RANGES[kind]
    if (scale, offset) == (1.0, 0.0):
        return model
    image = layers.Input(model.input_shape[1:])
    values = layers.Rescaling(scale, offset, name="input_range")(image)
    return flattened(keras.Model(image, model(values), name=model.name))


# --- the order of the classes -------------------------------------------------------------------


def reorder(path: Path, model: keras.Model, order: Sequence[int]) -> None:
    """Gives the outputs of a network the data set's order, in place.

    Args:
        order: the class of each output.

    Raises:
        UserError: the scores are not made by a convolution, whose channels can change places.
    """
    tensor = model.output
    while (layer := producing_layer(tensor)).weights == [] and type(layer).__name__ in (
        *MOVING,
        "Activation",
    ):
        tensor = tensors_read(tensor)[0]
    axes = {"Conv2D": -1, "SeparableConv2D": -1, "Dense": -1, "Conv2DTranspose": 2}
    kind = type(layer).__name__
    if kind not in axes:
        raise UserError(
            f"--class-order: the scores of {path} are made by {layer.name} ({kind}), whose "
            "channels cannot change places; give the data set the model's order, with --names"
        )
    outputs = np.argsort(order)  # by class, the output that shows it
    *kernels, kernel = [value for value in layer.get_weights() if value.ndim > 1]
    values = [*kernels, np.take(kernel, outputs, axis=axes[kind])]
    values += [bias[outputs] for bias in layer.get_weights() if bias.ndim == 1]
    layer.set_weights(values)
