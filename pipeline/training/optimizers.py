"""AdamW with its schedule, and the moving average of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

from pipeline.base.lazy import keras, tf

WEIGHT_DECAY = 2e-2
AVERAGE_WINDOW = 0.03  # of all steps: how far back the moving average of the weights reaches


def make_optimizer(
    steps: int,
    learning_rate: float,
    warm_up: int,
    average: bool = True,
    encoder_share: float = 1.0,
) -> keras.optimizers.Optimizer:
    """AdamW (Loshchilov and Hutter 2019) with linear warm-up and cosine decay to zero.

    Scales, offsets and biases do not decay.

    Args:
        steps: of the whole training.
        learning_rate: the peak, after `warm_up` steps.
        average: whether to keep a moving average of the weights (Polyak and Juditsky 1992).
        encoder_share: of each step, by which the compact encoder's weights move, so that what
            they learned on ImageNet is not overwritten before the decoder can use it.
    """

    class TwoRateAdamW(keras.optimizers.AdamW):  # here, because Keras is loaded when it is used
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
    decay = 1 - 1 / max(2.0, AVERAGE_WINDOW * steps)
    optimizer = TwoRateAdamW(
        rate, WEIGHT_DECAY, use_ema=average, ema_momentum=decay, jit_compile=False
    )
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    return optimizer


@contextlib.contextmanager
def averaged(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    start: list[np.ndarray] | None = None,
    start_share: float = 0.0,
) -> Iterator[None]:
    """Puts the moving average of the weights in place for the length of the block.

    Whatever is done to the weights in the block is undone after it. An optimizer that keeps no
    average leaves them as they are.

    Args:
        start: what `model.get_weights()` gave before the training.
        start_share: of that in what is put in place, 0 to 1. The mean of weights before and after
            fine-tuning is often better than either (Wortsman et al., *Robust fine-tuning of
            zero-shot models*, 2022).
    """
    current = [variable.numpy() for variable in model.variables]
    optimizer.finalize_variable_values(model.trainable_variables)
    if start_share:
        pairs = zip(start, model.get_weights())
        mixed = [start_share * old + (1 - start_share) * new for old, new in pairs]
        model.set_weights([each.astype(old.dtype) for each, old in zip(mixed, start)])
    try:
        yield
    finally:
        for variable, value in zip(model.variables, current):
            variable.assign(value)
