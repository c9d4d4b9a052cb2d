"""A model answers the same questions in the same way, whatever its file."""

import numpy as np
import pytest

from pipeline.inference.iou import class_counts, pixel_counts
from pipeline.inference.keras_files import save_model
from pipeline.inference.models import open_model
from pipeline.quantization.convert import convert
from tests.helpers.toy_networks import toy_network

CLASSES = 3


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A toy network in files of both kinds, by name."""
    folder = tmp_path_factory.mktemp("models")
    model, calibration = toy_network()
    paths = {name: folder / name for name in ("model.h5", "float32.tflite", "int8.tflite")}
    save_model(model, paths["model.h5"])
    paths["float32.tflite"].write_bytes(convert(model, "float32"))
    paths["int8.tflite"].write_bytes(convert(model, "int8", calibration, int8_output="uint8"))
    return paths


@pytest.mark.parametrize("name", ["model.h5", "float32.tflite", "int8.tflite"])
def test_face_is_the_same_for_every_file(files, name):
    model, original = open_model(files[name]), open_model(files["model.h5"])
    height, width, colours = model.image_shape
    assert colours == 3 and model.scores_shape[-1] == CLASSES
    assert (model.image_shape, model.scores_shape) == (original.image_shape, original.scores_shape)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (3, height, width, 3), np.uint8)
    logits, exact, maps = model.logits(images), original.logits(images), model.class_maps(images)
    assert logits.dtype == np.float32 and maps.dtype == np.int64
    assert np.mean((logits - exact) ** 2) < (0.05 if "int8" in name else 1e-9) * np.var(exact)
    np.testing.assert_array_equal(maps, logits.argmax(-1))
    np.testing.assert_array_equal(model.scores(images[1]).argmax(-1), maps[1])

    model.timed(images[1])()
    masks, told = random.integers(0, CLASSES, maps.shape, np.uint8), []
    counts = pixel_counts(model, images, masks, CLASSES, told.append)
    np.testing.assert_array_equal(counts, class_counts(masks, maps, CLASSES))
    assert sum(told) == len(images)


def test_content_is_opened_as_its_file_is(files):
    path = files["int8.tflite"]
    image = np.full(open_model(path).image_shape, 90, np.uint8)
    scores = [open_model(source).scores(image) for source in (path, path.read_bytes())]
    assert scores[0].dtype == np.uint8
    np.testing.assert_array_equal(*scores)
