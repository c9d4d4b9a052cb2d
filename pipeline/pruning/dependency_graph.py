"""The dependency graph of channel pruning: which channels must be removed together, at what cost.

(Dependency graphs: Fang et al., *DepGraph: Towards Any Structural Pruning*, 2023.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.base.lazy import keras
from pipeline.pruning.channel_flow import PASSED, READ, WRITTEN, Axis, Flow

SHOWN_LAYERS = 3  # layers that a sentence about tied channels names


class Place(NamedTuple):
    """Where a layer has the channels of a group."""

    layer: str
    attribute: str  # the layer's weight, or the setting of it that counts channels
    axis: int | None  # of the weight; None for a setting
    channels: np.ndarray  # int (length of the axis,): the group's channel; -1: of another group


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that are removed one by one, each from all layers that have it.

    The expanded channels of an inverted residual block are a group of their own. Tensors that are
    added up belong to one group: all convolutions that write to a residual stream lose the same
    channels. A convolution that reads a concatenation has channels of several groups.
    """

    channels: int  # how many
    producers: list[str]  # layers that write the channels
    # Layers between these, of which a weight or a setting has the channels: normalisation, say.
    followers: list[str]
    consumers: list[str]  # layers that read the channels
    places: list[Place]  # all weights and settings that a channel is removed from
    read: list[Place]  # of these the weights by which consumers read the channels
    cost: float  # multiplications per channel and image, see `channel_flow.Axis`


def channel_groups(model: keras.Model) -> list[ChannelGroup]:
    """The groups of channels of a model from which channels can be removed.

    Channels of the image and of the output, and those that a layer ties (`tied_channels`), cannot
    be removed and are in no group.

    Returns:
        The groups in the order of the layers that write their channels.
    """
    flow = Flow(model)
    roots = flow.sets.roots()
    order = {layer.name: index for index, layer in enumerate(model.layers)}
    axes = sorted(flow.axes.values(), key=lambda axis: order[axis.layer])
    written = [axis for axis in axes if axis.use == WRITTEN and axis.axis is not None]

    # Channels that the same layers write are a group.
    writers: dict[int, set[int]] = {}
    for axis in written:
        for root in np.unique(roots[axis.channels]).tolist():
            if flow.sets.reason(root) is None:
                writers.setdefault(root, set()).add(order[axis.layer])
    groups: dict[tuple[int, ...], list[int]] = {}
    for root, layer_indices in writers.items():
        groups.setdefault(tuple(sorted(layer_indices)), []).append(root)
    return [make_group(axes, roots, sorted(members)) for _, members in sorted(groups.items())]


def make_group(axes: list[Axis], roots: np.ndarray, members: list[int]) -> ChannelGroup:
    """A group of channels.

    Args:
        axes: all of the model, in the order of its layers.
        roots: see `ChannelSets.roots`.
        members: the channels of the group, as roots, ascending.
    """
    index = np.full(len(roots) + 1, -1)
    index[members] = np.arange(len(members))
    places: dict[str, list[Place]] = {}
    cost = 0.0
    for use in (WRITTEN, PASSED, READ):
        places[use] = []
        for axis in (axis for axis in axes if axis.use == use):
            channels = index[roots[axis.channels]]
            positions = int(np.count_nonzero(channels >= 0))
            if positions:
                places[use].append(Place(axis.layer, axis.attribute, axis.axis, channels))
                cost += axis.work * (positions / len(members))
    written, passed, read = (
        list(dict.fromkeys(place.layer for place in places[use])) for use in places
    )
    everywhere = [place for use in places for place in places[use]]
    return ChannelGroup(len(members), written, passed, read, everywhere, places[READ], cost)


def tied_channels(model: keras.Model) -> dict[str, list[str]]:
    """Layers whose channels all stay although other layers read them, by what ties them.

    Returns:
        For each layer that ties channels, or `THE_OUTPUT`, the layers that write them; in the
        order of the network. Layers that make the logits or a single channel are not among them.
    """
    flow = Flow(model)
    inner = layers_before_others(flow, model)
    tied: dict[str, list[str]] = {}
    for axis in flow.axes.values():
        if len(axis.channels) == 1 or axis.layer not in inner:
            continue
        if axis.use == WRITTEN and axis.attribute.endswith("kernel"):
            reasons = {flow.sets.reason(channel) for channel in axis.channels.tolist()}
            for reason in sorted(reason for reason in reasons if reason):
                tied.setdefault(reason, []).append(axis.layer)
    return tied


def layers_before_others(flow: Flow, model: keras.Model) -> set[str]:
    """Names of the layers that write channels which go into another layer that writes channels."""
    writing = {axis.layer for axis in flow.axes.values() if axis.use == WRITTEN}
    read_later: set[int] = set()  # tensors, by `id`, from which such a layer can be reached
    inner = set()
    for call in reversed(flow.calls):
        reaches = any(id(tensor) in read_later for tensor in call.outputs)
        if reaches and call.layer.name in writing:
            inner.add(call.layer.name)
        if reaches or call.layer.name in writing:
            read_later.update(map(id, call.inputs))
    return inner


def tied_sentence(model: keras.Model) -> str:
    """Which layers tie which channels, in words; empty if none does."""
    parts = [
        f"{tying} ties those of {shortened(names)}" for tying, names in tied_channels(model).items()
    ]
    return "; ".join(parts)


def shortened(names: Iterable[str]) -> str:
    """Names with commas between them; of many, the first and how many more there are."""
    names = list(names)
    shown, more = names[:SHOWN_LAYERS], len(names) - SHOWN_LAYERS
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
