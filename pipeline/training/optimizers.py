"""AdamW with its learning-rate schedule, and the moving average (EMA) of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.base.artifacts import dictionary
from pipeline.base.lazy import keras, tf
from pipeline.training.keras_private import variable_key

WEIGHT_DECAY = 2e-2
EMA_WINDOW = 0.03  # time constant of the moving average, as a fraction of all steps
# Records that do not say which layers learned slowly were made when these did, at this factor.
UNRECORDED_LAYERS, UNRECORDED_FACTOR = ("stem", "block"), 0.3

Factors = Sequence[tuple[Any, float]]  # variables, each with the factor of its updates


def make_optimizer(
    steps: int,
    learning_rate: float,
    warm_up: int,
    average: bool = True,
    factors: Factors = (),
) -> keras.optimizers.Optimizer:
    """AdamW (Loshchilov and Hutter 2019) with linear warm-up and cosine decay to zero.

    Weight decay leaves out scales and offsets of normalisation and biases.

    Args:
        steps: of the whole training.
        learning_rate: the peak, reached after the warm-up.
        warm_up: steps of the warm-up; at most a quarter of all steps is taken.
        average: keep an exponential moving average of the weights (Polyak and Juditsky 1992).
        factors: of the variables whose updates are scaled, see `layer_factors`. Below 1, an
            encoder from ImageNet changes more slowly than the decoder, which starts from random
            weights. Variables that are not listed have the factor 1.
    """

    class ScaledAdamW(keras.optimizers.AdamW):  # defined here: the module loads without Keras
        def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
            factor = by_variable.get(variable_key(self, variable), 1.0)
            if factor == 1:
                super().update_step(gradient, variable)
                return
            before = tf.identity(variable)
            super().update_step(gradient, variable)
            variable.assign(before + factor * (variable - before))

    warm_up = min(warm_up, steps // 4)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warm_up), warmup_target=learning_rate, warmup_steps=warm_up
    )
    decay = 1 - 1 / max(2.0, EMA_WINDOW * steps)
    optimizer = ScaledAdamW(
        rate, WEIGHT_DECAY, use_ema=average, ema_momentum=decay, jit_compile=False
    )
    by_variable = {variable_key(optimizer, variable): factor for variable, factor in factors}
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    return optimizer


def layer_factors(model: keras.Model, factors: Mapping[str, float]) -> Factors:
    """The factors of layers, by name, as `make_optimizer` takes them: for each of their variables.

    The variables are also those of models that share the layers.
    """
    layers_and_factors = [(model.get_layer(name), factor) for name, factor in factors.items()]
    return [
        (variable, factor)
        for layer, factor in layers_and_factors
        for variable in layer.trainable_variables
    ]


def recorded_factors(record: Mapping[str, Any], model: keras.Model) -> dict[str, float]:
    """The factors by name of layer that a model was trained with, from its record.

    A record of an older version does not have them: then they are those of that version, if the
    model is the default network with ImageNet weights.
    """
    if "learning_rate_factors" in record:
        return dictionary(record["learning_rate_factors"])
    settings = dictionary(record.get("settings"))
    if settings.get("architecture") != "compact" or settings.get("encoder") == "scratch":
        return {}
    names = [layer.name for layer in model.layers if layer.trainable_variables]
    return {name: UNRECORDED_FACTOR for name in names if name.startswith(UNRECORDED_LAYERS)}


@contextlib.contextmanager
def ema_weights(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    start: Sequence[np.ndarray] = (),
    wise_ft_weight: float = 0.0,
) -> Iterator[None]:
    """Puts the moving average (EMA) of the weights into the model for the length of the block.

    At the end of the block the model has the weights of the last step again, whatever the block
    did to them. With an optimizer that keeps no average, the block sees the weights of the last
    step.

    Args:
        start: `model.get_weights()` from before the training; needed for a `wise_ft_weight`.
        wise_ft_weight: weight of `start` in the mean that the block sees, 0 to 1; the average has
            the rest. The mean of the weights before and after fine-tuning is often better than
            either (WiSE-FT: Wortsman et al., *Robust fine-tuning of zero-shot models*, 2022).
    """
    current = [variable.numpy() for variable in model.variables]
    optimizer.finalize_variable_values(model.trainable_variables)
    if wise_ft_weight:
        pairs = zip(start, model.get_weights())
        mixed = [wise_ft_weight * old + (1 - wise_ft_weight) * new for old, new in pairs]
        model.set_weights([mean.astype(old.dtype) for mean, old in zip(mixed, start)])
    try:
        yield
    finally:
        for variable, value in zip(model.variables, current):
            variable.assign(value)
