"""QAT: the network rounds where its int8 file does, and zeros of the kernels stay zeros."""

import functools

import numpy as np
import pytest

from pipeline.base.artifacts import artifact_path
from pipeline.base.lazy import keras, layers, tf
from pipeline.data.dataset import load_split
from pipeline.inference.keras_files import load_model
from pipeline.inference.models import open_model
from pipeline.quantization import convert
from pipeline.quantization.convert import calibration_sample
from pipeline.training import networks
from pipeline.training.input_pipeline import epoch_batches
from pipeline.training.loop import make_train_step
from pipeline.training.losses import Objective
from pipeline.training.optimizers import make_optimizer
from tests.helpers.runs import CLASSES, SIZE
from tests.helpers.toy_networks import with_statistics


@pytest.fixture(scope="module")
def qat():
    """The module, which loads Keras when it is imported."""
    from pipeline.quantization import qat

    return qat


@pytest.fixture(scope="module")
def validation(finished_run):
    return load_split(finished_run, "validation")[0][:]


@pytest.fixture
def rounded_to_nearest(monkeypatch):
    """Converts to int8 with kernels rounded to the nearest value, without GPTQ."""
    monkeypatch.setattr(convert, "round_kernels", lambda model, _: model)
    return functools.partial(convert.convert, variant="int8")


def noise_ratio(model, student, content, images):
    """Mean squared error of the simulation over that of the int8 file, against the float model."""
    in_file = open_model(content).logits(images)
    pixels = images / np.float32(255)
    exact, simulated = (network(pixels, training=False).numpy() for network in (model, student))
    file_error = np.mean((in_file - exact) ** 2)
    assert file_error > 0
    return np.mean((simulated - exact) ** 2) / file_error


def test_simulation_is_as_noisy_as_the_int8_file(qat, finished_run, rounded_to_nearest, validation):
    """Sums differ in their last bits, so that single values are rounded in other directions."""
    model = load_model(finished_run, "pruned")
    content = rounded_to_nearest(model, calibration=calibration_sample(finished_run, 36, 7)[1])
    student = qat.simulate_int8(model, content)
    assert 0.5 < noise_ratio(model, student, content, validation) < 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "settings", "least", "most"),
    [(networks.classic_unet, (), 0.5, 2), (networks.compact_unet, (2.0,), 0, np.inf)],
    ids=["classic", "on an enlarged image"],
)
def test_other_networks_are_simulated_too(qat, rounded_to_nearest, network, settings, least, most):
    keras.utils.set_random_seed(0)
    images = np.random.default_rng(1).integers(0, 256, (4, SIZE, SIZE, 3)).astype(np.uint8)
    model = with_statistics(
        network((SIZE, SIZE), len(CLASSES), *settings), images / np.float32(255)
    )
    content = rounded_to_nearest(model, calibration=images / np.float32(255))
    student = qat.simulate_int8(model, content)
    assert least < noise_ratio(model, student, content, images) < most


@pytest.mark.slow
def test_fine_tuning_changes_the_weights_of_the_model_but_not_its_zeros_and_normalisation(
    qat, finished_run
):
    model = load_model(finished_run, "pruned")
    for layer in model.layers:
        layer.trainable = "norm" not in layer.name
    student = qat.simulate_int8(model, artifact_path(finished_run, "int8").read_bytes())
    before = {variable.name: variable.numpy() for variable in model.variables}
    assert {variable.name for variable in student.variables} == set(before)
    optimizer = make_optimizer(4, 1e-2, 0, average=False)
    optimizer.build(student.trainable_variables)

    step = make_train_step(student, optimizer, tf.distribute.get_strategy(), Objective())
    for batch in epoch_batches(*load_split(finished_run, "train"), 8, 7, 0):
        step(*batch)
    for variable in model.variables:
        name, was, now = variable.name, before[variable.name], variable.numpy()
        assert (was == now).all() if "norm" in name else (was != now).any(), name
        if "norm" not in name:
            np.testing.assert_array_equal(was == 0, now == 0, err_msg=name)


def test_kernel_is_rounded_to_255_values_per_output_channel(qat):
    layer = layers.Conv2D(3, 3, use_bias=False)
    layer.build((None, 8, 8, 4))
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 3)) * [1, 10, 100]
    kernel = kernel.astype(np.float32)
    layer.set_weights([kernel])
    wrapped = qat.SimulatedInt8(layer, None)
    ones = np.eye(4, dtype=np.float32).reshape(4, 1, 1, 4).repeat(3, 1).repeat(3, 2)
    sums = wrapped(ones).numpy().reshape(4, 3)  # of one input channel's kernel each
    scale = np.abs(kernel).max(axis=(0, 1, 2)) / 127
    expected = (np.round(kernel / scale) * scale).sum(axis=(0, 1))
    np.testing.assert_allclose(sums, expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(layer.kernel.numpy(), kernel)


@pytest.mark.parametrize(
    ("make", "axes"),
    [
        (lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False), (0, 1)),
        (lambda: layers.Dense(3, use_bias=False), (0,)),
        (lambda: layers.Conv2DTranspose(3, 2, use_bias=False), (0, 1, 3)),
        (lambda: layers.Conv2D(6, 3, groups=2, use_bias=False), (0, 1, 2)),
    ],
    ids=["depth multiplier", "dense", "transposed", "groups"],
)
def test_every_output_channel_has_a_step_of_its_own_as_in_the_file(qat, make, axes):
    """A dense layer ended in a traceback; channels of a depth multiplier shared a step."""
    random, layer, shape = np.random.default_rng(0), make(), (8, 8, 4)
    layer.build((None, *shape))
    kernel = random.normal(size=layer.get_weights()[0].shape)
    kernel = (kernel * random.uniform(0.01, 1, kernel.max(axes, keepdims=True).shape)).astype("f4")
    layer.set_weights([kernel])
    x = random.normal(size=(1, *shape)).astype(np.float32)
    simulated = qat.SimulatedInt8(layer, None)(x).numpy()
    step = np.abs(kernel).max(axes, keepdims=True) / 127
    layer.set_weights([np.round(kernel / step) * step])
    np.testing.assert_allclose(simulated, layer(x).numpy(), atol=1e-5)


def test_layers_with_a_kernel_that_training_does_not_round_are_named(qat):
    """A separable convolution has two kernels, and attention has its kernels in layers inside."""
    image = layers.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same")(image)
    x = layers.DepthwiseConv2D(3, padding="same")(layers.BatchNormalization()(x))
    x = layers.SeparableConv2D(8, 3, padding="same", name="in_two")(x)
    y = layers.Reshape((64, 8))(x)
    y = layers.MultiHeadAttention(2, 4, name="looks")(y, y)
    model = keras.Model(image, layers.Dense(3)(layers.Reshape((8, 8, 8))(y)))
    assert qat.unsimulated(model) == ["in_two (SeparableConv2D)", "looks (MultiHeadAttention)"]
