"""Calls a network's function, and makes what it returns a network that this pipeline trains."""

from __future__ import annotations

import functools
import inspect
import json
import re
import textwrap
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.base.artifacts import ROOT
from pipeline.base.console import UserError
from pipeline.base.lazy import keras, layers
from pipeline.inference.keras_files import foreign_part
from pipeline.training.keras_private import is_graph_model
from pipeline.training.rebuilding import flattened, with_logits

NO_ROOT_SCOPE = re.compile("^[^A-Za-z0-9.]|[^A-Za-z0-9_./-]")  # what TensorFlow takes in no name
LONGEST_REASON = 160  # characters of an exception's text


def build_network(
    function: Callable[..., Any], size: tuple[int, int], classes: int, precision: str = "float32"
) -> tuple[keras.Model, list[str]]:
    """Build a network: plain layers from float32 images to float32 logits.

    Args:
        function: of size and classes, see networks.py.
        size: height and width of the images in pixels.
        classes: the number of classes.
        precision: Keras' name of the policy that its layers compute by, as "mixed_bfloat16".

    Returns:
        The network that the function returns, itself if it is one of plain layers with logits; and
        what was changed about it, for the user. See `rebuilding`.

    Raises:
        UserError: the function raises, or what it returns is no such network.
    """
    keras.mixed_precision.set_global_policy(precision)
    try:
        return made_ready(returned_by(function, size, classes), function, size, classes)
    finally:
        keras.mixed_precision.set_global_policy("float32")


def made_ready(
    model: keras.Model, function: Callable[..., Any], size: tuple[int, int], classes: int
) -> tuple[keras.Model, list[str]]:
    """What `build_network` returns, of the model that the function returned."""
    if not is_graph_model(model):
        raise UserError(
            f"{where(function)} returns a model that is not made of the calls of layers; return "
            "keras.Model(image, logits)"
        )
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise UserError(
            f"{where(function)} returns a model of {len(model.inputs)} inputs and "
            f"{len(model.outputs)} outputs; return keras.Model(image, logits), with one each"
        )
    check_readable(model, function)
    model, notes = with_logits(flattened(model), classes)
    check_shapes(model, size, classes, function)
    return named_for_tensorflow(float32_logits(model)), notes


def returned_by(function: Callable[..., Any], size: tuple[int, int], classes: int) -> keras.Model:
    """The model that a network's function returns; raises UserError if it does not."""
    try:
        model = function(size, classes)
    except UserError:
        raise
    except Exception as error:  # anything: it is the user's code
        raise UserError(f"{where(function, error)} raises {in_one_line(error)}") from None
    if model is None:
        raise UserError(
            f"{where(function)} returns nothing; its last line must be: "
            "return keras.Model(image, logits)"
        )
    if not isinstance(model, keras.Model):
        raise UserError(
            f"{where(function)} returns a {type(model).__name__}, not a model; its last line must "
            "be: return keras.Model(image, logits)"
        )
    return model


def where(function: Callable[..., Any], error: Exception | None = None) -> str:
    """A function's name, file and line, in words.

    Args:
        error: what it raised; the line is then that of the function that was reached last in the
            same file.
    """
    plain = inspect.unwrap(function.func if isinstance(function, functools.partial) else function)
    code = plain.__code__
    line = code.co_firstlineno
    for frame in traceback.extract_tb(error.__traceback__ if error else None):
        if frame.filename == code.co_filename and frame.lineno is not None:
            line = frame.lineno
    file = Path(code.co_filename)
    named = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file
    return f"{plain.__name__} ({named}, line {line})"


def check_readable(model: keras.Model, function: Callable[..., Any]) -> None:
    """Raises UserError if a model could not be saved and read back."""
    try:
        foreign = foreign_part(json.loads(model.to_json()))
    except Exception as error:  # layers without a configuration raise errors of many kinds
        raise UserError(
            f"the network of {where(function)} cannot be saved ({in_one_line(error)}); use plain "
            "layers of Keras"
        ) from None
    if foreign:
        raise UserError(
            f"{model.name} uses {foreign}, which could not be read back from its file; use "
            "another layer, or add it to LAYERS or FUNCTIONS in pipeline/inference/keras_files.py"
        )


def in_one_line(error: Exception) -> str:
    """The kind of an exception and its text, shortened, without Keras' list of arguments."""
    text = str(error).split("Call arguments received")[0]
    return f"{type(error).__name__}: {textwrap.shorten(text, LONGEST_REASON) or 'no reason given'}"


def check_shapes(
    model: keras.Model, size: tuple[int, int], classes: int, function: Callable[..., Any]
) -> None:
    """Raises UserError if a model does not map float32 images to logits of the same size."""
    expected = (*size, 3), (*size, classes)
    shapes = tuple(model.input_shape[1:]), tuple(model.output_shape[1:])
    if shapes != expected:
        way_out = "correct it"
        if shapes == (expected[0], (*size, 1)):
            way_out = f"one channel tells two classes apart, and the data set has {classes}"
        raise UserError(
            f"{where(function)} maps {shapes[0]} to {shapes[1]}, not {expected[0]} to "
            f"{expected[1]}; {way_out}"
        )
    image = model.inputs[0].dtype
    if image.name != "float32":
        raise UserError(
            f"the input of {where(function)} has the type {image.name}, but images come as float32 "
            "of 0..1; write layers.Input((*size, 3)), and leave out a scale of 1/255"
        )


def float32_logits(model: keras.Model) -> keras.Model:
    """The network with logits in float32, as it may compute in bfloat16."""
    if model.outputs[0].dtype.name == "float32":
        return model
    logits = layers.Activation("linear", dtype="float32", name="float32_logits")(model.output)
    return keras.Model(model.inputs[0], logits, name=model.name)


def named_for_tensorflow(model: keras.Model) -> keras.Model:
    """The network under a name that TensorFlow takes: other characters become "_"."""
    name = NO_ROOT_SCOPE.sub("_", model.name)
    name = name if name[0] != "_" else f"network{name}"
    return model if name == model.name else keras.Model(model.inputs[0], model.output, name=name)
