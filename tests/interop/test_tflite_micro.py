"""TFLite Micro itself: it takes the memory that was planned, and predicts what XNNPACK predicts.

It runs in the Python that DEVICE_PYTHON names, else in this one. To run it without a change of this
project's environment:

    python -m venv device && device/bin/pip install -r tests/requirements_slow.txt
    DEVICE_PYTHON=device/bin/python python -m pytest -m slow tests/interop/test_tflite_micro.py
"""

import numpy as np
import pytest

from pipeline.base.lazy import keras, layers
from pipeline.evaluation import memory_plan
from pipeline.inference import litert
from pipeline.quantization import convert
from pipeline.training import networks
from tests.helpers.optional import device_needs
from tests.helpers.other_runtimes import run_tflite_micro
from tests.helpers.pictures import blobs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def tflite_micro():
    """TFLite Micro, where it is installed. Each test runs it in a process: a fault ends that."""
    device_needs("tflite_micro.python.tflite_micro.runtime")


def compact(size, enlargement=1.0):
    return networks.compact_unet((size, size), 3, enlargement)


def residual(size):
    """Tensors of equal size that cross: which of them is placed first shows in the arena."""
    image = layers.Input((size, size, 5))
    a = layers.Conv2D(3, 3, padding="same")(image)
    b = layers.DepthwiseConv2D(3, padding="same")(a)
    c = layers.Conv2D(3, 1)(b)
    return keras.Model(image, layers.Conv2D(1, 1)(layers.Add()([b, c])))


@pytest.mark.parametrize(
    ("network", "arguments", "variant"),
    [
        (compact, (64, 1.5), "int8"),
        (compact, (64,), "float32"),
        (networks.classic_unet, ((32, 32), 3), "int8"),
        (networks.classic_unet, ((32, 32), 3), "float32"),
        (residual, (64,), "int8"),
        (residual, (64,), "float32"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_planned_memory_is_what_tflite_micro_takes(network, arguments, variant, tmp_path):
    keras.utils.set_random_seed(0)
    model = network(*arguments)
    calibration = np.random.default_rng(0).random((2, *model.input_shape[1:]), np.float32)
    path = tmp_path / "model.tflite"
    path.write_bytes(convert.convert(model, variant, calibration))
    dtype = litert.open_interpreter(path).get_input_details()[0]["dtype"]
    _, taken = run_tflite_micro(path, np.zeros((1, *model.input_shape[1:]), dtype))
    assert taken == memory_plan.plan(path.read_bytes()).activation_bytes


def test_classes_are_those_of_xnnpack(tmp_path):
    """They round differently, by single steps of int8; a pixel turns where two classes are close.

    The share of equal pixels was 99.9 % here and 99.6 % on 200 pictures of a run of `make demo`
    (mean IoU 0.8046 and 0.8047).
    """
    keras.utils.set_random_seed(0)
    images, masks = blobs(48, 32)
    pixels = images.astype(np.float32) / 255
    model = compact(32)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    model.fit(pixels[:32], masks[:32], batch_size=8, epochs=20, verbose=0)
    path = tmp_path / "model.tflite"
    path.write_bytes(convert.convert(model, "int8", pixels[:16]))
    interpreter = litert.open_interpreter(path)
    assert interpreter.get_input_details()[0]["dtype"] == np.uint8  # a pixel goes in as it is
    expected = litert.TfliteModel(interpreter).class_maps(images)
    assert np.mean(expected[32:] == masks[32:]) > 0.85  # it has learned something
    logits, taken = run_tflite_micro(path, images)
    assert np.mean(logits.argmax(axis=-1) == expected) > 0.99
    assert taken == memory_plan.plan(path.read_bytes()).activation_bytes
