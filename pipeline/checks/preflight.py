"""What is said of a network before hours are spent on it, and not after the last epoch."""

from __future__ import annotations

import json

import numpy as np

from pipeline.base.console import UserError
from pipeline.base.lazy import keras, layers
from pipeline.inference.keras_files import foreign_part
from pipeline.pruning.channels import BLOCK, removable_share
from pipeline.pruning.dependency_graph import channel_groups
from pipeline.pruning.magnitude import SMALLEST_KERNEL, kernels

LEAST_SCALE = 1 / 16  # of a Rescaling layer that was meant for 0..1; one for 0..255 has 1/127.5


def check_network(model: keras.Model, size: tuple[int, int], classes: int) -> list[str]:
    """Refuses a network that cannot be trained here, and notes what later stages cannot do.

    Args:
        size: height and width of the images in pixels. classes: how many logits a pixel has.

    Returns:
        Notes, none for the networks of this pipeline.

    Raises:
        UserError: it does not map images to logits of their size, or its file could not be read.
    """
    wanted = (*size, 3), (*size, classes)
    try:
        config = json.loads(model.to_json())
        found = tuple(model.input_shape[1:]), tuple(model.output_shape[1:])
    except (AttributeError, RuntimeError):  # a model with a `call` of its own has neither
        raise UserError(
            f"{model.name} is no plain network; build it with keras.Model(image, logits)"
        ) from None
    if foreign := foreign_part(config):
        raise UserError(
            f"{model.name} names {foreign}, which could not be read back from its file; use "
            "another layer, or add it to LAYERS or FUNCTIONS in pipeline/inference/keras_files.py"
        )
    if found != wanted:
        raise UserError(
            f"{model.name} maps {found[0]} to {found[1]}, not {wanted[0]} to {wanted[1]}; "
            "mend it in pipeline/training/networks.py"
        )
    notes = []
    for layer in model.layers:
        if isinstance(layer, layers.Rescaling) and np.max(np.abs(layer.scale)) < LEAST_SCALE:
            ends = np.add(layer.offset, [[0], [1]] * np.atleast_1d(layer.scale))
            low, high = ends.min(), ends.max()
            notes.append(
                f"{layer.name} maps images, which come as 0..1, to {low:.3f}..{high:.3f}; "
                "for -1..1 write Rescaling(2, -1)"
            )
    if not kernels(model):
        notes.append(
            f"no kernel of {model.name} has {SMALLEST_KERNEL:,} weights, so that pruning.py will "
            "find none to set zeros in (SMALLEST_KERNEL in pipeline/pruning/magnitude.py)"
        )
    try:
        if not removable_share(channel_groups(model)):
            notes.append(
                f"no group of channels of {model.name} is larger than a block of {BLOCK}, so that "
                "pruning.py --channels can remove none"
            )
    except UserError as error:
        notes.append(f"pruning.py --channels will not work: {error}")
    return notes
