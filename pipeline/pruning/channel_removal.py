"""Masks channels in a network, builds the network without them, and compares the two."""

from __future__ import annotations

import numpy as np

from pipeline.base.console import UserError
from pipeline.base.lazy import keras, layers, tf
from pipeline.pruning.dependency_graph import ChannelGroup, Place

# Largest difference of the smaller network's logits from those of the masked network, as a
# fraction of the largest logit.
SAME_OUTPUT = 1e-4


def mask_channels(model: keras.Model, groups: list[ChannelGroup], kept: list[np.ndarray]) -> None:
    """Makes a model, in place, ignore every channel that is not kept.

    It sets the weights to zero by which the consumers of a group read these channels.

    Args:
        kept: for each group the channels to keep, ascending.
    """
    for group, channels in zip(groups, kept):
        for place in group.read:
            weight = weight_at(model, place)
            shape = [1] * len(weight.shape)
            shape[axis_of(place)] = -1
            mask = stays(place, channels).astype(np.float32)
            weight.assign(weight * mask.reshape(shape))


def weight_at(model: keras.Model, place: Place) -> tf.Variable:
    """The weight of a model that has channels."""
    return getattr(model.get_layer(place.layer), place.attribute)


def axis_of(place: Place) -> int:
    """The axis of a weight that has channels."""
    assert place.axis is not None, "a setting has no axis"
    return place.axis


def stays(place: Place, kept: np.ndarray) -> np.ndarray:
    """Which positions of an axis stay, bool: those of kept channels and of other groups."""
    return (place.channels < 0) | np.isin(place.channels, kept)


def remove_channels(
    model: keras.Model, groups: list[ChannelGroup], kept: list[np.ndarray]
) -> keras.Model:
    """Build the network without the channels that are not kept.

    It computes what the model computes with these channels masked, see `mask_channels`.

    Args:
        kept: for each group the channels to keep, ascending.
    """
    # Which positions stay, by layer, weight and axis.
    staying: dict[tuple[str, str, int | None], np.ndarray] = {}
    for group, channels in zip(groups, kept):
        for place in group.places:
            positions = stays(place, channels)
            staying[place[:3]] = staying.get(place[:3], True) & positions

    def resize(layer: layers.Layer) -> layers.Layer:
        settings = layer.get_config()
        for (name, setting, axis), positions in staying.items():
            if name == layer.name and axis is None:
                number = int(np.count_nonzero(positions))
                if setting != "target_shape":
                    settings[setting] = number
                elif settings[setting][-1] != -1:  # -1: whatever is left
                    settings[setting] = (*settings[setting][:-1], number)
        return type(layer).from_config(settings)

    small = keras.models.clone_model(model, clone_function=resize)
    for layer in model.layers:
        weights = {id(weight): weight.numpy() for weight in layer.weights}
        for (name, attribute, axis), positions in staying.items():
            if name == layer.name and axis is not None:
                key = id(getattr(layer, attribute))
                weights[key] = weights[key].compress(positions, axis)
        small.get_layer(layer.name).set_weights(list(weights.values()))
    return small


def check_smaller(small: keras.Model, masked: keras.Model, images: np.ndarray) -> float:
    """Compare the logits of a smaller network with those of the masked one.

    Args:
        images: a few, uint8 (n, height, width, 3).

    Returns:
        The largest difference, as a fraction of the largest logit.

    Raises:
        UserError: it is larger than SAME_OUTPUT.
    """
    probe = images.astype(np.float32) / 255
    expected = masked(probe, training=False).numpy()
    logits = small(probe, training=False).numpy()
    difference = float(np.abs(logits - expected).max() / np.abs(expected).max())
    if difference > SAME_OUTPUT:
        raise UserError(
            f"the smaller network differs from the masked one by {difference:.1e} of the largest "
            "logit; nothing was written. Teach pipeline/pruning/dependency_graph.py the new layers "
            "of networks.py"
        )
    return difference
