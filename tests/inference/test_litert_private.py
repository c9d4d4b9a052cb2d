"""The private names of LiteRT are there and give what their docstrings say."""

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from pipeline.inference.litert_private import operator_details
from pipeline.quantization.convert import convert
from tests.helpers.toy_networks import toy_network


def test_operator_details_lists_nodes_in_order_with_their_tensors():
    content = convert(toy_network()[0], "float32")
    no_delegate = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=no_delegate)
    interpreter.allocate_tensors()
    nodes = operator_details(interpreter)
    assert [node["index"] for node in nodes] == list(range(len(nodes)))
    names = [node["op_name"] for node in nodes]
    assert names.count("CONV_2D") == 3 and names.count("TRANSPOSE_CONV") == 1
    shapes = {tensor["index"]: tensor["shape"] for tensor in interpreter.get_tensor_details()}
    first = nodes[names.index("CONV_2D")]
    assert shapes[first["inputs"][1]].tolist() == [32, 3, 3, 3]
    np.testing.assert_array_equal(
        nodes[-1]["outputs"], interpreter.get_output_details()[0]["index"]
    )


def test_operator_details_lists_delegated_parts_after_the_operators_of_the_file():
    interpreter = Interpreter(model_content=convert(toy_network()[0], "float32"))
    before = [node["op_name"] for node in operator_details(interpreter)]
    interpreter.allocate_tensors()
    after = [node["op_name"] for node in operator_details(interpreter)]
    assert after[: len(before)] == before and "DELEGATE" in after[len(before) :]
