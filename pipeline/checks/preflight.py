"""Checks of a network before training starts, so that no fault is found after the last epoch."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from pipeline.base.console import UserError
from pipeline.base.lazy import keras, layers
from pipeline.inference.keras_files import foreign_part
from pipeline.pruning.channels import BLOCK, removable_share
from pipeline.pruning.dependency_graph import channel_groups, tied_sentence
from pipeline.pruning.magnitude import SMALLEST_KERNEL, kernels

# A Rescaling layer with a smaller scale was made for images of 0..255 (1/127.5, 1/255), not 0..1.
MIN_SCALE = 1 / 16


def check_network(model: keras.Model, size: tuple[int, int], classes: int) -> list[str]:
    """Refuses a network that this pipeline cannot train, and notes what later stages cannot do.

    Args:
        model: the network.
        size: height and width of the images in pixels.
        classes: the number of classes, which is the number of logits per pixel.

    Returns:
        Notes for the user; none for the networks of this pipeline.

    Raises:
        UserError: the network does not map images to logits of the same size, or its .h5 file
            could not be read back.
    """
    expected_shapes = (*size, 3), (*size, classes)
    try:
        config = json.loads(model.to_json())
        shapes = tuple(model.input_shape[1:]), tuple(model.output_shape[1:])
    except (AttributeError, RuntimeError):  # a subclassed model, with its own `call`
        raise UserError(
            f"{model.name} is not a functional Keras model; build it with "
            "keras.Model(image, logits)"
        ) from None
    if foreign := foreign_part(config):
        raise UserError(
            f"{model.name} uses {foreign}, which could not be read back from its file; use "
            "another layer, or add it to LAYERS or FUNCTIONS in pipeline/inference/keras_files.py"
        )
    if shapes != expected_shapes:
        raise UserError(
            f"{model.name} maps {shapes[0]} to {shapes[1]}, not {expected_shapes[0]} to "
            f"{expected_shapes[1]}; correct it in pipeline/training/networks.py"
        )
    notes = []
    for layer in model.submodules:  # also those of models inside it
        if draws_by_itself(layer):
            notes.append(
                f"{layer.name} draws random numbers that a resumed training cannot repeat: after "
                "a kill, --resume will not give the same bits. Use a layer such as Dropout"
            )
        if isinstance(layer, layers.Rescaling) and np.max(np.abs(layer.scale)) < MIN_SCALE:
            limits = np.add(layer.offset, [[0], [1]] * np.atleast_1d(layer.scale))
            low, high = limits.min(), limits.max()
            notes.append(
                f"{layer.name} maps images, whose values are 0..1, to {low:.3f}..{high:.3f}; "
                "for -1..1 write Rescaling(2, -1)"
            )
    if not kernels(model):
        notes.append(
            f"no kernel of {model.name} has {SMALLEST_KERNEL:,} weights or more, so pruning.py "
            "will prune no weights (SMALLEST_KERNEL in pipeline/pruning/magnitude.py)"
        )
    if not removable_share(channel_groups(model)):
        tied = tied_sentence(model)
        notes.append(
            f"no group of channels of {model.name} is larger than a block of {BLOCK}, so "
            "pruning.py --channels cannot remove any" + (f": {tied}" if tied else "")
        )
    elif tied := tied_sentence(model):
        notes.append(f"pruning.py --channels leaves some channels as they are: {tied}")
    return notes


def draws_by_itself(layer: Any) -> bool:
    """Whether a layer is a call of a TensorFlow function that draws random numbers.

    No call of `foreign_part` lets one pass unless FUNCTIONS in keras_files.py was extended. Layers
    of Keras that draw are seeded, see training/random_layers.py.
    """
    if type(layer).__name__ != "TFOpLambda":
        return False
    function = str(layer.get_config()["function"])
    return "random." in function or "dropout" in function
