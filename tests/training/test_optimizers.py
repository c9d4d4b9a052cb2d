"""AdamW: its schedule, its moving average, and the encoder's share of each step."""

import numpy as np
import pytest

from pipeline.base.lazy import keras, layers, tf
from pipeline.training import networks
from pipeline.training.optimizers import averaged, make_optimizer


def test_learning_rate_warms_up_and_falls_to_zero():
    rate = make_optimizer(1000, 2e-3, 200)._learning_rate
    assert float(rate(0)) == 0
    assert float(rate(100)) == pytest.approx(1e-3)
    assert float(rate(200)) == pytest.approx(2e-3)
    assert float(rate(600)) == pytest.approx(1e-3, rel=1e-3)
    assert float(rate(1000)) == pytest.approx(0, abs=1e-9)


def test_warm_up_takes_no_more_than_a_quarter_of_a_short_training():
    rate = make_optimizer(40, 2e-3, 200)._learning_rate
    assert float(rate(10)) == pytest.approx(2e-3)
    assert float(rate(40)) == pytest.approx(0, abs=1e-9)


@pytest.fixture
def stepped():
    """A small model after a few steps of an optimizer, and the values it had after each."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([layers.Input((32, 32, 3)), layers.Conv2D(3, 3)])
    optimizer, values = make_optimizer(100, 1e-2, 5), []
    optimizer.build(model.trainable_variables)
    for _ in range(8):
        gradients = [tf.random.normal(each.shape) for each in model.trainable_variables]
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        values.append([each.numpy() for each in model.trainable_variables])
    return model, optimizer, values


def test_averaging_puts_the_weights_back(stepped):
    model, optimizer, values = stepped
    with averaged(model, optimizer):
        for now, old in zip(model.trainable_variables, values[-1]):
            assert (now.numpy() != old).any()
    for now, old in zip(model.trainable_variables, values[-1]):
        assert (now.numpy() == old).all()


def test_average_lies_between_the_steps_that_were_made(stepped):
    model, optimizer, values = stepped
    with averaged(model, optimizer):
        for k, now in enumerate(model.trainable_variables):
            every = np.stack([each[k] for each in values])
            assert (now.numpy() <= every.max(axis=0) + 1e-6).all()
            assert (now.numpy() >= every.min(axis=0) - 1e-6).all()


def test_a_share_of_earlier_weights_is_mixed_in_and_taken_out_again():
    """Of the moving average, and of what normalisation counted, which has none."""
    model = keras.Sequential([layers.Input((8, 8, 3)), layers.BatchNormalization()])
    optimizer = make_optimizer(100, 1e-2, 5)
    optimizer.build(model.trainable_variables)
    start = model.get_weights()
    for _ in range(4):
        model(tf.random.uniform((2, 8, 8, 3)), training=True)
        gradients = [tf.random.normal(each.shape) for each in model.trainable_variables]
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
    before = model.get_weights()
    with averaged(model, optimizer):
        average = model.get_weights()
    with averaged(model, optimizer, start, 0.25):
        mixed = model.get_weights()
    for old, new, now in zip(start, average, mixed, strict=True):
        assert (old != new).any()
        np.testing.assert_allclose(now, 0.25 * old + 0.75 * new, rtol=1e-6)
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))


def test_encoder_moves_by_its_share_of_the_step_and_the_decoder_by_the_whole():
    moved = {}
    for share in (1.0, 0.25):
        keras.utils.set_random_seed(0)
        model = networks.compact_unet((32, 32), 3)
        optimizer = make_optimizer(100, 1e-3, 1, average=False, encoder_share=share)
        optimizer.weight_decay = None  # which is another movement
        variables = model.trainable_variables
        optimizer.build(variables)
        before = [variable.numpy() for variable in variables]
        for _ in range(2):  # the first step of the warm-up has rate 0
            optimizer.apply_gradients([(tf.ones_like(each), each) for each in variables])
        moved[share] = {each.name: each.numpy() - was for each, was in zip(variables, before)}
    for name, whole in moved[1.0].items():
        share = 0.25 if name.startswith(("stem", "block")) else 1.0
        assert np.abs(whole).min() > 0
        tolerance = {"rtol": 1e-3, "atol": 1e-7}
        np.testing.assert_allclose(moved[0.25][name], share * whole, **tolerance, err_msg=name)


def test_scales_offsets_and_biases_do_not_decay():
    model = networks.classic_unet((32, 32), 3)
    optimizer = make_optimizer(100, 1e-2, 1, average=False)
    variables = model.trainable_variables
    optimizer.build(variables)
    for variable in variables:
        variable.assign(tf.ones_like(variable))
    for _ in range(2):
        optimizer.apply_gradients([(tf.zeros_like(each), each) for each in variables])
    decayed = {each.name.split("/")[-1] for each in variables if (each.numpy() < 1).any()}
    assert decayed == {"kernel:0"}
