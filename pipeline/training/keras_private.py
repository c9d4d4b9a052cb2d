"""The private names of Keras that this project uses. If a new release breaks one, mend it here.

They are about what the public interface does not say: which call of a layer made a tensor of a
functional model, which variable an optimizer updates, what a random layer draws from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pipeline.base.lazy import keras, layers, tf


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


def variable_key(optimizer: Any, variable: Any) -> Any:
    """Return what identifies a variable, also on each device that has a copy of it.

    Seen in tf-keras 2.21.0, whose optimizers look up their own variables by it.
    """
    return optimizer._var_key(variable)


def random_layers(model: keras.Model) -> list[layers.Layer]:
    """Return the layers that draw random numbers in training, each once, in the model's order.

    Those of models and layers inside the model are among them. Seen in tf-keras 2.21.0: Dropout,
    the noise layers and the random preprocessing layers.
    """
    return [layer for layer in model._flatten_layers() if hasattr(layer, "_random_generator")]


@contextlib.contextmanager
def drawing_from(generators: Sequence[tuple[layers.Layer, tf.random.Generator]]) -> Iterator[None]:
    """Let random layers draw from the given generators for the length of the block.

    Seen in tf-keras 2.21.0: a random layer draws through an object of Keras, by default from a
    state inside TensorFlow's kernels that nobody can read or set. Afterwards the layers draw from
    what they drew from before, and their configuration is as it was.
    """
    sources = [layer._random_generator for layer, _ in generators]
    names = ("_rng_type", "_generator", "_built")
    before = [{name: getattr(source, name, None) for name in names} for source in sources]
    for source, (_, generator) in zip(sources, generators):
        source._rng_type, source._generator, source._built = "stateful", generator, True
    try:
        yield
    finally:
        for source, values in zip(sources, before):
            for name, value in values.items():
                setattr(source, name, value)


class Call(NamedTuple):
    """A call of a layer in a functional model."""

    layer: layers.Layer
    inputs: list[Any]  # the symbolic tensors that it reads
    outputs: list[Any]  # those that it makes
    args: tuple[Any, ...]  # as the layer was called, with symbolic tensors
    kwargs: dict[str, Any]

    @property
    def constants(self) -> list[Any]:
        """The values among the arguments that are no symbolic tensors, without nesting."""
        values = tf.nest.flatten((self.args, list(self.kwargs.values())))
        return [value for value in values if not hasattr(value, "_keras_history")]


def calls(model: keras.Model) -> list[Call]:
    """Return the calls of layers that a functional or sequential model makes, in their order.

    A layer that is called twice is in two of them. Seen in tf-keras 2.21.0. The public interface
    lists layers, and `Layer.inbound_nodes` has calls that other models make, too.
    """
    by_depth = model._nodes_by_depth
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    return [
        Call(
            node.layer,
            list(node.keras_inputs),
            tf.nest.flatten(node.outputs),
            tuple(node.call_args),
            dict(node.call_kwargs),
        )
        for node in nodes
    ]


def is_graph_model(layer: layers.Layer) -> bool:
    """Whether a layer is a functional or sequential model, whose calls of layers are known.

    Seen in tf-keras 2.21.0. A subclassed model and a `Sequential` that never saw an input have no
    such calls; the public interface has no name for that.
    """
    return isinstance(layer, keras.Model) and layer._is_graph_network
