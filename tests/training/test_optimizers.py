"""AdamW: its schedule, the EMA of the weights, weight decay, and the encoder's updates."""

import numpy as np
import pytest

from pipeline.base.lazy import keras, layers, tf
from pipeline.training import imagenet, networks
from pipeline.training.optimizers import (
    ema_weights,
    layer_factors,
    make_optimizer,
    recorded_factors,
)


def test_learning_rate_warms_up_and_decays_to_zero():
    rate = make_optimizer(1000, 2e-3, 200)._learning_rate
    assert float(rate(0)) == 0
    assert float(rate(100)) == pytest.approx(1e-3)
    assert float(rate(200)) == pytest.approx(2e-3)
    assert float(rate(600)) == pytest.approx(1e-3, rel=1e-3)
    assert float(rate(1000)) == pytest.approx(0, abs=1e-9)


def test_warm_up_takes_at_most_a_quarter_of_a_short_training():
    rate = make_optimizer(40, 2e-3, 200)._learning_rate
    assert float(rate(10)) == pytest.approx(2e-3)
    assert float(rate(40)) == pytest.approx(0, abs=1e-9)


@pytest.fixture
def stepped():
    """A small model after a few steps of an optimizer, and its weights after each step."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([layers.Input((32, 32, 3)), layers.Conv2D(3, 3)])
    optimizer, values = make_optimizer(100, 1e-2, 5), []
    optimizer.build(model.trainable_variables)
    for _ in range(8):
        gradients = [tf.random.normal(weight.shape) for weight in model.trainable_variables]
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        values.append([weight.numpy() for weight in model.trainable_variables])
    return model, optimizer, values


def test_weights_of_the_last_step_are_restored_after_the_block(stepped):
    model, optimizer, values = stepped
    with ema_weights(model, optimizer):
        for now, old in zip(model.trainable_variables, values[-1]):
            assert (now.numpy() != old).any()
    for now, old in zip(model.trainable_variables, values[-1]):
        assert (now.numpy() == old).all()


def test_ema_weights_lie_between_those_of_the_steps(stepped):
    model, optimizer, values = stepped
    with ema_weights(model, optimizer):
        for k, now in enumerate(model.trainable_variables):
            of_steps = np.stack([step_values[k] for step_values in values])
            assert (now.numpy() <= of_steps.max(axis=0) + 1e-6).all()
            assert (now.numpy() >= of_steps.min(axis=0) - 1e-6).all()


def test_wise_ft_weight_mixes_in_the_weights_before_the_training():
    """With the EMA of trained weights, and with the statistics of normalisation, which have none.

    After the block, the weights of the last step are restored.
    """
    model = keras.Sequential([layers.Input((8, 8, 3)), layers.BatchNormalization()])
    optimizer = make_optimizer(100, 1e-2, 5)
    optimizer.build(model.trainable_variables)
    start = model.get_weights()
    for _ in range(4):
        model(tf.random.uniform((2, 8, 8, 3)), training=True)
        gradients = [tf.random.normal(weight.shape) for weight in model.trainable_variables]
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
    before = model.get_weights()
    with ema_weights(model, optimizer):
        average = model.get_weights()
    with ema_weights(model, optimizer, start, 0.25):
        mixed = model.get_weights()
    for old, new, now in zip(start, average, mixed, strict=True):
        assert (old != new).any()
        np.testing.assert_allclose(now, 0.25 * old + 0.75 * new, rtol=1e-6)
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))


def test_updates_of_the_layers_that_are_named_are_scaled_and_no_others():
    updates, slow = {}, ["stem", "block1_expand", "block1_expand_norm"]
    for share in (1.0, 0.25):
        keras.utils.set_random_seed(0)
        model = networks.compact_unet((32, 32), 3)
        factors = layer_factors(model, dict.fromkeys(slow, share))
        optimizer = make_optimizer(100, 1e-3, 1, average=False, factors=factors)
        optimizer.weight_decay = None  # which is another update
        variables = model.trainable_variables
        optimizer.build(variables)
        before = [variable.numpy() for variable in variables]
        for _ in range(2):  # the first step of the warm-up has rate 0
            optimizer.apply_gradients([(tf.ones_like(weight), weight) for weight in variables])
        updates[share] = {
            weight.name: weight.numpy() - was for weight, was in zip(variables, before)
        }
    for name, whole in updates[1.0].items():
        share = 0.25 if name.split("/")[0] in slow else 1.0
        assert np.abs(whole).min() > 0
        tolerance = {"rtol": 1e-3, "atol": 1e-7}
        np.testing.assert_allclose(updates[0.25][name], share * whole, **tolerance, err_msg=name)


def test_factors_of_an_original_are_those_that_its_record_names():
    """An older record has none: then those of the default network, of the version of then."""
    compact, settings = networks.compact_unet((32, 32), 3), {"architecture": "compact"}
    named = {"settings": settings, "learning_rate_factors": {"stem": 0.5}}
    assert recorded_factors(named, compact) == {"stem": 0.5}
    assert recorded_factors(named | {"learning_rate_factors": {}}, compact) == {}
    older = recorded_factors({"settings": settings | {"encoder": "auto"}}, compact)
    assert older == dict.fromkeys(imagenet.fill_encoder(compact, "auto"), 0.3)
    assert recorded_factors({"settings": settings | {"encoder": "scratch"}}, compact) == {}
    assert recorded_factors({"settings": {"architecture": "own"}}, compact) == {}


def test_scales_offsets_and_biases_do_not_decay():
    model = networks.classic_unet((32, 32), 3)
    optimizer = make_optimizer(100, 1e-2, 1, average=False)
    variables = model.trainable_variables
    optimizer.build(variables)
    for variable in variables:
        variable.assign(tf.ones_like(variable))
    for _ in range(2):
        optimizer.apply_gradients([(tf.zeros_like(weight), weight) for weight in variables])
    decayed = {weight.name.split("/")[-1] for weight in variables if (weight.numpy() < 1).any()}
    assert decayed == {"kernel:0"}
