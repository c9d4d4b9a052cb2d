"""The private names of LiteRT that this project uses. If a new release breaks one, mend it here."""

from __future__ import annotations

from typing import Any

from ai_edge_litert.interpreter import Interpreter


def operator_details(interpreter: Interpreter) -> list[dict[str, Any]]:
    """Returns the nodes of an interpreter's graph in the order of execution.

    Seen in ai-edge-litert 2.3.0. The public methods list tensors but no operators, and the
    flatbuffer schema, which is public, knows nothing of the nodes that a delegate adds.

    Returns:
        One dictionary per node. Of its keys, this project reads `index` (position of the node),
        `op_name` (for example "CONV_2D"; "DELEGATE" for a part of the graph that XNNPACK runs),
        `inputs` and `outputs` (integer arrays of tensor indices as in `get_tensor_details`;
        -1 for an optional input that is absent).
    """
    return interpreter._get_ops_details()
