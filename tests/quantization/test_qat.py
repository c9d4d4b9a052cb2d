"""Fine-tuning for int8: the network rounds where its int8 file will, and keeps its zeros."""

import functools

import numpy as np
import pytest

from pipeline.base.artifacts import artifact_path
from pipeline.base.lazy import keras, layers, tf
from pipeline.data.dataset import load_split
from pipeline.inference.keras_files import load_model
from pipeline.inference.litert import logits_of
from pipeline.quantization import convert
from pipeline.quantization.convert import calibration_sample
from pipeline.training import networks
from pipeline.training.input_pipeline import epoch_batches
from pipeline.training.loop import make_train_step
from pipeline.training.losses import segmentation_loss
from pipeline.training.optimizers import make_optimizer
from tests.helpers.runs import CLASSES, SIZE
from tests.helpers.toy_networks import with_statistics


@pytest.fixture(scope="module")
def imitation():
    """The module, which needs Keras at import."""
    from pipeline.quantization import qat

    return qat


@pytest.fixture(scope="module")
def validation(finished_run):
    return load_split(finished_run, "validation")[0][:]


@pytest.fixture
def imitate(imitation, monkeypatch):
    """Imitates an int8 file that is there already: to make it anew takes seconds."""

    def imitate(model, content):
        monkeypatch.setattr(imitation, "convert", lambda *_: content)
        return imitation.imitate_int8(model, None)

    return imitate


@pytest.fixture
def plainly_rounded(monkeypatch):
    """Converts to int8 with kernels rounded to the nearest, as the imitation rounds them."""
    monkeypatch.setattr(convert, "round_kernels", lambda model, _: model)
    return functools.partial(convert.convert, variant="int8")


def noise_ratio(model, student, content, images):
    """Power of the imitation's error over that of the int8 file, both against the float model."""
    file = logits_of(content, images)
    pixels = images / np.float32(255)
    exact, imitated = (each(pixels, training=False).numpy() for each in (model, student))
    in_file = np.mean((file - exact) ** 2)
    assert in_file > 0
    return np.mean((imitated - exact) ** 2) / in_file


def test_imitation_is_as_noisy_as_the_int8_file(finished_run, imitate, plainly_rounded, validation):
    """Which roundings go up and which go down differs, because sums differ in their last bit."""
    model = load_model(finished_run, "pruned")
    content = plainly_rounded(model, calibration=calibration_sample(finished_run, 36, 7)[1])
    student = imitate(model, content)
    assert 0.5 < noise_ratio(model, student, content, validation) < 2


@pytest.mark.parametrize(
    ("network", "settings", "least", "most"),
    [(networks.classic_unet, (), 0.5, 2), (networks.compact_unet, (2.0,), 0, np.inf)],
    ids=["classic", "on an enlarged image"],
)
def test_other_networks_are_imitated_too(imitate, plainly_rounded, network, settings, least, most):
    keras.utils.set_random_seed(0)
    images = np.random.default_rng(1).integers(0, 256, (4, SIZE, SIZE, 3)).astype(np.uint8)
    model = with_statistics(
        network((SIZE, SIZE), len(CLASSES), *settings), images / np.float32(255)
    )
    content = plainly_rounded(model, calibration=images / np.float32(255))
    student = imitate(model, content)
    assert least < noise_ratio(model, student, content, images) < most


def test_imitation_trains_the_weights_of_the_model_and_spares_its_zeros_and_norms(
    finished_run, imitate
):
    model = load_model(finished_run, "pruned")
    for layer in model.layers:
        layer.trainable = "norm" not in layer.name
    student = imitate(model, artifact_path(finished_run, "int8").read_bytes())
    before = {variable.name: variable.numpy() for variable in model.variables}
    assert {variable.name for variable in student.variables} == set(before)
    optimizer = make_optimizer(4, 1e-2, 0, average=False)
    optimizer.build(student.trainable_variables)

    def loss(images, masks, logits):
        return segmentation_loss(masks, logits)

    step = make_train_step(student, optimizer, tf.distribute.get_strategy(), loss)
    for batch in epoch_batches(*load_split(finished_run, "train"), 8, 7, 0):
        step(*batch)
    for variable in model.variables:
        name, was, now = variable.name, before[variable.name], variable.numpy()
        assert (was == now).all() if "norm" in name else (was != now).any(), name
        if "norm" not in name:
            np.testing.assert_array_equal(was == 0, now == 0, err_msg=name)


def test_rounded_kernel_has_255_steps_per_output_channel(imitation):
    layer = layers.Conv2D(3, 3, use_bias=False)
    layer.build((None, 8, 8, 4))
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 3)) * [1, 10, 100]
    kernel = kernel.astype(np.float32)
    layer.set_weights([kernel])
    wrapped = imitation.Int8Imitation(layer, None)
    ones = np.eye(4, dtype=np.float32).reshape(4, 1, 1, 4).repeat(3, 1).repeat(3, 2)
    sums = wrapped(ones).numpy().reshape(4, 3)  # of one input channel's kernel each
    scale = np.abs(kernel).max(axis=(0, 1, 2)) / 127
    expected = (np.round(kernel / scale) * scale).sum(axis=(0, 1))
    np.testing.assert_allclose(sums, expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(layer.kernel.numpy(), kernel)
