"""The private names of Keras that this project uses. If a new release breaks one, mend it here.

All of them are about the graph of a functional model, of which the public interface lists the
layers but not which call of a layer made a tensor.
"""

from __future__ import annotations

from typing import Any

from pipeline.base.lazy import layers


def producing_layer(tensor: Any) -> layers.Layer:
    """Return the layer whose call made a symbolic tensor of a functional model.

    Seen in tf-keras 2.21.0.
    """
    return tensor._keras_history.layer


def tensors_read(tensor: Any) -> list[Any]:
    """Return the symbolic tensors that the call read which made a symbolic tensor.

    Seen in tf-keras 2.21.0. The public `Layer.input` gives them only for a layer that is called
    once.
    """
    history = tensor._keras_history
    return history.layer.inbound_nodes[history.node_index].keras_inputs
