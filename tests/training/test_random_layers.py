"""What random layers draw: by seed, epoch, layer and step. Resumed: test_checkpoints.py."""

import numpy as np

from pipeline.base.lazy import keras, layers, tf
from pipeline.training.random_layers import seeded_layers


def drawn(seed, epochs, steps=2):
    """What two equal Dropout layers make of ones, by (epoch, step, layer)."""
    image = layers.Input((8, 8, 3))
    masks = [layers.Dropout(0.5)(image) for _ in range(2)]
    model = keras.Model(image, masks)
    step = tf.function(lambda images: model(images, training=True))
    values = {}
    with seeded_layers(model, seed, tf.distribute.get_strategy()) as begin_epoch:
        for epoch in epochs:
            begin_epoch(epoch)
            for number in range(steps):
                for layer, mask in enumerate(step(np.ones((1, 8, 8, 3), np.float32))):
                    values[epoch, number, layer] = mask.numpy().tobytes()
    return values


def test_every_layer_draws_other_numbers_in_every_step_of_every_epoch():
    values = drawn(7, (0, 1)) | {("seed 8", *key): value for key, value in drawn(8, (0,)).items()}
    assert len(set(values.values())) == len(values) == 12


def test_an_epoch_draws_the_same_numbers_whatever_was_drawn_before():
    whole, resumed = drawn(7, (0, 1, 2)), drawn(7, (2,))
    assert resumed.items() <= whole.items()
