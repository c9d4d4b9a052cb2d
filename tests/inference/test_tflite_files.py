"""Compact storage changes no output; weights are counted by hand."""

import argparse

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from pipeline.base.artifacts import artifact_path
from pipeline.data.dataset import load_split
from pipeline.inference import tflite_files
from pipeline.inference.keras_files import save_model
from pipeline.inference.litert_private import operator_details
from pipeline.inference.models import open_model
from pipeline.quantization.convert import convert
from pipeline.variants import VARIANTS
from tests.helpers.toy_networks import toy_network


@pytest.mark.parametrize(
    ("run", "ratio", "tensors"),
    [("finished_run", 1.0, 15), pytest.param("compact_run", 0.92, 50, marks=pytest.mark.slow)],
)
def test_equal_vectors_are_stored_once_and_weights_are_aligned(request, run, ratio, tensors):
    """Compared with the same tables as flatbuffers' own builder packs them."""
    models_dir = request.getfixturevalue(run)
    content = artifact_path(models_dir, "int8").read_bytes()
    builder = flatbuffers.Builder()
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    builder.Finish(model.Pack(builder), b"TFL3")
    plain = bytes(builder.Output())
    assert len(content) < ratio * len(plain)
    images, _ = (part[:] for part in load_split(models_dir, "validation"))
    np.testing.assert_array_equal(
        open_model(content).logits(images), open_model(plain).logits(images)
    )
    assert content.startswith(tflite_files.compacted(plain))  # then the contract's zip archive
    root = schema.Model.GetRootAs(content, 0)
    buffers = [root.Buffers(k).DataAsNumpy() for k in range(root.BuffersLength())]
    weights = [data for data in buffers if isinstance(data, np.ndarray) and data.size >= 16]
    start = np.frombuffer(content, np.uint8).__array_interface__["data"][0]
    offsets = [values.__array_interface__["data"][0] - start for values in weights]
    assert len(offsets) > tensors and all(offset % 16 == 0 for offset in offsets)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A toy network as .h5 and in every .tflite variant, and the number of its parameters."""
    folder = tmp_path_factory.mktemp("models")
    model, calibration = toy_network()
    save_model(model, artifact_path(folder, "original"))
    for variant in VARIANTS:
        artifact_path(folder, variant).write_bytes(convert(model, variant, calibration))
    kernels = 3 * 9 * 32, 9 * 32, 32 * 9 * 64, 64 * 4 * 32, 32 * 3
    biases = 32 + 32 + 64 + 32 + 3
    return argparse.Namespace(folder=folder, parameters=sum(kernels) + biases)


def test_every_kind_of_file_has_the_parameters_of_the_network(models):
    parameters, _ = tflite_files.weight_counts(artifact_path(models.folder, "original"))
    assert parameters == models.parameters
    for variant in VARIANTS:
        parameters, nonzero = tflite_files.weight_counts(artifact_path(models.folder, variant))
        assert parameters == models.parameters, variant
        assert 0.8 * models.parameters < nonzero <= models.parameters


def test_gzip_bytes_are_fewer_than_the_file_s(models):
    path = artifact_path(models.folder, "int8")
    assert 0 < tflite_files.gzip_bytes(path) < path.stat().st_size


@pytest.mark.parametrize("variant", VARIANTS)
def test_graph_is_what_litert_makes_of_the_file(models, variant):
    """Operators, tensors, their scales and the constants, without XNNPACK, which hides some."""
    content = artifact_path(models.folder, variant).read_bytes()
    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=plain)
    interpreter.allocate_tensors()
    graph, nodes = tflite_files.read_graph(content), operator_details(interpreter)
    assert [operator.kind for operator in graph.operators] == [node["op_name"] for node in nodes]
    for operator, node in zip(graph.operators, nodes):
        for ours, theirs in (
            (operator.inputs, node["inputs"]),
            (operator.outputs, node["outputs"]),
        ):
            assert [tensor.index for tensor in ours] == [index for index in theirs if index >= 0]
    details = {tensor["index"]: tensor for tensor in interpreter.get_tensor_details()}
    for tensor in graph.tensors:
        theirs = details[tensor.index]
        assert (tensor.name, tensor.type) == (theirs["name"], theirs["dtype"].__name__)
        assert tensor.shape == tuple(theirs["shape"])
        if len(theirs["quantization_parameters"]["scales"]) == 1:
            assert (tensor.scale, tensor.zero_point) == theirs["quantization"]
        if tensor.data is not None:
            values = interpreter.get_tensor(tensor.index)
            np.testing.assert_array_equal(tensor.values(), np.ravel(values))
    assert {tensor.data is None for tensor in graph.tensors} == {True, False}
    ends = interpreter.get_input_details() + interpreter.get_output_details()
    assert [end["index"] for end in ends] == [end.index for end in graph.inputs + graph.outputs]
