""".tflite files as tables: equal vectors once, nothing else changed, weights counted."""

import argparse

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from pipeline.base.artifacts import artifact_path
from pipeline.data.dataset import load_split
from pipeline.inference import tflite_files
from pipeline.inference.keras_files import save_model
from pipeline.inference.litert import logits_of
from pipeline.quantization.convert import convert
from pipeline.variants import VARIANTS
from tests.helpers.toy_networks import toy_network


def test_equal_vectors_are_stored_once_and_weights_where_they_can_be_read_in_place(finished_run):
    """Against the file as the converter's own packing would write it."""
    content = artifact_path(finished_run, "int8").read_bytes()
    builder = flatbuffers.Builder()
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    builder.Finish(model.Pack(builder), b"TFL3")
    plain = bytes(builder.Output())
    assert len(content) < 0.92 * len(plain)
    images, _ = (part[:] for part in load_split(finished_run, "validation"))
    np.testing.assert_array_equal(logits_of(content, images), logits_of(plain, images))
    assert content.startswith(tflite_files.compacted(plain))  # behind it: the contract's zip
    buffers = schema.Model.GetRootAs(content, 0)
    weights = [buffers.Buffers(k).DataAsNumpy() for k in range(buffers.BuffersLength())]
    weights = [each for each in weights if isinstance(each, np.ndarray) and each.size >= 16]
    start = np.frombuffer(content, np.uint8).__array_interface__["data"][0]
    places = [values.__array_interface__["data"][0] - start for values in weights]
    assert len(places) > 50 and all(place % 16 == 0 for place in places)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A toy network as .h5 and in every .tflite variant, and how many weights it has."""
    folder = tmp_path_factory.mktemp("models")
    model, calibration = toy_network()
    save_model(model, artifact_path(folder, "original"))
    for variant in VARIANTS:
        artifact_path(folder, variant).write_bytes(convert(model, variant, calibration))
    kernels = 3 * 9 * 32, 9 * 32, 32 * 9 * 64, 64 * 4 * 32, 32 * 3
    biases = 32 + 32 + 64 + 32 + 3
    return argparse.Namespace(folder=folder, weights=sum(kernels) + biases)


def test_count_is_of_what_is_stored(models):
    counts = tflite_files.weight_counts(artifact_path(models.folder, "original"))
    assert counts[0] == models.weights
    for variant in VARIANTS:
        weights, nonzero = tflite_files.weight_counts(artifact_path(models.folder, variant))
        assert weights == models.weights, variant
        assert 0.8 * models.weights < nonzero <= models.weights


def test_gzip_makes_a_file_smaller(models):
    path = artifact_path(models.folder, "int8")
    assert 0 < tflite_files.gzip_bytes(path) < path.stat().st_size
