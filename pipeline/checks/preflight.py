"""Checks of a network before training starts, so that no fault is found after the last epoch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.lazy import keras, layers
from pipeline.checks.rehearsal import rehearse_once
from pipeline.pruning.channels import BLOCK, removable_share
from pipeline.pruning.dependency_graph import channel_groups, tied_sentence
from pipeline.pruning.magnitude import SMALLEST_KERNEL, kernels
from pipeline.training.keras_private import producing_layer

# A Rescaling layer with a smaller scale was made for images of 0..255 (1/127.5, 1/255), not 0..1.
MIN_SCALE = 1 / 16
FEW_STEPS = 300  # supervised steps below which some classes may not be learned at all
# Share of their initial values that the moving statistics of batch normalisation may keep.
MOST_INITIAL = 0.1


def check_network(model: keras.Model, models_dir: Path) -> list[str]:
    """Notes of what later stages cannot do with a network.

    Args:
        model: from `building.build_network`.
        models_dir: where it is kept which network passed, see `rehearsal.rehearse_once`.

    Returns:
        Notes for the user; none for the networks of this pipeline.

    Raises:
        UserError: no later stage could use it.
    """
    return [*layer_notes(model), *rehearse_once(model, models_dir)]


def layer_notes(model: keras.Model) -> list[str]:
    """What later stages cannot do with the layers of a network, as the layers tell it."""
    notes = []
    for layer in model.submodules:  # also those of models inside it
        if draws_by_itself(layer):
            notes.append(
                f"{layer.name} draws random numbers that a resumed training cannot repeat: after "
                "a kill, --resume will not give the same bits. Use a layer such as Dropout"
            )
        if (
            isinstance(layer, layers.Rescaling)
            and np.max(np.abs(layer.scale)) < MIN_SCALE
            and reads_images(layer)
        ):
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


def schedule_notes(model: keras.Model, epochs: int, steps: int) -> list[str]:
    """Notes if a training is too short for its classes, or for the network's normalisation.

    Each step multiplies what moving statistics hold of their initial values by the momentum of
    the layer: 0.95 in our networks, 0.99 or 0.999 in those of keras.applications. TensorFlow's
    tutorial network had the mean IoU of one constant class on the pets for 412 steps with
    MobileNetV2's 0.999 and for 309 with 0.99, while its loss fell: with the statistics of the
    batch, the same weights had 0.55 (48 validation images, after 412 steps with 0.99).

    Args:
        model: the network; layers that are frozen keep their statistics and do not count.
        epochs: of the supervised training.
        steps: of the optimizer in all these epochs, as many in each.
    """
    notes, steps_an_epoch = [], steps // epochs
    if steps < FEW_STEPS:
        notes.append(
            f"{steps} steps in all, {steps_an_epoch} an epoch, are few; use more --epochs or a "
            "smaller --batch-size"
        )
    momenta = [
        float(layer.momentum)
        for layer in model.submodules
        if isinstance(layer, layers.BatchNormalization) and layer.trainable
    ]
    slowest = max(momenta, default=0.0)
    if slowest**steps > MOST_INITIAL:
        way_out = "set layer.momentum = 0.95 where the network is built"
        if slowest < 1:
            needed = math.ceil(math.log(MOST_INITIAL) / math.log(slowest) / steps_an_epoch)
            way_out += f", or train longer: --epochs {needed}"
        notes.append(
            f"batch normalisation with momentum {slowest:g}, in {momenta.count(slowest)} of "
            f"{len(momenta)} such layers: after {steps:,} steps, {slowest**steps:.0%} of their "
            "moving statistics are still the initial values, and validation and all later stages "
            f"use them; {way_out}"
        )
    return notes


def reads_images(layer: Any) -> bool:
    """Whether a layer of a network reads its input, and no values that another layer made."""
    return isinstance(producing_layer(layer.get_input_at(0)), layers.InputLayer)


def draws_by_itself(layer: Any) -> bool:
    """Whether a layer is a call of a TensorFlow function that draws random numbers.

    No call of `foreign_part` lets one pass unless FUNCTIONS in keras_files.py was extended. Layers
    of Keras that draw are seeded, see training/random_layers.py.
    """
    if type(layer).__name__ != "TFOpLambda":
        return False
    function = str(layer.get_config()["function"])
    return "random." in function or "dropout" in function
