"""Random numbers of layers (Dropout, noise, random preprocessing), from seed and epoch alone.

So a resumed training draws what it would have drawn without a stop.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np

from pipeline.base.lazy import keras, tf
from pipeline.training.keras_private import drawing_from, random_layers


@contextlib.contextmanager
def seeded_layers(
    model: keras.Model, seed: int, strategy: tf.distribute.Strategy
) -> Iterator[Callable[[int], None]]:
    """Gives each random layer of a model, also of models inside it, a generator for the block.

    Nothing changes for a model without random layers.

    Args:
        seed: at least 0.
        strategy: that of the training; each of its devices draws other numbers.

    Yields:
        A function that begins an epoch: from then on, the numbers depend on the seed, the number
        of the epoch (from 0), the position of the layer among the random ones, and how many it
        drew in this epoch.
    """
    drawing = random_layers(model)
    with strategy.scope():
        generators = [tf.random.Generator.from_seed(seed, alg="philox") for _ in drawing]

    def begin_epoch(epoch: int) -> None:
        for position, generator in enumerate(generators):
            # Hashed to the one number of 64 bits that is the key of Philox.
            hashed = np.random.SeedSequence([seed, epoch, position]).generate_state(1, np.uint64)
            generator.reset_from_key_counter(int(hashed[0]), [0, 0])

    with drawing_from(list(zip(drawing, generators))):
        yield begin_epoch
