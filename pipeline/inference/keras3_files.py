"""Keras models of others: whole models in .h5 and .keras files, of Keras 2 and of Keras 3.

The pipeline works with Keras 2 (TFMOT needs it). A model of Keras 3 is made again in Keras 2, layer
by layer from its configuration, and gets its weights; then both must give the same scores. What a
file is, is told by its content. Files that name anything but plain layers are refused before either
Keras reads them, so that none runs code.
"""

from __future__ import annotations

import functools
import inspect
import json
import operator
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.base.archives import ZIP_ERRORS
from pipeline.base.console import UserError
from pipeline.base.lazy import keras, keras3, layers, tf
from pipeline.inference.keras_files import LAYERS, PARTS, foreign_part

LARGEST_DIFFERENCE = 1e-4  # of scores of the two models, over the largest score (1 if smaller)
COMPARED = 32  # random pictures
RENAMED = {"LeakyReLU": {"negative_slope": "alpha"}}  # settings that Keras 2 calls otherwise
# Settings that are about training, or that the weights decide.
NOT_COPIED = ("initializer", "regularizer", "constraint", "dtype", "quantization_config")
LAYER_MODULES = ("keras.layers", "keras.models", "keras.src.layers.", "keras.src.models.")
# Functions of Keras 3 that a model may call, as `x + y` does.
OPERATIONS: dict[str, Callable[..., Any]] = {
    "keras.src.ops.numpy.Add": operator.add,
    "keras.src.ops.numpy.Subtract": operator.sub,
    "keras.src.ops.numpy.Multiply": operator.mul,
    "keras.src.ops.numpy.TrueDivide": operator.truediv,
    "keras.src.ops.numpy.Maximum": lambda x, y: tf.maximum(x, y),
    "keras.src.ops.numpy.Minimum": lambda x, y: tf.minimum(x, y),
    "keras.src.ops.numpy.Concatenate": lambda tensors, axis: tf.concat(tensors, axis),
    "keras.src.ops.nn.Relu": lambda x: tf.nn.relu(x),
    "keras.src.ops.nn.Sigmoid": lambda x: tf.sigmoid(x),
    "keras.src.ops.nn.Softmax": lambda x, axis: tf.nn.softmax(x, axis),
}
PRECISIONS = ("DTypePolicy", "DTypePolicyMap")
TENSOR = "__keras_tensor__"  # how a configuration of Keras 3 names what a layer reads
SAVE = "save the whole model where it was made: model.save('model.keras')"

Key = tuple[str, int, int]  # a tensor: name of the layer, number of its call, number of its output


def read_whole_model(path: Path) -> tuple[keras.Model, str]:
    """Reads a whole Keras model, with its weights.

    Args:
        path: a file of `model.save`, of Keras 2 or 3, whatever its name.

    Returns:
        The model, in Keras 2; and the version of Keras that wrote the file.

    Raises:
        UserError: it is missing, something else, damaged, or names more than plain layers.
    """
    config, version, suffix = configuration(path)
    of_keras3 = version.startswith("3")
    if part := foreign_in_keras3(config) if of_keras3 else foreign_part(config):
        raise UserError(
            f"{path} uses {part}, which is no plain layer of Keras; save a model of plain layers "
            "(LAYERS in pipeline/inference/keras_files.py lists them)"
        )
    try:
        with tempfile.TemporaryDirectory() as folder:  # both Keras go by the suffix
            copy = Path(shutil.copyfile(path, Path(folder) / f"model{suffix}"))
            if not of_keras3:
                return keras.models.load_model(copy, compile=False), version
            return in_keras2(copy, config), version
    except UserError as error:
        raise UserError(f"{path} {error}") from None
    except Exception as error:  # Keras and h5py raise errors of many kinds for a damaged file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise UserError(f"{path} cannot be read as a Keras model ({reason}); {SAVE}") from None


def configuration(path: Path) -> tuple[dict[str, Any], str, str]:
    """The configuration of a model file, the version of Keras that wrote it, and its true suffix.

    Raises:
        UserError: it is not the file of a whole Keras model.
    """
    if path.is_dir():
        kind = "a SavedModel" if (path / "saved_model.pb").is_file() else "a folder"
        raise UserError(f"{path} is {kind}, not a file of a Keras model; {SAVE}")
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; name a .keras or an .h5 file")
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path) as file:
                if "model_config" not in file.attrs:
                    raise UserError(f"{path} holds weights without their network; {SAVE}")
                # Keras 2 wrote no version at first.
                version = text_of(file.attrs.get("keras_version", "2"))
                return json.loads(text_of(file.attrs["model_config"])), version, ".h5"
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
            return config, str(json.loads(archive.read("metadata.json"))["keras_version"]), ".keras"
    except ZIP_ERRORS + (KeyError, TypeError):
        raise UserError(f"{path} is not a file of a Keras model, or damaged; {SAVE}") from None


def text_of(value: Any) -> str:
    """The text of an HDF5 attribute, which may come as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


def foreign_in_keras3(config: Any) -> str | None:
    """The first part of a configuration of Keras 3 that is not allowed; None if all are."""
    if isinstance(config, list):
        return next(filter(None, map(foreign_in_keras3, config)), None)
    if not isinstance(config, dict):
        return None
    name, module = config.get("class_name"), str(config.get("module") or "keras")
    if name is not None and name != TENSOR:
        part = module in PARTS or (name in PRECISIONS and module.startswith("keras"))
        layer = name in LAYERS and (module == "keras" or module.startswith(LAYER_MODULES))
        if not part and not layer and operation_of(config) is None:
            return f"{module}.{name}"
        if config.get("registered_name") not in (None, name):
            return f"the custom object {config['registered_name']}"
    inner = (
        value
        for key, value in config.items()
        if key not in ("build_config", "compile_config", "module")
    )
    return next(filter(None, map(foreign_in_keras3, inner)), None)


def operation_of(config: dict[str, Any]) -> Callable[..., Any] | None:
    """The function of OPERATIONS that a configuration of Keras 3 calls; None if it calls none."""
    return OPERATIONS.get(f"{config.get('module')}.{config.get('class_name')}")


# --- Keras 3 to Keras 2 -------------------------------------------------------------------------


def in_keras2(path: Path, config: dict[str, Any]) -> keras.Model:
    """A model of Keras 3, made again in Keras 2.

    Args:
        path: the file, with the suffix that Keras 3 expects.
        config: its configuration, of plain layers only.

    Raises:
        UserError: a layer cannot be made again, or the models give different scores. The message
            lacks the name of the file.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"  # read when keras3 is loaded; others are not here
    theirs = keras3.models.load_model(path, compile=False)
    model = made_again(config)
    copy_weights(theirs, model)
    side = 64
    shape = [length or side for length in model.input_shape[1:]]
    pictures = np.random.default_rng(0).random((COMPARED, *shape), np.float32)
    ours, expected = model(pictures).numpy(), np.asarray(theirs(pictures))
    difference = np.abs(ours - expected).max() / max(1.0, np.abs(expected).max())
    if not difference <= LARGEST_DIFFERENCE:
        raise UserError(
            f"computes something else in Keras 2 (scores differ by {difference:.2g}); the layers "
            f"of it are {', '.join(sorted(kinds(config)))}"
        )
    return model


def kinds(config: Any) -> set[str]:
    """Class names of all layers in a configuration."""
    inner = config["config"].get("layers", [])
    return {config["class_name"]}.union(*map(kinds, inner))


def made_again(config: dict[str, Any]) -> keras.Model:
    """A model of Keras 2 with new weights, from the configuration of a model of Keras 3."""
    settings = config["config"]
    if config["class_name"] == "Sequential":
        inner = [layer_like(layer) for layer in settings["layers"]]
        return keras.Sequential(inner, name=settings["name"])
    tensors: dict[Key, Any] = {}
    made = {layer["name"]: layer_like(layer) for layer in settings["layers"]}
    waiting = []
    for layer in settings["layers"]:
        if layer["class_name"] == "InputLayer":
            tensors[layer["name"], 0, 0] = made[layer["name"]]
        waiting += [(layer["name"], k, call) for k, call in enumerate(layer["inbound_nodes"])]
    while waiting:
        ready = [call for call in waiting if set(read_by(call[2])) <= tensors.keys()]
        if not ready:
            raise UserError(f"is damaged: layer {waiting[0][0]} reads one that is not there")
        for name, number, call in ready:
            arguments = [put(value, tensors) for value in call["args"]]
            named = {key: put(value, tensors) for key, value in call["kwargs"].items()}
            named = {key: value for key, value in named.items() if value is not None}
            try:
                outputs = made[name](*arguments, **named)
            except Exception as error:  # whatever Keras raises for arguments that it does not know
                reason = str(error).strip().splitlines()[0][:120]
                raise UserError(f"has a layer that Keras 2 lacks: {name} ({reason})") from None
            several = outputs if isinstance(outputs, list | tuple) else [outputs]
            tensors |= {(name, number, k): output for k, output in enumerate(several)}
        waiting = [call for call in waiting if call not in ready]
    inputs, outputs = (
        [tensors[key] for key in keys_of(settings[which])]
        for which in ("input_layers", "output_layers")
    )
    return keras.Model(
        *(ends[0] if len(ends) == 1 else ends for ends in (inputs, outputs)), name=settings["name"]
    )


def layer_like(config: dict[str, Any]) -> Any:
    """A new layer of Keras 2 like one of Keras 3; for an input a tensor, for a function itself.

    Raises:
        UserError: Keras 2 has no such layer.
    """
    kind, settings = config["class_name"], config["config"]
    if kind in ("Functional", "Sequential"):
        return made_again(config)
    if kind == "InputLayer":
        shape = settings.get("batch_shape") or settings["batch_input_shape"]
        return layers.Input(
            shape[1:], dtype=settings.get("dtype", "float32"), name=settings["name"]
        )
    if operation := operation_of(config):
        return functools.partial(operation, **{k: v for k, v in settings.items() if k == "axis"})
    make = getattr(layers, kind)
    known = {*inspect.signature(make.__init__).parameters, "name", "trainable"}
    names = RENAMED.get(kind, {})
    copied = {
        names.get(key, key): value
        for key, value in settings.items()
        if not any(word in key for word in NOT_COPIED)
    }
    try:
        return make(**{key: value for key, value in copied.items() if key in known})
    except Exception as error:  # an activation of Keras 3 alone, say
        reason = str(error).strip().splitlines()[0][:120]
        raise UserError(f"has a layer that Keras 2 lacks: {settings['name']} ({reason})") from None


def read_by(value: Any) -> Iterator[Key]:
    """The tensors in the arguments of a call."""
    if isinstance(value, dict) and value.get("class_name") == TENSOR:
        name, number, output = value["config"]["keras_history"]
        yield name, number, output
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from read_by(inner)


def put(value: Any, tensors: dict[Key, Any]) -> Any:
    """Arguments of a call, with tensors in the place of their names."""
    if isinstance(value, dict) and value.get("class_name") == TENSOR:
        name, number, output = value["config"]["keras_history"]
        return tensors[name, number, output]
    if isinstance(value, dict):
        return {key: put(inner, tensors) for key, inner in value.items()}
    return [put(inner, tensors) for inner in value] if isinstance(value, list) else value


def keys_of(ends: Any) -> list[Key]:
    """The tensors that a model begins or ends with, as its configuration lists them."""
    if isinstance(ends, dict):
        ends = list(ends.values())
    if ends and isinstance(ends[0], str):
        return [(ends[0], ends[1], ends[2])]
    return [(name, number, output) for name, number, output in ends]


def copy_weights(theirs: Any, ours: keras.Model) -> None:
    """Copies the weights of a model of Keras 3, layer by layer.

    Raises:
        UserError: those of a layer have other shapes.
    """
    for layer in ours.layers:
        if not layer.weights:  # calls of functions are among them, and have names of their own
            continue
        same = theirs.get_layer(layer.name)
        if isinstance(layer, keras.Model):
            copy_weights(same, layer)
            continue
        try:
            layer.set_weights(same.get_weights())
        except ValueError:
            raise UserError(
                f"has a layer whose weights Keras 2 keeps otherwise: {layer.name}"
            ) from None
