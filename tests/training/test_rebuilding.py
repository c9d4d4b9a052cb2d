"""Networks inside a network are written out, and a softmax or sigmoid at its end is taken off."""

import numpy as np
import pytest

from pipeline.base.console import UserError
from pipeline.base.lazy import keras, layers, tf
from pipeline.training.keras_private import is_graph_model
from pipeline.training.networks import compact_unet
from pipeline.training.rebuilding import flattened, with_logits

SIZE, CLASSES = 32, 3


def convolution(filters, **settings):
    return layers.Conv2D(filters, 3, padding="same", bias_initializer="random_normal", **settings)


def block(filters, *more):
    """A block as tutorials write it; without an input of its own."""
    return keras.Sequential([convolution(filters), layers.BatchNormalization(), *more])


def of_tutorial(image):
    """TensorFlow's tutorial of this data set: a frozen backbone of several outputs, and blocks."""
    base = keras.applications.MobileNetV2((SIZE, SIZE, 3), 0.35, include_top=False, weights=None)
    names = ("block_1_expand_relu", "block_3_expand_relu", "block_6_expand_relu")
    encoder = keras.Model(base.input, [base.get_layer(name).output for name in names])
    encoder.trainable = False
    shallow, middle, deep = encoder(image, training=False)
    for skip in (middle, shallow):
        grow = keras.Sequential(
            [
                layers.Conv2DTranspose(16, 3, 2, padding="same", use_bias=False),
                layers.BatchNormalization(),
                layers.ReLU(),
            ]
        )
        deep = layers.Concatenate()([grow(deep), skip])
    return layers.Conv2DTranspose(CLASSES, 3, 2, padding="same")(deep)


def in_another(image):
    inner = block(8, block(8, layers.ReLU()), layers.Dropout(0.5))
    return convolution(CLASSES)(inner(image))


def called_twice(image):
    shared = block(3, layers.ReLU())
    return convolution(CLASSES)(layers.Concatenate()([shared(image), shared(shared(image))]))


def same_names(image):
    def half():
        x = layers.Input((SIZE, SIZE, 3))
        return keras.Model(x, convolution(4, name="convolution")(x), name="half")

    two = convolution(4, name="convolution")(image)
    return convolution(CLASSES)(layers.Add()([half()(image), two]))


def of_two_inputs(image):
    one, other = layers.Input((SIZE, SIZE, 4)), layers.Input((SIZE, SIZE, 4))
    gate = keras.Model([one, other], layers.Multiply()([one, convolution(4)(other)]), name="gate")
    return convolution(CLASSES)(gate([convolution(4)(image), convolution(4)(image)]))


def with_functions(image):
    inner = compact_unet((SIZE, SIZE), 4)
    return convolution(CLASSES)(2.0 * inner(image) + 1.0)


def frozen_normalisation(image):
    inner = block(8, layers.ReLU())
    x = inner(image, training=False)
    return convolution(CLASSES)(x)


NESTED = {
    function.__name__: function
    for function in (of_tutorial, in_another, called_twice, same_names, of_two_inputs)
} | {function.__name__: function for function in (with_functions, frozen_normalisation)}


def network_of(function):
    """A network with statistics of normalisation that are not those of its first step."""
    keras.utils.set_random_seed(0)
    image = layers.Input((SIZE, SIZE, 3), name="picture")
    model = keras.Model(image, function(image), name="outer")
    random = np.random.default_rng(3)
    model.set_weights([value + 0.1 * random.random(value.shape) for value in model.get_weights()])
    return model


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name == "with_functions")) for name in NESTED],
)
def test_network_without_models_inside_computes_the_same(name):
    model = network_of(NESTED[name])
    flat = flattened(model)
    assert not any(is_graph_model(layer) for layer in flat.layers)
    names = [layer.name for layer in flat.layers]
    assert len(set(names)) == len(names) and flat.name == "outer" and names[0] == "picture"
    assert flat.count_params() == model.count_params()
    assert len(flat.trainable_variables) == len(model.trainable_variables)
    images = np.random.default_rng(0).random((2, SIZE, SIZE, 3), np.float32)
    np.testing.assert_array_equal(flat(images).numpy(), model(images).numpy())
    if name == "in_another":
        return  # random numbers
    # In training, too: and what normalisation remembers of it.
    np.testing.assert_array_equal(
        flat(images, training=True).numpy(), model(images, training=True).numpy()
    )
    np.testing.assert_array_equal(flat(images).numpy(), model(images).numpy())


@pytest.mark.slow
def test_layers_keep_their_names_where_no_other_layer_has_them():
    flat = flattened(network_of(of_tutorial))
    assert {"Conv1", "bn_Conv1", "block_3_expand_BN"} <= {layer.name for layer in flat.layers}
    names = [layer.name for layer in flattened(network_of(same_names)).layers]
    assert "convolution" in names and "half_convolution" in names


MEAN, VARIANCE = np.array([0.2, 0.5, 0.9]), np.array([0.04, 0.25, 0.01])
NORMALISED = {  # arguments of the layer, its weights, and what it computes
    "fixed": ({"mean": MEAN, "variance": VARIANCE}, [], MEAN, VARIANCE),
    "adapted": ({}, [MEAN, VARIANCE, 9], MEAN, VARIANCE),  # as in keras.applications
    "one number": ({"axis": None, "mean": 0.3, "variance": 4.0}, [], 0.3, 4.0),
}


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("kind", NORMALISED)
def test_normalisation_by_fixed_numbers_becomes_a_rescaling(kind, inside, inverse):
    settings, weights, mean, variance = NORMALISED[kind]
    layer = layers.Normalization(invert=inverse, name="statistics", **settings)
    image = layers.Input((SIZE, SIZE, 3))
    model = keras.Model(image, layer(image), name="inner")
    layer.set_weights([np.asarray(value) for value in weights])
    if inside:
        again = layers.Input((SIZE, SIZE, 3))
        model = keras.Model(again, model(again))
    flat = flattened(model)
    assert [type(layer).__name__ for layer in flat.layers] == ["InputLayer", "Rescaling"]
    assert flat.layers[1].name == "statistics" and flat.count_params() == 0
    images = np.random.default_rng(0).random((2, SIZE, SIZE, 3), np.float32)
    deviation = np.maximum(np.sqrt(variance), 1e-7)
    expected = images * deviation + mean if inverse else (images - mean) / deviation
    np.testing.assert_allclose(flat(images), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(keras.Model.from_config(flat.get_config())(images), flat(images))


def test_network_of_plain_layers_is_the_given_one():
    model = network_of(convolution(CLASSES))
    assert flattened(model) is model
    assert with_logits(model, CLASSES) == (model, [])


# --- probabilities at the end ---------------------------------------------------------------

# By name: the layers that follow the last convolution, or its activation.
ENDS = {
    "softmax argument": ("softmax",),
    "sigmoid argument": ("sigmoid",),
    "softmax layer": (None, lambda: layers.Softmax()),
    "activation layer": (None, lambda: layers.Activation("softmax")),
    "function": (None, lambda: tf.nn.softmax),
    "sigmoid function": (None, lambda: tf.sigmoid),
    "in float32": ("softmax", lambda: layers.Activation("linear", dtype="float32")),
    "pixels in a row": (
        *(None, lambda: layers.Reshape((SIZE * SIZE, CLASSES)), lambda: layers.Softmax()),
        lambda: layers.Reshape((SIZE, SIZE, CLASSES)),
    ),
}


def ending(kind, classes=CLASSES):
    """A network that ends so, and the same without the activation."""
    activation, *more = ENDS[kind]
    models = []
    for last in (activation, None):
        keras.utils.set_random_seed(0)
        image = layers.Input((SIZE, SIZE, 3))
        x = convolution(classes, name="last", activation=last)(convolution(8, name="a")(image))
        for make in more if last == activation and models == [] else ():
            x = make()(x)
        models.append(keras.Model(image, x, name="tutorial"))
    return models


@pytest.mark.parametrize("kind", ENDS)
def test_probabilities_at_the_end_become_logits(kind):
    model, plain = ending(kind)
    images = np.random.default_rng(0).random((2, SIZE, SIZE, 3), np.float32)
    changed, (note,) = with_logits(model, CLASSES)
    np.testing.assert_allclose(changed(images).numpy(), plain(images).numpy(), atol=1e-6)
    assert np.abs(model(images) - plain(images)).max() > 0.1, "it was no logit"
    kind = "sigmoid" if "sigmoid" in kind else "softmax"
    assert note.startswith(f"tutorial ends with a {kind} (")
    assert with_logits(changed, CLASSES) == (changed, [])


def test_probabilities_that_are_enlarged_at_the_end_become_logits():
    image = layers.Input((SIZE, SIZE, 3))
    x = convolution(CLASSES, strides=2, activation="softmax")(image)
    model = keras.Model(image, layers.UpSampling2D(interpolation="bilinear")(x))
    changed, notes = with_logits(model, CLASSES)
    images = np.random.default_rng(0).random((2, SIZE, SIZE, 3), np.float32)
    assert len(notes) == 1 and changed(images).numpy().min() < 0


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_one_channel_for_two_classes_becomes_two_logits(activation):
    """The softmax over 0 and x is the sigmoid of x."""
    image = layers.Input((SIZE, SIZE, 3))
    model = keras.Model(image, convolution(1, activation=activation)(image))
    changed, notes = with_logits(model, 2)
    images = np.random.default_rng(0).random((2, SIZE, SIZE, 3), np.float32)
    value = model(images)[..., 0]
    probability = value if activation else tf.sigmoid(value)
    np.testing.assert_allclose(tf.nn.softmax(changed(images))[..., 1], probability, atol=1e-6)
    assert "two logits now" in notes[-1] and len(notes) == (2 if activation else 1)
    assert changed.output_shape == (None, SIZE, SIZE, 2)


def test_softmax_within_the_network_or_over_pixels_stays():
    image = layers.Input((SIZE, SIZE, 3))
    weights = convolution(3, activation="softmax")(image)
    model = keras.Model(image, convolution(CLASSES)(layers.Multiply()([image, weights])))
    assert with_logits(model, CLASSES) == (model, [])
    model = keras.Model(image, layers.Softmax(1)(convolution(CLASSES)(image)))
    assert with_logits(model, CLASSES) == (model, [])


def test_probabilities_that_the_network_uses_elsewhere_are_refused():
    image = layers.Input((SIZE, SIZE, 3))
    head = convolution(3, name="head", activation="softmax")
    twice = keras.Model(image, head(head(image)), name="twice")
    with pytest.raises(UserError, match=r"twice ends with probabilities \(head\), which it uses"):
        with_logits(twice, CLASSES)


def test_shared_softmax_layer_stays_where_it_is_used_within_the_network():
    image, softmax = layers.Input((SIZE, SIZE, 3)), layers.Softmax()
    logits = convolution(CLASSES)(softmax(convolution(8)(image)))
    plain = keras.Model(image, logits)
    changed, notes = with_logits(keras.Model(image, softmax(logits)), CLASSES)
    images = np.random.default_rng(0).random((2, SIZE, SIZE, 3), np.float32)
    np.testing.assert_allclose(changed(images).numpy(), plain(images).numpy(), atol=1e-6)
    assert len(notes) == 1
