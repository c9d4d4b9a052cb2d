"""MediaPipe's ImageSegmenter runs the signed files as they are, and sees what we see.

It runs in the Python that DEVICE_PYTHON names, else in this one. To try it without touching this
project's environment:

    python -m venv device && device/bin/pip install mediapipe
    DEVICE_PYTHON=device/bin/python python -m pytest tests/test_mediapipe.py
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pipeline.base.lazy import keras
from pipeline.inference import contract, litert
from pipeline.quantization.convert import convert
from pipeline.training import networks
from tests.helpers.pictures import blobs
from tests.helpers.runs import CLASSES, SIZE

PYTHON = os.environ.get("DEVICE_PYTHON", sys.executable)
# Arguments: a file, pictures (.npy), where class maps and confidences go (.npz). Prints the labels
# and, read by MediaPipe's own generated code, the metadata.
PROGRAM = """
import json, sys
import mediapipe as mp
import numpy as np
from mediapipe.tasks.metadata import metadata_schema_py_generated as schema
from mediapipe.tasks.metadata import schema_py_generated as tflite
file, pictures, outputs = sys.argv[1:]
options = mp.tasks.vision.ImageSegmenterOptions(
    mp.tasks.BaseOptions(file), output_category_mask=True
)
masks, confidences = [], []
with mp.tasks.vision.ImageSegmenter.create_from_options(options) as segmenter:
    labels = segmenter.labels
    for picture in np.load(pictures):
        found = segmenter.segment(mp.Image(mp.ImageFormat.SRGB, picture))
        # Copies, because a view points at memory that goes with `found`.
        masks.append(found.category_mask.numpy_view()[..., 0].copy())
        planes = [plane.numpy_view()[..., 0] for plane in found.confidence_masks]
        confidences.append(np.stack(planes, -1))
np.savez(outputs, masks=np.stack(masks), confidences=np.stack(confidences))
model = tflite.ModelT.InitFromObj(tflite.Model.GetRootAsModel(open(file, "rb").read(), 0))
(entry,) = [entry for entry in model.metadata if entry.name == b"TFLITE_METADATA"]
content = bytes(model.buffers[entry.buffer].data)
about = schema.ModelMetadataT.InitFromObj(schema.ModelMetadata.GetRootAsModelMetadata(content, 0))
graph = about.subgraphMetadata[0]
image, logits = graph.inputTensorMetadata[0], graph.outputTensorMetadata[0]
size = image.content.contentProperties.defaultSize
print(json.dumps({
    "labels": labels,
    "files": [logits.associatedFiles[0].name.decode(), about.associatedFiles[0].name.decode()],
    "size": [size.width, size.height],
    "mean": float(image.processUnits[0].options.mean[0]),
    "std": float(image.processUnits[0].options.std[0]),
    "pixel": image.description.decode(),
}))
"""


@pytest.fixture(scope="module", autouse=True)
def mediapipe():
    """Skips without the package; a process of its own, because it brings its own runtime."""
    command = [PYTHON, "-c", "import mediapipe.tasks.python.vision"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
        reason = done.stderr.strip() or "no reason given" if done.returncode else ""
    except OSError as error:
        reason = str(error)
    if reason:
        pytest.skip(
            f"mediapipe is not installed for {PYTHON}; DEVICE_PYTHON may name another Python: "
            + reason.splitlines()[-1]
        )


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


def run(path, pictures):
    """Class maps and confidences of MediaPipe for pictures of one size, and what it reads."""
    np.save(path.with_suffix(".npy"), pictures)
    arguments = [path, path.with_suffix(".npy"), path.with_suffix(".npz")]
    command = [PYTHON, "-c", PROGRAM, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = np.load(path.with_suffix(".npz"))
    return found["masks"], found["confidences"], json.loads(done.stdout)


@pytest.mark.parametrize("name", ["int8", "float16", "float32"])
def test_sees_what_we_see_in_every_pixel(files, images, name):
    path = files / f"{name}.tflite"
    seen, confidences, told = run(path, images)
    expected = np.stack(list(litert.predict_tflite(litert.open_interpreter(path), images)))
    assert min(np.bincount(expected.ravel(), minlength=len(CLASSES))) > 100  # all classes
    assert np.count_nonzero(seen != expected) == 0
    # Confidences, not logits.
    np.testing.assert_allclose(confidences.sum(axis=-1), 1, atol=1e-5)
    logits = litert.logits_of(path.read_bytes(), images)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    expected = powers / powers.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(confidences, expected, atol=1e-3)

    taken = contract.read(path)["input"]
    assert told["labels"] == list(CLASSES)
    assert told["files"] == ["labels.txt", "contract.json"]
    assert told["size"] == taken["shape"][2:0:-1]
    assert [told["mean"], told["std"]] == pytest.approx([taken["mean"], taken["std"]])
    assert told["pixel"] == taken["pixel"]


def test_takes_pictures_of_any_size(files, images):
    """Stretched to the model's square and back, as the project does it."""
    path = files / "int8.tflite"
    height, width = 75, 50
    bilinear = Image.Resampling.BILINEAR
    pictures = [
        np.asarray(Image.fromarray(each).resize((width, height), bilinear)) for each in images
    ]
    seen, _, _ = run(path, np.stack(pictures))
    assert seen.shape == (len(images), height, width)
    size = images.shape[1:3]
    small = [np.asarray(Image.fromarray(each).resize(size, bilinear)) for each in pictures]
    expected = litert.predict_tflite(litert.open_interpreter(path), np.stack(small))
    rows, columns = np.arange(height) * size[0] // height, np.arange(width) * size[1] // width
    agreement = [np.mean(a == b[rows][:, columns]) for a, b in zip(seen, expected)]
    assert np.mean(agreement) > 0.85
