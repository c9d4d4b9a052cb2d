"""What a network's function returns becomes a network that can be trained, or is refused in one
line with the function's name and line.
"""

import functools
import inspect

import numpy as np
import pytest

from pipeline.base.console import UserError
from pipeline.base.lazy import keras, layers, tf
from pipeline.training import networks
from pipeline.training.building import build_network
from pipeline.training.losses import segmentation_loss

SIZE, CLASSES = (32, 32), 3


def network(*middle, classes=CLASSES, stride=1, name="tiny", **image):
    """The function of a network of these layers."""

    def tiny(size, classes_of_data):
        x = start = layers.Input((*size, 3), **image)
        for layer in middle:
            x = layer(x)
        return keras.Model(start, layers.Conv2D(classes, 1, stride)(x), name=name)

    return tiny


def refused(function, classes=CLASSES):
    with pytest.raises(UserError) as caught:
        build_network(function, SIZE, classes)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_networks_of_this_pipeline_are_handed_on():
    made = []

    def classic(size, classes):
        made.append(networks.classic_unet(size, classes))
        return made[-1]

    assert build_network(classic, SIZE, CLASSES) == (made[0], [])


def test_function_that_returns_no_network_is_named_with_its_line():
    def forgot(size, classes):
        image = layers.Input((*size, 3))
        keras.Model(image, layers.Conv2D(classes, 1)(image))

    line = inspect.getsourcelines(forgot)[1]
    message = refused(forgot)
    assert message.startswith("forgot (tests/training/test_building.py, line ")
    assert f"line {line}) returns nothing; its last line must be: return keras.Model(" in message
    assert "returns a tuple, not a model" in refused(lambda size, classes: (1, 2))


def test_function_that_raises_is_named_with_the_line_that_raised():
    def broken(size, classes):
        image = layers.Input((*size, 3))
        return layers.Add()([image, layers.Conv2D(classes, 1, 2)(image)])

    line = inspect.getsourcelines(broken)[1] + 2
    message = refused(functools.partial(broken))
    assert f"broken (tests/training/test_building.py, line {line}) raises ValueError: " in message
    spaced = refused(network(layers.Conv2D(3, 1, name="my layer+1")))
    assert "tiny (" in spaced and "'my layer+1/' is not a valid root scope name" in spaced


def test_refusal_of_the_function_itself_is_handed_on():
    def refuses(size, classes):
        raise UserError("this network needs sides of 96")

    assert refused(refuses) == "this network needs sides of 96"


def test_several_outputs_and_several_inputs_are_refused():
    def supervised_deeply(size, classes):
        image = layers.Input((*size, 3))
        return keras.Model(image, [layers.Conv2D(classes, 1)(image) for _ in range(3)])

    assert "returns a model of 1 inputs and 3 outputs" in refused(supervised_deeply)


def test_subclassed_model_is_refused():
    class Own(keras.Model):
        pass

    assert "is not made of the calls of layers" in refused(lambda size, classes: Own())


def test_other_sizes_are_refused():
    assert "maps (32, 32, 3) to (32, 32, 4), not (32, 32, 3) to (32, 32, 3)" in refused(
        network(classes=4)
    )
    assert "to (16, 16, 3), not" in refused(network(stride=2))
    fixed = network()
    assert "maps (64, 64, 3) to" in refused(lambda size, classes: fixed((64, 64), classes))


def test_one_channel_is_told_what_is_missing():
    message = refused(network(classes=1))
    assert "one channel tells two classes apart, and the data set has 3" in message
    model, notes = build_network(network(classes=1), SIZE, 2)
    assert model.output_shape[-1] == 2 and len(notes) == 1


def test_bytes_as_input_are_refused_with_what_to_write():
    """Images of 0..1 in whole numbers are black."""
    message = refused(network(layers.Rescaling(1 / 255), dtype="uint8"))
    assert "has the type uint8, but images come as float32" in message
    assert "layers.Input((*size, 3))" in message


def test_network_whose_file_could_not_be_read_back_is_refused():
    message = refused(network(layers.Lambda(lambda x: x)))
    assert "tiny uses keras.layers.Lambda, which could not be read back" in message


@pytest.mark.parametrize(
    ("name", "becomes"),
    [("my net", "my_net"), ("u+net", "u_net"), ("größe", "gr__e"), ("_net", "network_net")],
)
def test_name_that_tensorflow_does_not_take_is_changed(name, becomes):
    model, _ = build_network(network(name=name), SIZE, CLASSES)
    assert model.name == becomes
    images = np.zeros((1, *SIZE, 3), np.float32)
    logits = tf.function(model)(tf.constant(images))  # a ValueError with the name before
    assert segmentation_loss(tf.zeros((1, *SIZE), tf.int32), logits) > 0


def test_network_in_bfloat16_gives_logits_in_float32():

    def function(size, classes):
        return network(layers.Conv2D(8, 1))(size, classes)

    model, _ = build_network(function, SIZE, CLASSES, "mixed_bfloat16")
    assert model.layers[1].compute_dtype == "bfloat16"
    assert model(np.zeros((1, *SIZE, 3), np.float32)).dtype == tf.float32
    assert keras.mixed_precision.global_policy().name == "float32"
