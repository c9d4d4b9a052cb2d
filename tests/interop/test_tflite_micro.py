"""TFLite Micro itself: it takes the memory that was planned, and sees what XNNPACK sees.

It runs in the Python that DEVICE_PYTHON names, else in this one. To try it without touching this
project's environment:

    python -m venv device && device/bin/pip install tflite-micro
    DEVICE_PYTHON=device/bin/python python -m pytest tests/test_tflite_micro.py
"""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

from pipeline.base.lazy import keras, layers
from pipeline.evaluation import memory_plan
from pipeline.inference import litert
from pipeline.quantization import convert
from pipeline.training import networks
from tests.helpers.pictures import blobs

PYTHON = os.environ.get("DEVICE_PYTHON", sys.executable)
BOOKKEEPING = 4_000_000  # bytes of arena beyond the activations: more than enough on any host
# Arguments: a file, bytes of arena, inputs (.npy), where outputs go (.npy). The keyword of
# from_file is spelled as the package spells it. Allocations go to stderr.
PROGRAM = """
import sys
import numpy as np
from tflite_micro.python.tflite_micro import runtime
file, arena, inputs, outputs = sys.argv[1:]
recording = runtime.InterpreterConfig.kAllocationRecording
interpreter = runtime.Interpreter.from_file(
    file, arena_size=int(arena), intrepreter_config=recording
)
found = []
for image in np.load(inputs):
    interpreter.set_input(image[None], 0)
    interpreter.invoke()
    found.append(interpreter.get_output(0)[0])
np.save(outputs, np.stack(found))
interpreter.print_allocations()
"""


@pytest.fixture(scope="module", autouse=True)
def tflite_micro():
    """Skips without the package; a process of its own, because a fault in it ends the process."""
    command = [PYTHON, "-c", "from tflite_micro.python.tflite_micro import runtime"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
        reason = done.stderr.strip() if done.returncode else None
    except OSError as error:
        reason = str(error)
    if reason is not None:
        pytest.skip(
            f"tflite-micro is not installed for {PYTHON}; DEVICE_PYTHON may name another Python: "
            + " ".join(reason.splitlines()[-1:])
        )


def run(path, inputs):
    """Outputs of TFLite Micro for a batch of inputs, and the bytes of activations it took."""
    np.save(path.with_suffix(".in.npy"), inputs)
    arena = memory_plan.plan(path.read_bytes()).activation_bytes + BOOKKEEPING
    files = path.with_suffix(".in.npy"), path.with_suffix(".out.npy")
    arguments = [PYTHON, "-c", PROGRAM, path, arena, *files]
    done = subprocess.run(list(map(str, arguments)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    # The head of the arena holds what an inference overwrites, the tail what stays.
    head = re.search(r"Arena allocation head (\d+) bytes", done.stdout + done.stderr)
    return np.load(files[1]), int(head[1])


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
def test_plan_is_what_tflite_micro_takes(network, arguments, variant, tmp_path):
    keras.utils.set_random_seed(0)
    model = network(*arguments)
    calibration = np.random.default_rng(0).random((2, *model.input_shape[1:]), np.float32)
    path = tmp_path / "model.tflite"
    path.write_bytes(convert.convert(model, variant, calibration))
    dtype = litert.open_interpreter(path).get_input_details()[0]["dtype"]
    _, taken = run(path, np.zeros((1, *model.input_shape[1:]), dtype))
    assert taken == memory_plan.plan(path.read_bytes()).activation_bytes


def test_sees_what_xnnpack_sees(tmp_path):
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
    expected = np.stack(list(litert.predict_tflite(interpreter, images)))
    assert np.mean(expected[32:] == masks[32:]) > 0.85  # it sees something
    logits, taken = run(path, images)
    assert np.mean(logits.argmax(axis=-1) == expected) > 0.99
    assert taken == memory_plan.plan(path.read_bytes()).activation_bytes
