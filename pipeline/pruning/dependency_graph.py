"""The dependency graph of channel pruning: which channels must be removed together, at what cost.

(Dependency graphs: Fang et al., *DepGraph: Towards Any Structural Pruning*, 2023.)
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pipeline.base.console import UserError
from pipeline.base.lazy import keras, layers, tf
from pipeline.inference.keras_files import is_convolution
from pipeline.training.keras_private import producing_layer

# Time of a multiplication in a depthwise convolution over that in a plain one. Measured with
# XNNPACK in float32.
DEPTHWISE_COST = 2.8


@dataclass
class ChannelGroup:
    """Channels that must be removed together, and the names of the layers that have them.

    The expanded channels of an inverted residual block are a group of their own. Tensors that are
    added up belong to one group: all convolutions that write to a residual stream lose the same
    channels.
    """

    channels: int = 0
    producers: list[str] = field(default_factory=list)  # convolutions that write the channels
    # Normalisations and depthwise convolutions between producers and consumers.
    followers: list[str] = field(default_factory=list)
    consumers: list[str] = field(default_factory=list)  # convolutions that read the channels
    removable: bool = True


def channel_groups(model: keras.Model) -> list[ChannelGroup]:
    """The groups of channels of a model from which channels can be removed.

    Channels that are concatenated, and those of the image and of the output, cannot be removed.

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
        group_of[producing_layer(tensor).name].removable = False
    unique = {id(group): group for group in group_of.values()}.values()
    return [group for group in unique if group.removable]


def keeps_channels(layer: layers.Layer) -> bool:
    """Whether all inputs and outputs of a layer have the same number of channels.

    A depthwise convolution with a depth multiplier of 2 changes it, and a sum that broadcasts a
    single channel has inputs of several numbers.
    """
    tensors = tf.nest.flatten([layer.input, layer.output])
    return len({tensor.shape[-1] for tensor in tensors}) == 1


def inputs_of(layer: layers.Layer) -> list[str]:
    """Names of the layers whose outputs a layer reads.

    Raises:
        UserError: the layer is used more than once, or is itself a network.
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
    return [producing_layer(tensor).name for tensor in tensors]


def input_axis(layer: layers.Layer) -> int:
    """The axis of the input channels in the kernel of a convolution: 2, or 3 if transposed."""
    return 3 if isinstance(layer, layers.Conv2DTranspose) else 2


def channel_cost(model: keras.Model, group: ChannelGroup) -> float:
    """Cost of one channel of a group: multiplications per image.

    Those of depthwise convolutions count DEPTHWISE_COST times.
    """
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
