"""Which channels of a network can only go together, and what each costs.

(The idea of a dependency graph: Fang et al., *DepGraph*, 2023.)
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pipeline.base.console import UserError
from pipeline.base.lazy import keras, layers, tf
from pipeline.inference.keras_files import is_convolution

# Time of a product in a depthwise convolution over one in another: XNNPACK, float32, measured.
DEPTHWISE_COST = 2.8


@dataclass
class ChannelGroup:
    """Channels that can only go together, as the layers that must change with them (by name).

    An expanded channel of an inverted residual is local to its block. Channels that are added up
    are one group: all that write to a residual stream lose the same ones.
    """

    channels: int = 0
    producers: list[str] = field(default_factory=list)  # convolutions that make the channels
    # normalisations and depthwise convolutions on their way
    followers: list[str] = field(default_factory=list)
    consumers: list[str] = field(default_factory=list)  # convolutions that read them
    removable: bool = True


def channel_groups(model: keras.Model) -> list[ChannelGroup]:
    """The groups of channels from which some can be removed, found by following the graph.

    What is concatenated, comes from the image or leaves the network stays as it is.

    Raises:
        UserError: as `inputs_of`.
    """
    one_to_one = (
        layers.BatchNormalization,
        layers.ReLU,
        layers.DepthwiseConv2D,
        layers.UpSampling2D,
        layers.MaxPool2D,
        layers.Add,
    )
    group_of: dict[str, ChannelGroup] = {}

    def merge(first: ChannelGroup, second: ChannelGroup) -> ChannelGroup:
        if first is not second:
            for part in ("producers", "followers", "consumers"):
                getattr(first, part).extend(getattr(second, part))
            first.removable &= second.removable
            group_of.update({name: first for name, group in group_of.items() if group is second})
        return first

    for layer in model.layers:
        parents = [
            group_of.setdefault(name, ChannelGroup(removable=False)) for name in inputs_of(layer)
        ]
        if is_convolution(layer) and layer.groups == 1:
            parents[0].consumers.append(layer.name)
            group_of[layer.name] = ChannelGroup(layer.filters, [layer.name])
        elif isinstance(layer, one_to_one) and keeps_channels(layer):
            group = parents[0]
            for other in parents[1:]:
                group = merge(group, other)
            if layer.weights:
                group.followers.append(layer.name)
            group_of[layer.name] = group
        else:
            group_of[layer.name] = ChannelGroup(removable=False)
            for group in parents:
                group.removable = False
    for tensor in model.outputs:
        group_of[tensor._keras_history.layer.name].removable = False
    unique = {id(group): group for group in group_of.values()}.values()
    return [group for group in unique if group.removable]


def keeps_channels(layer: layers.Layer) -> bool:
    """Whether all that a layer reads and writes has the same number of channels.

    A depthwise convolution that makes two of each, or a sum that broadcasts one over all, do not.
    """
    tensors = tf.nest.flatten([layer.input, layer.output])
    return len({tensor.shape[-1] for tensor in tensors}) == 1


def inputs_of(layer: layers.Layer) -> list[str]:
    """Names of the layers that a layer reads.

    Raises:
        UserError: it is used more than once, or is a network of its own.
    """
    if isinstance(layer, layers.InputLayer):
        return []
    try:
        tensors = None if isinstance(layer, keras.Model) else tf.nest.flatten(layer.input)
    except AttributeError:  # Keras knows several inputs
        tensors = None
    if tensors is None:
        raise UserError(
            f"channels cannot be followed through {layer.name}, which is a network of its own or "
            "used more than once; write its layers out"
        )
    return [tensor._keras_history.layer.name for tensor in tensors]


def input_axis(layer: layers.Layer) -> int:
    """The axis of a convolution's kernel that reads channels; transposed ones have them last."""
    return 3 if isinstance(layer, layers.Conv2DTranspose) else 2


def channel_cost(model: keras.Model, group: ChannelGroup) -> float:
    """Multiplications that one channel costs per image, weighted by how slow they are."""
    cost = 0.0
    for name in group.producers + group.followers + group.consumers:
        layer = model.get_layer(name)
        if isinstance(layer, layers.BatchNormalization):
            continue  # folded into a convolution on conversion
        transposed = isinstance(layer, layers.Conv2DTranspose)
        pixels = np.prod((layer.input_shape if transposed else layer.output_shape)[1:3])
        if isinstance(layer, layers.DepthwiseConv2D):
            cost += pixels * np.prod(layer.kernel_size) * DEPTHWISE_COST
        else:
            cost += pixels * layer.kernel.shape.num_elements() / group.channels
    return float(cost)
