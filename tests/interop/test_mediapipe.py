"""MediaPipe's ImageSegmenter runs the signed files as they are, and predicts the same classes.

It runs in the Python that DEVICE_PYTHON names, else in this one. To run it without a change of this
project's environment:

    python -m venv device && device/bin/pip install -r tests/requirements_slow.txt
    DEVICE_PYTHON=device/bin/python python -m pytest -m slow tests/interop/test_mediapipe.py
"""

import numpy as np
import pytest
from PIL import Image

from pipeline.base.lazy import keras
from pipeline.inference import contract
from pipeline.inference.models import open_model
from pipeline.quantization.convert import convert
from pipeline.training import networks
from tests.helpers.optional import device_needs
from tests.helpers.other_runtimes import run_mediapipe
from tests.helpers.pictures import blobs
from tests.helpers.runs import CLASSES, SIZE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def mediapipe():
    """MediaPipe, where it is installed. Each test runs it in a process: it has its own runtime."""
    device_needs("mediapipe.tasks.python.vision")


@pytest.fixture(scope="module")
def images():
    """Coloured blobs, and none that the network was trained on."""
    return blobs(8, SIZE, seed=1)[0]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Signed files of the network that ships, which has learnt to tell colours apart."""
    keras.utils.set_random_seed(0)
    model = networks.compact_unet((SIZE, SIZE), len(CLASSES))
    pictures, masks = blobs(64, SIZE)
    pixels = pictures / np.float32(255)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.legacy.Adam(5e-3), loss)
    model.fit(pixels, masks, batch_size=16, epochs=20, verbose=0)
    folder = tmp_path_factory.mktemp("signed")
    for name in ("int8", "float16", "float32"):
        content = contract.add_contract(convert(model, name, pixels[:8]), CLASSES)
        (folder / f"{name}.tflite").write_bytes(content)
    return folder


@pytest.mark.parametrize("name", ["int8", "float16", "float32"])
def test_classes_are_ours_in_every_pixel(files, images, name):
    path = files / f"{name}.tflite"
    seen, confidences, told = run_mediapipe(path, images)
    expected = open_model(path).class_maps(images)
    assert min(np.bincount(expected.ravel(), minlength=len(CLASSES))) > 100  # all classes
    assert np.count_nonzero(seen != expected) == 0
    # Confidences, not logits.
    np.testing.assert_allclose(confidences.sum(axis=-1), 1, atol=1e-5)
    logits = open_model(path.read_bytes()).logits(images)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    expected = powers / powers.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(confidences, expected, atol=1e-3)

    taken = contract.read(path)["input"]
    assert told["labels"] == list(CLASSES)
    assert told["files"] == ["labels.txt", "contract.json"]
    assert told["size"] == taken["shape"][2:0:-1]
    assert [told["mean"], told["std"]] == pytest.approx([taken["mean"], taken["std"]])
    assert told["pixel"] == taken["pixel"]


def test_pictures_of_any_size_are_taken(files, images):
    """Stretched to the model's square and back, as the project does it."""
    path = files / "int8.tflite"
    height, width = 75, 50
    bilinear = Image.Resampling.BILINEAR
    pictures = [
        np.asarray(Image.fromarray(each).resize((width, height), bilinear)) for each in images
    ]
    seen, _, _ = run_mediapipe(path, np.stack(pictures))
    assert seen.shape == (len(images), height, width)
    size = images.shape[1:3]
    small = [np.asarray(Image.fromarray(each).resize(size, bilinear)) for each in pictures]
    expected = open_model(path).class_maps(np.stack(small))
    rows, columns = np.arange(height) * size[0] // height, np.arange(width) * size[1] // width
    agreement = [np.mean(a == b[rows][:, columns]) for a, b in zip(seen, expected)]
    assert np.mean(agreement) > 0.85
