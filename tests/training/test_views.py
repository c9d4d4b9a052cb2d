"""Teacher and student at two resolutions, and which networks have such a pair."""

import numpy as np
import pytest

from pipeline.base.lazy import keras, layers, tf
from pipeline.pruning import magnitude
from pipeline.training import networks
from pipeline.training.views import distillation_pair

SIDES = {  # side and enlargement of the network: sides that teacher and student run at
    (128, 1.25): (160, 128),
    (160, 1.0): (160, 128),
    (64, 2.5): (160, 128),
    (128, 1.0): (160, 128),  # 0.8 of 128 rounds up to 128: the teacher is enlarged instead
    (96, 1.0): (96, 96),
}


@pytest.mark.slow
@pytest.mark.parametrize(("side", "enlargement"), SIDES)
def test_student_runs_at_a_lower_resolution_than_its_teacher(side, enlargement):
    """It computes what plain resizing around a network of that side and these weights does."""
    given = [networks.compact_unet((side, side), 4, enlargement, (16, 8, 8)) for _ in range(2)]
    image = np.random.default_rng(0).random((2, side, side, 3), np.float32)
    pair = distillation_pair(*given)
    for model, resized, inner in zip(given, pair, SIDES[side, enlargement], strict=True):
        assert all(a is b for a, b in zip(model.variables, resized.variables, strict=True))
        plain = networks.compact_unet((inner, inner), 4, 1.0, (16, 8, 8))
        plain.set_weights(model.get_weights())
        logits = plain(tf.image.resize(image, (inner, inner)))
        expected = tf.image.resize(logits, (side, side)).numpy()
        tolerance = 1e-5 * abs(expected).max()
        np.testing.assert_allclose(resized(image).numpy(), expected, atol=tolerance)
    before = model.get_layer("stem_norm").moving_mean.numpy()
    resized(image, training=True)
    assert np.abs(model.get_layer("stem_norm").moving_mean.numpy() - before).max() > 0


@pytest.mark.slow
def test_distillation_pair_of_a_network_with_pruning_wrappers():
    """The same model can also be taken twice, as fine-tuning follows training."""
    model = networks.compact_unet((128, 128), 3, 1.25, (16, 8, 8))
    image = np.random.default_rng(0).random((1, 128, 128, 3), np.float32)
    _, student = distillation_pair(model, model)
    expected = student(image).numpy()
    pruned = magnitude.wrap(model, {"block9_expand": 0.5}, 100)
    _, wrapped = distillation_pair(model, pruned)
    np.testing.assert_array_equal(wrapped(image).numpy(), expected)
    assert np.abs(model(image) - expected).max() > 0.01 * np.abs(expected).max()


def test_networks_that_cannot_run_at_another_resolution_are_their_own_pair():
    for model in (networks.compact_unet((64, 96), 3), networks.classic_unet((160, 160), 3)):
        assert distillation_pair(model, model) == (model, model)


def edited(end=None, middle=None):
    """The compact network as its user edits it: with another end, or a layer before its last."""
    model = networks.compact_unet((128, 128), 3, 1.25, (16, 8, 8))
    block = model.get_layer("logits_block")
    if end is not None:
        return keras.Model(model.input, end(model, block))
    x = layers.Conv2D(48, 1, name="logits_block")(middle(block.input))
    return keras.Model(model.input, networks.logits_of_size(x, 4, (128, 128)))


def other_head(model, block):
    return layers.Conv2DTranspose(3, 4, 4)(layers.Conv2D(32, 1, name="logits_block")(block.input))


def beside_the_logits(model, block):
    more = layers.Conv2D(3, 1)(layers.UpSampling2D(4)(block.input))
    return layers.Add()([model.output, layers.Resizing(128, 128)(more)])


def refined_between(model, block):
    x = networks.blocks_to_pixels(block.output, 4)
    return layers.Resizing(128, 128)(layers.Conv2D(3, 3, padding="same")(x))


EDITED = {
    "a layer behind": (lambda model, _: layers.Conv2D(3, 5, padding="same")(model.output), None),
    "another head": (other_head, None),
    "a second path": (beside_the_logits, None),
    "a layer before the last resizing": (refined_between, None),
    "another interpolation": (
        lambda _, block: layers.Resizing(128, 128, interpolation="nearest", dtype="float32")(
            layers.Activation("linear", dtype="float32")(networks.blocks_to_pixels(block.output, 4))
        ),
        None,
    ),
    "a layer of one size": (None, lambda x: layers.Resizing(40, 40)(x)),
    "slopes per pixel": (None, lambda x: layers.PReLU()(x)),
}


@pytest.mark.parametrize(
    "kind",
    [
        "another head",
        *(pytest.param(k, marks=pytest.mark.slow) for k in EDITED if k != "another head"),
    ],
)
def test_edited_compact_network_is_not_taken_in_part(kind):
    """The teacher was the network without what follows its layer logits_block."""
    model = edited(*EDITED[kind])
    assert distillation_pair(model, model) == (model, model)


def test_compact_network_with_another_activation_or_dropout_has_a_pair():
    model = edited(None, lambda x: layers.Dropout(0.1)(layers.LeakyReLU(0.1)(x)))
    teacher, student = distillation_pair(model, model)
    assert teacher is model and student is not model
    assert student.output_shape == model.output_shape
    assert all(a is b for a, b in zip(student.variables, model.variables, strict=True))
