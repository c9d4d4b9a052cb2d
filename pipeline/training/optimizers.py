"""AdamW with its learning-rate schedule, and the moving average (EMA) of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.base.lazy import keras, tf

WEIGHT_DECAY = 2e-2
EMA_WINDOW = 0.03  # time constant of the moving average, as a fraction of all steps


def make_optimizer(
    steps: int,
    learning_rate: float,
    warm_up: int,
    average: bool = True,
    encoder_share: float = 1.0,
) -> keras.optimizers.Optimizer:
    """AdamW (Loshchilov and Hutter 2019) with linear warm-up and cosine decay to zero.

    Weight decay leaves out scales and offsets of normalisation and biases.

    Args:
        steps: of the whole training.
        learning_rate: the peak, reached after the warm-up.
        warm_up: steps of the warm-up; at most a quarter of all steps is taken.
        average: keep an exponential moving average of the weights (Polyak and Juditsky 1992).
        encoder_share: factor of each update of the encoder's weights, 0 to 1. Below 1, an encoder
            from ImageNet changes more slowly than the decoder, which starts from random weights.
    """

    class TwoRateAdamW(keras.optimizers.AdamW):  # defined here: the module loads without Keras
        def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
            if encoder_share == 1 or not variable.name.startswith(("stem", "block")):
                super().update_step(gradient, variable)
                return
            before = tf.identity(variable)
            super().update_step(gradient, variable)
            variable.assign(before + encoder_share * (variable - before))

    warm_up = min(warm_up, steps // 4)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warm_up), warmup_target=learning_rate, warmup_steps=warm_up
    )
    decay = 1 - 1 / max(2.0, EMA_WINDOW * steps)
    optimizer = TwoRateAdamW(
        rate, WEIGHT_DECAY, use_ema=average, ema_momentum=decay, jit_compile=False
    )
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    return optimizer


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
