"""The private names of TensorFlow are there and give what their docstrings say."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from pipeline.base.console import silenced
from pipeline.base.lazy import tf
from pipeline.quantization.convert import fixed_batch_converter
from pipeline.quantization.tensorflow_private import quantise_calibrated, stop_after_calibration
from tests.helpers.toy_networks import toy_network


@pytest.fixture(scope="module")
def calibrated():
    """The calibrated float32 file of a toy network."""
    model, images = toy_network()
    converter = fixed_batch_converter(model)
    stop_after_calibration(converter)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None]] for image in images)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    with silenced():
        return converter.convert()


def test_calibrated_file_is_float32_and_carries_the_extremes_of_its_tensors(calibrated):
    graph = schema.ModelT.InitFromPackedBuf(calibrated, 0).subgraphs[0]
    assert schema.TensorType.INT8 not in {tensor.type for tensor in graph.tensors}
    image = graph.tensors[graph.inputs[0]]
    assert image.type == schema.TensorType.FLOAT32
    low, high = image.quantization.min[0], image.quantization.max[0]
    assert (low, high) == pytest.approx((0, 1), abs=0.01)  # the images are uniform in 0..1


@pytest.mark.parametrize(("input_type", "output_type"), [("uint8", "int8"), ("int8", "float32")])
def test_calibrated_file_becomes_int8_with_the_types_asked_for(calibrated, input_type, output_type):
    types = tf.dtypes.as_dtype(input_type), tf.dtypes.as_dtype(output_type)
    with silenced():
        content = quantise_calibrated(calibrated, *types)
    interpreter = Interpreter(model_content=content)
    assert interpreter.get_input_details()[0]["dtype"] == np.dtype(input_type)
    assert interpreter.get_output_details()[0]["dtype"] == np.dtype(output_type)
    kernels = [tensor for tensor in interpreter.get_tensor_details() if len(tensor["shape"]) == 4]
    assert any(kernel["dtype"] == np.int8 for kernel in kernels)
