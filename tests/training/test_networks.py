"""The U-Nets: their size and logits, enlargement, distillation pairs, skip connections."""

import numpy as np
import pytest

from pipeline.base.lazy import keras, tf
from pipeline.pruning import magnitude
from pipeline.training import networks


def test_classic_network_has_the_textbook_size():
    assert networks.classic_unet((128, 128), 3).count_params() == pytest.approx(1.86e6, rel=0.01)


def test_compact_network_is_small():
    assert networks.compact_unet((128, 128), 3).count_params() <= 1.3e6


@pytest.mark.parametrize(
    ("name", "size", "classes"),
    [("compact", (64, 64), 3), ("compact", (96, 64), 5), ("classic", (32, 64), 5)],
)
def test_network_gives_a_logit_per_class_and_pixel(name, size, classes):
    image = np.zeros((2, *size, 3), np.float32)
    logits = networks.NETWORKS[name](size, classes)(image)
    assert logits.shape == (2, *size, classes) and logits.dtype == tf.float32


def test_enlarged_network_is_the_larger_one_between_two_resizings():
    small, large = networks.compact_unet((32, 32), 3, 2.0), networks.compact_unet((64, 64), 3)
    assert small.count_params() == large.count_params()
    large.set_weights(small.get_weights())
    image = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    expected = tf.image.resize(large(tf.image.resize(image, (64, 64))), (32, 32)).numpy()
    tolerance = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(small(image).numpy(), expected, atol=tolerance)


SIDES = {  # side and enlargement of the network: sides that teacher and student run at
    (128, 1.25): (160, 128),
    (160, 1.0): (160, 128),
    (64, 2.5): (160, 128),
    (128, 1.0): (160, 128),  # 0.8 of 128 rounds up to 128: the teacher is enlarged instead
    (96, 1.0): (96, 96),
}


SLOW_SIDES = [pytest.param(*case, marks=pytest.mark.slow) for case in SIDES if case[1] != 1.25]


@pytest.mark.parametrize(
    ("side", "enlargement"), [*(case for case in SIDES if case[1] == 1.25), *SLOW_SIDES]
)
def test_student_runs_at_a_lower_resolution_than_its_teacher(side, enlargement):
    """It computes what plain resizing around a network of that side and these weights does."""
    given = [networks.compact_unet((side, side), 4, enlargement, (16, 8, 8)) for _ in range(2)]
    image = np.random.default_rng(0).random((2, side, side, 3), np.float32)
    pair = networks.distillation_pair(*given)
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


def test_distillation_pair_of_a_network_with_pruning_wrappers():
    """The same model can also be taken twice, as fine-tuning follows training."""
    model = networks.compact_unet((128, 128), 3, 1.25, (16, 8, 8))
    image = np.random.default_rng(0).random((1, 128, 128, 3), np.float32)
    _, student = networks.distillation_pair(model, model)
    expected = student(image).numpy()
    pruned = magnitude.wrap(model, {"block9_expand": 0.5}, 100)
    _, wrapped = networks.distillation_pair(model, pruned)
    np.testing.assert_array_equal(wrapped(image).numpy(), expected)
    assert np.abs(model(image) - expected).max() > 0.01 * np.abs(expected).max()


def test_networks_that_cannot_run_at_another_resolution_are_their_own_pair():
    for model in (networks.compact_unet((64, 96), 3), networks.classic_unet((160, 160), 3)):
        assert networks.distillation_pair(model, model) == (model, model)


def test_skip_connections_carry_detail_to_the_logits():
    """A change of one pixel changes the logits near it, which the deep path alone cannot do."""
    keras.utils.set_random_seed(0)
    for build in networks.NETWORKS.values():
        model = build((128, 128), 3)
        image = np.full((1, 128, 128, 3), 0.5, np.float32)
        other = image.copy()
        other[0, 80, 48] = 1
        change = np.abs(model(other) - model(image)).sum(axis=-1)[0]
        rows, columns = np.indices(change.shape)
        near = (abs(rows - 80) <= 16) & (abs(columns - 48) <= 16)
        assert change[near].mean() > 3 * change[~near].mean(), build.__name__
