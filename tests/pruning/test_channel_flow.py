"""Channels are followed through the layers that people use: the network without some of them
computes what the masked one does, and they can be removed at all.
"""

import numpy as np
import pytest

from pipeline.base.lazy import keras, layers, tf
from pipeline.pruning import channel_removal
from pipeline.pruning.channels import choose_channels
from pipeline.pruning.dependency_graph import channel_groups
from pipeline.training.losses import Objective
from tests.helpers.toy_networks import with_random_normalisation

SIZE, CLASSES = 16, 3


def convolution(filters, name, size=3, **settings):
    """A convolution with a bias that is not zero."""
    biases = {"bias_initializer": "random_normal", "padding": "same"}
    return layers.Conv2D(filters, size, name=name, **{**biases, **settings})


def between(make_middle):
    """Two convolutions, "first" and "last", with the layers that `make_middle` makes in between."""

    def build(x):
        x = convolution(16, "first")(x)
        for layer in make_middle():
            x = layer(x)
        return convolution(16, "last", activation="relu")(x)

    return build


def transposed(x):
    a = convolution(16, "first", activation="relu")(x)
    b = convolution(24, "second", strides=2, activation="relu")(a)
    b = layers.Conv2DTranspose(16, 2, 2, name="grown", bias_initializer="random_normal")(b)
    return convolution(16, "last")(layers.Concatenate()([b, a]))


def concatenated_in_any_order(x):
    a, b, c = (convolution(filters, f"part{filters}")(x) for filters in (8, 16, 24))
    first = convolution(8, "first")(layers.Concatenate()([c, a, b, a]))
    both = layers.Concatenate()([b, layers.Concatenate()([first, c])])
    return convolution(16, "last")(layers.BatchNormalization(name="norm")(both))


def added_to_a_concatenation(x):
    a, b, c = (convolution(filters, f"part{filters}")(x) for filters in (8, 16, 24))
    return convolution(16, "last")(layers.Add()([layers.Concatenate()([a, b]), c]))


def two_orders_added(x):
    a, b = convolution(16, "first")(x), convolution(16, "second")(x)
    orders = layers.Concatenate()([a, b]), layers.Concatenate()([b, a])
    return convolution(16, "last")(layers.Add()(orders))


def pixels_concatenated(x):
    a, b = convolution(16, "first")(x), convolution(16, "second")(x)
    return convolution(16, "last", strides=(2, 1))(layers.Concatenate(1)([a, b]))


def one_channel_gate(x):
    a = convolution(16, "first", activation="relu")(x)
    gate = convolution(1, "gate", 1, activation="sigmoid")(convolution(8, "before_gate")(a))
    return convolution(16, "last")(layers.Multiply()([a, gate]))


def squeeze_and_excitation(x):
    a = convolution(16, "first", activation="relu")(x)
    s = layers.Dense(8, activation="relu", name="squeeze")(layers.GlobalAveragePooling2D()(a))
    s = layers.Dense(16, activation="sigmoid", name="excite")(s)
    return convolution(16, "last")(layers.Multiply()([a, layers.Reshape((1, 1, 16))(s)]))


def squeeze_by_convolution(x):
    a = convolution(16, "first", activation="relu")(x)
    s = layers.GlobalAveragePooling2D(keepdims=True)(a)
    s = convolution(16, "excite", 1, activation="hard_sigmoid")(convolution(8, "squeeze", 1)(s))
    return convolution(16, "last")(layers.Multiply()([a, s]))


def one_reshape_for_two(x):
    reshape = layers.Reshape((1, 1, 16))
    for name in ("a", "b"):
        x = convolution(16, f"first_{name}")(x)
        s = layers.Dense(16, "sigmoid", name=f"excite_{name}")(layers.GlobalMaxPooling2D()(x))
        x = layers.Multiply()([x, reshape(s)])
    return convolution(16, "last")(x)


def flattened_into_dense(x):
    a = convolution(16, "first", strides=8)(x)
    s = layers.Reshape((1, 1, 8))(layers.Dense(8, name="dense")(layers.Flatten()(a)))
    b = convolution(8, "second")(x)
    return convolution(16, "last")(layers.Add()([b, s]))


def dense_on_pixels(x):
    a = convolution(16, "first")(x)
    return layers.Dense(16, "relu", name="last")(layers.Reshape((-1, SIZE, 16))(a))


def one_relu(x):
    relu, pool = layers.ReLU(), layers.MaxPooling2D()
    a = relu(convolution(16, "first")(x))
    b = relu(convolution(24, "second")(pool(a)))
    x = layers.Concatenate()([layers.UpSampling2D()(b), a])
    return relu(convolution(16, "last")(x))


def one_head(x):
    head = convolution(16, "head", activation="relu")
    a = convolution(24, "first", activation="relu")(x)
    b = convolution(24, "second", strides=2, activation="relu")(a)
    sum_of_scales = layers.Add()([head(a), layers.UpSampling2D()(head(b))])
    return convolution(16, "last")(sum_of_scales)


def one_norm(x):
    norm = layers.BatchNormalization(name="norm")
    x = layers.ReLU()(norm(convolution(16, "first")(x)))
    return layers.ReLU()(norm(convolution(16, "second")(x)))


def recurrent(x):
    step = convolution(16, "step", activation="relu")
    x = convolution(16, "first")(x)
    return convolution(16, "last")(step(step(step(x))))


def arithmetic(x):
    a, b = convolution(16, "first")(x), convolution(16, "second")(x)
    return convolution(16, "last")(tf.nn.relu(a * b - 2.0 * a) + b / 3.0)


def separable(x):
    x = convolution(16, "first")(x)
    biased = {"padding": "same", "bias_initializer": "random_normal"}
    x = layers.SeparableConv2D(24, 3, depth_multiplier=2, name="separable", **biased)(x)
    return layers.SeparableConv2D(16, 3, name="last", **biased)(x)


def broadcast_over_pixels(x):
    a, b = convolution(16, "first")(x), convolution(16, "second")(x)
    pooled = layers.GlobalAveragePooling2D()(b)
    return convolution(16, "last")(layers.Maximum()([a, layers.Reshape((1, 1, -1))(pooled)]))


def cropped_skip(x):
    a = convolution(16, "first", activation="relu")(x)
    b = layers.Cropping2D(2)(convolution(16, "second")(layers.ZeroPadding2D(2)(a)))
    return convolution(16, "last")(layers.Average()([a, b]))


EACH = {"first": 16, "last": 16}
# By name: the function of a tensor of the image, and the channels by the first layer that writes
# them; those of one group count once.
BLOCKS = {
    "transposed": (transposed, EACH | {"second": 24, "grown": 16}),
    "concatenated in any order": (
        *(concatenated_in_any_order,),
        {"part8": 8, "part16": 16, "part24": 24, "first": 8, "last": 16},
    ),
    "added to a concatenation": (added_to_a_concatenation, {"part8": 8, "part16": 16, "last": 16}),
    "two orders added": (two_orders_added, EACH),
    "pixels concatenated": (pixels_concatenated, EACH),
    "one channel gate": (one_channel_gate, EACH | {"before_gate": 8}),
    "squeeze and excitation": (squeeze_and_excitation, EACH | {"squeeze": 8}),
    "squeeze by convolution": (squeeze_by_convolution, EACH | {"squeeze": 8}),
    "one reshape for two": (one_reshape_for_two, {"first_a": 16, "last": 16}),
    "flattened into dense": (flattened_into_dense, EACH | {"dense": 8}),
    "dense on pixels": (dense_on_pixels, EACH),
    "one relu": (one_relu, EACH | {"second": 24}),
    "one head": (one_head, {"first": 24, "head": 16, "last": 16}),
    "one norm": (one_norm, {"first": 16}),
    "recurrent": (recurrent, EACH),
    "arithmetic": (arithmetic, EACH),
    "separable": (separable, EACH | {"separable": 24}),
    "broadcast over pixels": (broadcast_over_pixels, {"second": 16, "last": 16}),
    "cropped skip": (cropped_skip, EACH),
    "depthwise of two": (
        *(between(lambda: [layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)]), EACH),
    ),
    "a bias before a sigmoid": (between(lambda: [layers.Activation("sigmoid")]), EACH),
    "slopes per channel": (
        between(lambda: [layers.PReLU("random_normal", shared_axes=[1, 2])]),
        EACH,
    ),
    "slopes per pixel": (between(lambda: [layers.PReLU("random_normal")]), EACH),
    "one slope": (between(lambda: [layers.PReLU("random_normal", shared_axes=[1, 2, 3])]), EACH),
    "no scale": (between(lambda: [layers.BatchNormalization(scale=False, center=False)]), EACH),
    "activations": (
        *(between(lambda: [layers.LeakyReLU(0.2), layers.ELU(), layers.Activation("swish")]), EACH),
    ),
    "a scale and an offset": (
        between(lambda: [layers.Rescaling(0.5, 1.0), layers.ReLU(4.0)]),
        EACH,
    ),
    "pooled and resized": (
        between(
            lambda: [
                layers.AveragePooling2D(),
                layers.SpatialDropout2D(0.5),
                layers.Resizing(SIZE, SIZE),
            ]
        ),
        EACH,
    ),
}


def network_of(build):
    """A network that reads the image, applies a function to it and gives logits."""
    keras.utils.set_random_seed(1)
    image = layers.Input((SIZE, SIZE, 3))
    x = build(image)
    logits = convolution(CLASSES, "logits", 1)(x)
    return with_random_normalisation(keras.Model(image, logits))


def copy_of(model):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


@pytest.mark.parametrize("name", BLOCKS)
def test_smaller_network_computes_what_the_masked_one_does(name):
    build, expected_groups = BLOCKS[name]
    model = network_of(build)
    groups = channel_groups(model)
    assert {group.producers[0]: group.channels for group in groups} == expected_groups
    random = np.random.default_rng(4)
    kept = [
        np.sort(random.choice(group.channels, group.channels // 2, replace=False))
        for group in groups
    ]
    images = random.random((2, SIZE, SIZE, 3), np.float32)
    masked = copy_of(model)
    channel_removal.mask_channels(masked, groups, kept)
    expected = masked(images).numpy()
    assert np.abs(expected - model(images).numpy()).max() > 1e-3 * np.abs(expected).max()
    small = channel_removal.remove_channels(model, groups, kept)
    np.testing.assert_allclose(
        small(images).numpy(), expected, atol=1e-5 * np.abs(expected).max(), rtol=0
    )
    assert small.count_params() < 0.7 * model.count_params()
    assert [layer.name for layer in small.layers] == [layer.name for layer in model.layers]


@pytest.mark.parametrize("name", ["transposed", "squeeze and excitation", "recurrent"])
def test_channels_can_be_chosen(name):
    model = network_of(BLOCKS[name][0])
    random = np.random.default_rng(4)
    images = random.random((4, SIZE, SIZE, 3), np.float32)
    masks = random.integers(0, CLASSES, (4, SIZE, SIZE)).astype(np.int32)
    groups = channel_groups(model)
    total = sum(group.channels for group in groups)
    kept = choose_channels(model, groups, 8 / total, [(images, masks)] * 128, Objective())
    assert sum(map(len, kept)) == total - 8
