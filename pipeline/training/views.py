"""The compact network at another resolution: what a student sees, and what its teacher sees."""

from __future__ import annotations

import math
from typing import Any

from pipeline.base.lazy import keras, layers
from pipeline.training.keras_private import calls, producing_layer, tensors_read
from pipeline.training.networks import logits_of_size

STUDENT_RESOLUTION = 0.8  # side of a student's image over that of its teacher
# Layers that work on images of any size.
ANY_SIZE = (
    *("InputLayer", "Conv2D", "DepthwiseConv2D", "SeparableConv2D", "BatchNormalization"),
    *("ReLU", "LeakyReLU", "ELU", "Activation", "Dropout", "SpatialDropout2D", "Add", "Multiply"),
    *("Concatenate", "UpSampling2D", "MaxPooling2D", "AveragePooling2D", "Conv2DTranspose"),
)


def distillation_pair(
    teacher: keras.Model, student: keras.Model
) -> tuple[keras.Model, keras.Model]:
    """Return (teacher, student) that share their weights with the given models.

    The student runs at STUDENT_RESOLUTION of the teacher's resolution, or slightly above. Crops
    enlarge objects in training; on a smaller image they have the size again that they have in use
    (Touvron et al., *Fixing the train-test resolution discrepancy*, 2019). The teacher sees them
    large, where it is more accurate. If the student's image cannot shrink, because its sides are
    multiples of 32 pixels, the teacher's image is enlarged instead (docs/choices.md).

    Returns:
        Models of the same inputs and outputs, whose weights are those of the given models, not
        copies. The given models themselves, if they are not compact networks or if neither image
        can change.
    """
    smaller = at_resolution(student, STUDENT_RESOLUTION)
    if smaller is not student:
        return teacher, smaller
    return at_resolution(teacher, 1 / STUDENT_RESOLUTION), student


def at_resolution(model: keras.Model, scale: float) -> keras.Model:
    """The compact network with its layers run on an image of another resolution.

    Args:
        model: a compact network, maybe with wrapped layers. Other models are returned as they are,
            and so is one that was made of the compact network but ends in another way, or has a
            layer that is made for images of one size.
        scale: factor of both sides of the image that the layers see. The sides are rounded to
            multiples of 32 pixels, towards the present side.

    Returns:
        A model of the same input and output sizes that shares the weights of the given one; the
        given one itself, if the rounded sides are the present ones.
    """
    inner_layers = {layer.name: getattr(layer, "layer", layer) for layer in model.layers}
    last = tensor_of(model, "logits_block")
    if last is None or not ends_as_compact(model, last):
        return model
    size, enlarge = model.input_shape[1:3], inner_layers.get("enlarge")
    inner = (enlarge.height, enlarge.width) if enlarge else size
    towards = math.ceil if scale < 1 else math.floor
    sides = tuple(towards(round(side * scale / 32, 6)) * 32 for side in inner)
    if sides == inner:
        return model

    def reuse(layer: layers.Layer) -> layers.Layer:
        return layers.Activation("linear") if layer.name == "enlarge" else layer

    trunk = keras.Model(model.input, last)
    if not fits_any_size(trunk):
        return model
    try:
        trunk = keras.models.clone_model(trunk, layers.Input((*sides, 3)), reuse)
    except ValueError:  # a sum of sides that are equal at the given size only
        return model
    image = layers.Input((*size, 3))
    x = trunk(layers.Resizing(*sides)(image))
    block = math.isqrt(last.shape[-1] // model.output_shape[-1])
    return keras.Model(image, logits_of_size(x, block, size))


def tensor_of(model: keras.Model, name: str) -> Any:
    """The symbolic tensor by which a layer of this name comes before the output of a model.

    Only first inputs are followed. None if there is no such layer.
    """
    tensor = model.output
    while producing_layer(tensor).name != name:
        read = tensors_read(tensor)
        if not read:
            return None
        tensor = read[0]
    return tensor


def ends_as_compact(model: keras.Model, last: Any) -> bool:
    """Whether what follows a tensor in a model is what `networks.logits_of_size` makes."""
    size, classes = model.output_shape[1:3], model.output_shape[-1]
    block = math.isqrt(last.shape[-1] // classes)
    rows = last.shape[1] * block
    if block**2 * classes != last.shape[-1] or not rows:
        return False
    start = layers.Input(last.shape[1:])
    compact = keras.Model(start, logits_of_size(start, block, size))
    return steps_after(model, last) == steps_after(compact, start)


def steps_after(model: keras.Model, start: Any) -> list[Any] | None:
    """The calls that make a model's output of a tensor, without names; None if they branch."""
    by_output = {id(tensor): call for call in calls(model) for tensor in call.outputs}
    steps, tensor = [], model.output
    while tensor is not start:
        call = by_output[id(tensor)]
        if len(call.inputs) != 1:
            return None
        settings = {key: value for key, value in call.layer.get_config().items() if key != "name"}
        constants = [value for value in call.constants if not isinstance(value, str)]
        steps.append((type(call.layer).__name__, settings, constants))
        tensor = call.inputs[0]
    return steps


def fits_any_size(trunk: keras.Model) -> bool:
    """Whether a model's layers work on images of any size, but for an enlargement of the image."""
    plain = (getattr(layer, "layer", layer) for layer in trunk.layers)  # without their wrappers
    kinds = {type(layer).__name__ for layer in plain if layer.name != "enlarge"}
    return kinds <= set(ANY_SIZE)
