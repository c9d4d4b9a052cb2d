"""The U-Nets: their size and logits, enlargement, skip connections."""

import numpy as np
import pytest

from pipeline.base.lazy import keras, tf
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


@pytest.mark.slow
def test_enlarged_network_is_the_larger_one_between_two_resizings():
    small, large = networks.compact_unet((32, 32), 3, 2.0), networks.compact_unet((64, 64), 3)
    assert small.count_params() == large.count_params()
    large.set_weights(small.get_weights())
    image = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    expected = tf.image.resize(large(tf.image.resize(image, (64, 64))), (32, 32)).numpy()
    tolerance = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(small(image).numpy(), expected, atol=tolerance)


@pytest.mark.slow
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
