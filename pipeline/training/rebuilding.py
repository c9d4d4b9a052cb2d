"""Networks rebuilt with other layers: models inside them written out, a last activation taken off.

Every later stage looks at the layers of a network, so it needs plain layers, and logits.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.base.console import UserError
from pipeline.base.lazy import keras, layers, tf
from pipeline.training.keras_private import (
    Call,
    calls,
    is_graph_model,
    producing_layer,
    tensors_read,
)

PROBABILITIES = ("softmax", "sigmoid", "hard_sigmoid")  # activations that make them of logits
# TensorFlow functions that do the same.
PROBABILITY_FUNCTIONS = {"nn.softmax": "softmax", "math.sigmoid": "sigmoid"}
# Layers behind such an activation that only move or interpolate values.
MOVING = ("Reshape", "Resizing", "UpSampling2D", "Cropping2D", "ZeroPadding2D")


def flattened(model: keras.Model) -> keras.Model:
    """The network with the layers of the models inside it in their place.

    Pretrained backbones (`keras.applications`) and blocks written as `Sequential` are such models.
    What it computes stays the same, in training, too: a model that is called with
    `training=False` hands that on to its layers, and frozen layers stay frozen. A model that is
    called twice has its layers called twice, with the same weights.

    A layer keeps its name. If another layer has that name already, the name of the model that it
    came from goes before it.

    A Normalization layer, as the EfficientNets of `keras.applications` have it, becomes a Rescaling
    layer: its mean and deviation are fixed numbers, which no training changes.

    Args:
        model: functional or sequential.

    Returns:
        A functional model of new layers with the same weights; the given one if there is no such
        model or layer inside it, or if it is neither functional nor sequential.
    """
    if not is_graph_model(model) or not any(
        is_graph_model(layer) or isinstance(layer, layers.Normalization) for layer in model.layers
    ):
        return model
    return Rebuilt(model, {}).model


def with_logits(model: keras.Model, classes: int) -> tuple[keras.Model, list[str]]:
    """The network without the softmax or sigmoid at its end.

    It may be a layer, the activation of the last layer, or a call of a TensorFlow function, also
    before a layer that only moves or interpolates values. One channel for two classes becomes two
    logits, 0 and the channel, so that the softmax over them is the channel's sigmoid.

    Args:
        model: flattened.
        classes: the number of classes.

    Returns:
        A network of new layers with the same weights, and what was changed, for the user; the given
        one and nothing, if it has logits.

    Raises:
        UserError: the layer with that activation is used elsewhere in the network, too.
    """
    if not is_graph_model(model) or len(model.outputs) != 1:
        return model, []
    notes, tensor = [], probabilities(model)
    if tensor is not None:
        layer, kind = producing_layer(tensor), activation_of(tensor)
        refuse_other_uses(model, tensor)
        model = Rebuilt(model, {id(tensor): without_activation(layer)}).model
        notes.append(
            f"{model.name} ends with a {kind} ({layer.name}); the loss takes logits, so it was "
            "taken off; the files give logits, too"
        )
    if classes == 2 and model.output_shape[-1] == 1:
        two = layers.Rescaling([0.0, 1.0], name="two_logits", dtype="float32")(model.output)
        model = keras.Model(model.inputs, two, name=model.name)
        notes.append(
            f"{model.name} has one channel for two classes; it gives two logits now: 0 for the "
            "first class, and the channel for the second"
        )
    return model, notes


def probabilities(model: keras.Model) -> Any:
    """The symbolic tensor of probabilities that the network ends with; None for logits."""
    tensor = model.output
    while True:
        kind, activation = type(producing_layer(tensor)).__name__, activation_of(tensor)
        if activation in PROBABILITIES:
            return tensor
        if kind not in MOVING and (kind, activation) != ("Activation", "linear"):
            return None
        tensor = tensors_read(tensor)[0]


def activation_of(tensor: Any) -> str:
    """The name of the function that makes a tensor, at the end of its layer; empty if none does."""
    layer = producing_layer(tensor)
    kind = type(layer).__name__
    if kind == "Softmax":
        return "softmax" if layer.axis in (-1, tensor.shape.rank - 1) else ""
    if kind == "TFOpLambda":
        return PROBABILITY_FUNCTIONS.get(layer.get_config()["function"], "")
    return getattr(getattr(layer, "activation", None), "__name__", "")


def refuse_other_uses(model: keras.Model, tensor: Any) -> None:
    """Raises UserError if probabilities, or the kernel that makes them, are used elsewhere."""
    layer = producing_layer(tensor)
    readers = [call for call in calls(model) if any(read is tensor for read in call.inputs)]
    number = sum(call.layer is layer for call in calls(model))
    if len(readers) + (model.output is tensor) > 1 or (layer.weights and number > 1):
        raise UserError(
            f"{model.name} ends with probabilities ({layer.name}), which it uses elsewhere, too; "
            "the loss takes logits: give them by a layer of their own, without activation"
        )


def without_activation(layer: layers.Layer) -> layers.Layer | None:
    """A new layer like the given one, without the function at its end; None if nothing is left."""
    if not layer.weights:
        return None
    return type(layer).from_config(layer.get_config() | {"activation": "linear"})


class Rebuilt:
    """A network made anew, call by call, of new layers with the same weights.

    Args:
        model: functional or sequential.
        instead: the new layer for a call, by `id` of the tensor that the call makes; None: the call
            is left out.

    Attributes:
        model: the new network, without models inside it.
    """

    def __init__(self, model: keras.Model, instead: Mapping[int, layers.Layer | None]) -> None:
        self._instead = instead
        self._new: dict[int, tuple[layers.Layer, layers.Layer]] = {}  # old and new, by `id` of old
        # Layers of the network itself keep their names.
        self._names = {layer.name for layer in model.layers if not is_graph_model(layer)}
        inputs = [
            layers.Input(tensor.shape[1:], dtype=tensor.dtype, name=producing_layer(tensor).name)
            for tensor in model.inputs
        ]
        outputs = self._replay(model, inputs, {}, "")
        self.model = keras.Model(
            inputs if len(inputs) > 1 else inputs[0],
            outputs if len(outputs) > 1 else outputs[0],
            name=model.name,
        )
        for old, new in self._new.values():
            if new.weights:
                new.set_weights(old.get_weights())

    def _replay(
        self, model: keras.Model, inputs: list[Any], mode: dict[str, Any], inside: str
    ) -> list[Any]:
        """Makes the calls of a model on new tensors and returns those of its outputs.

        Args:
            inputs: new tensors in place of the model's inputs.
            mode: the argument `training` that the model is called with, if it is given.
            inside: the model's name; empty for the network itself.
        """
        new = {id(tensor): value for tensor, value in zip(model.inputs, inputs, strict=True)}

        def renewed(value: Any) -> Any:
            return new.get(id(value), value)

        for call in calls(model):
            if isinstance(call.layer, layers.InputLayer):
                continue
            args, kwargs = tf.nest.map_structure(renewed, (call.args, call.kwargs))
            given = {key: kwargs[key] for key in ("training",) if kwargs.get(key) is not None}
            own_mode = mode | given
            if is_graph_model(call.layer):
                refuse_dictionary(call)
                read = [new[id(tensor)] for tensor in call.inputs]
                made = self._replay(call.layer, read, own_mode, call.layer.name)
            elif id(call.outputs[0]) in self._instead:
                made = [self._replaced(call, new[id(call.inputs[0])])]
            else:
                if "training" in inspect.signature(call.layer.call).parameters:
                    kwargs |= own_mode
                made = tf.nest.flatten(self._layer(call.layer, inside)(*args, **kwargs))
            new |= {id(tensor): value for tensor, value in zip(call.outputs, made, strict=True)}
        return [new[id(tensor)] for tensor in model.outputs]

    def _replaced(self, call: Call, read: Any) -> Any:
        """What the layer in place of that of a call makes of a new tensor."""
        layer = self._instead[id(call.outputs[0])]
        if layer is None:
            return read
        self._new[id(call.layer)] = call.layer, layer
        return layer(read)

    def _layer(self, layer: layers.Layer, inside: str) -> layers.Layer:
        """The new layer for a layer, the same in all its calls."""
        if id(layer) not in self._new:
            settings = layer.get_config()
            if inside:
                settings["name"] = self._free_name(layer.name, inside)
            if isinstance(layer, layers.Normalization):
                new = as_rescaling(layer, settings)
            else:
                new = type(layer).from_config(settings)
            self._new[id(layer)] = layer, new
        return self._new[id(layer)][1]

    def _free_name(self, name: str, inside: str) -> str:
        """A name that no other layer has, and from now on this one."""
        number, free = 1, name
        while free in self._names:
            free = f"{inside}_{name}" + (f"_{number}" if number > 1 else "")
            number += 1
        self._names.add(free)
        return free


def as_rescaling(layer: layers.Layer, settings: Mapping[str, Any]) -> layers.Layer:
    """A Rescaling layer that computes what a Normalization layer does.

    Args:
        settings: of the normalisation; name and type are kept.
    """
    mean, variance = (np.asarray(value, np.float64)[0] for value in (layer.mean, layer.variance))
    deviation = np.maximum(np.sqrt(variance), keras.backend.epsilon())
    scale, offset = (deviation, mean) if layer.invert else (1 / deviation, -mean / deviation)
    # One number a channel is a list of them, and one for all a number, as later stages expect it.
    if scale.size == scale.shape[-1]:
        scale, offset = (
            value.ravel() if value.size > 1 else value.max() for value in (scale, offset)
        )
    return layers.Rescaling(
        scale.tolist(), offset.tolist(), name=settings["name"], dtype=settings["dtype"]
    )


def refuse_dictionary(call: Call) -> None:
    """Raises UserError if a model inside another one is called with a dictionary."""
    if any(isinstance(argument, dict) for argument in call.args):
        raise UserError(
            f"the model {call.layer.name} inside the network is called with a dictionary; call it "
            "with a list of tensors, in the order of its inputs"
        )
