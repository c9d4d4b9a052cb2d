"""A network of one convolution and its training, for the tests of the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.base.lazy import keras, layers
from pipeline.base.stage import Stage
from pipeline.training import checkpoints, loop
from pipeline.training.epoch_rows import Row
from pipeline.training.losses import Objective
from pipeline.training.optimizers import make_optimizer


def tiny(*more_layers: layers.Layer) -> tuple[keras.Model, Any]:
    """A network of one convolution and then the given layers, with its optimizer."""
    keras.utils.set_random_seed(0)
    convolution = layers.Conv2D(3, 3, padding="same")
    model = keras.Sequential([layers.Input((32, 32, 3)), convolution, *more_layers])
    optimizer = make_optimizer(100, 1e-2, 5)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def train(
    stage: Stage,
    model: keras.Model,
    optimizer: Any,
    epochs: int = 1,
    resume: bool = False,
    **settings: Any,
) -> loop.Trained:
    """Trains on 36 images in batches of 8, which are four steps an epoch.

    Args:
        settings: further fields of `loop.Phase`.
    """
    chosen = {"batch_size": 8, "seed": 7, "objective": Objective(), **settings}
    phase = loop.Phase("tiny", epochs, resume=resume, **chosen)
    return loop.fit(stage, model, optimizer, phase)


def fit(*arguments: Any, **settings: Any) -> list[Row]:
    """The history of `train`."""
    return train(*arguments, **settings).history


def state_file(stage: Stage) -> Path:
    """The checkpoint of this training."""
    return checkpoints.state_path(stage.models_dir, "tiny")
