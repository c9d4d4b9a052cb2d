"""The private names of Keras still mean what this project takes them for."""

import numpy as np

from pipeline.base.lazy import keras, layers, tf
from pipeline.training.keras_private import (
    drawing_from,
    producing_layer,
    random_layers,
    tensors_read,
)


def test_layer_that_made_a_tensor_and_what_that_call_read():
    """Also of a layer that is called twice, whose public `input` raises."""
    image = layers.Input((8, 8, 3))
    shared = layers.Conv2D(3, 1)
    first = shared(image)
    second = shared(first)
    total = layers.Add()([first, second])
    model = keras.Model(image, total)
    assert producing_layer(model.output) is model.layers[-1]
    assert producing_layer(first) is producing_layer(second) is shared
    (read_by_first,), (read_by_second,) = tensors_read(first), tensors_read(second)
    assert read_by_first is image and read_by_second is first
    assert [id(tensor) for tensor in tensors_read(total)] == [id(first), id(second)]


def test_random_layers_of_a_model_and_of_what_is_inside_it_draw_from_a_given_generator():
    """Each is listed once, in the same order in every process; afterwards all is as before."""
    shared, inner = layers.Dropout(0.5), layers.GaussianNoise(1.0)
    image = layers.Input((8, 8, 3))
    block = keras.Sequential([layers.Input((8, 8, 3)), layers.Conv2D(3, 1), inner])
    model = keras.Model(image, layers.ReLU()(shared(block(shared(image)))))
    assert random_layers(model) == [shared, inner]
    before = [layer.get_config() for layer in (shared, inner)]

    def drawn(key):
        generators = [tf.random.Generator.from_seed(key) for _ in range(2)]
        with drawing_from(list(zip((shared, inner), generators))):
            return model(np.ones((1, 8, 8, 3), np.float32), training=True).numpy()

    assert (drawn(1) == drawn(1)).all() and (drawn(1) != drawn(2)).any()
    assert [layer.get_config() for layer in (shared, inner)] == before
