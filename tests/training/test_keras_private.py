"""The private names of Keras still mean what this project takes them for."""

from pipeline.base.lazy import keras, layers
from pipeline.training.keras_private import producing_layer, tensors_read


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
