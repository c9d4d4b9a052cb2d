"""A training that begins with the weights of an earlier model (`--start-from`).

What a network learned on one data set helps on the next one, most of all where that is small
(transfer learning: Yosinski et al. 2014, "How transferable are features in deep neural networks?").
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.base import commands, ownership
from pipeline.base.artifacts import KERAS_MODELS, artifact_path
from pipeline.base.console import UserError, say
from pipeline.base.files import sha256
from pipeline.base.lazy import keras
from pipeline.base.stage import Stage
from pipeline.inference.keras_files import read_model

# Flags that name a model, and what its content is called among the inputs of a record.
INPUTS = {
    "start_from": "the model that --start-from names",
    "take": "the model that --take names",
}
MOST_NAMED = 6  # layers in a line


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --start-from."""
    parser.add_argument(
        "--start-from",
        type=Path,
        metavar="FILE.h5",
        help="begin with the weights of an earlier model, also of other classes and another image "
        "size: layers of the same name and shape are loaded, the others begin as without it",
    )


def with_named_models(stage: Stage) -> Stage:
    """The stage with the models that flags name among its inputs; their paths do not count.

    Raises:
        UserError: a file is missing, or one that the stages replace.
    """
    for flag, name in INPUTS.items():
        stage, path = stage.ignoring(flag), getattr(stage.arguments, flag)
        if path:
            refuse_replaced(stage, flag, path)
            stage = stage.with_inputs({name: sha256(path)})
    return stage


def refuse_replaced(stage: Stage, flag: str, path: Path) -> None:
    """Raises UserError if a file is missing, or one that this stage or pruning would replace."""
    typed = f"--{flag.replace('_', '-')} {path}"
    if not path.is_file():
        kind = "a folder, not a file" if path.is_dir() else "missing"
        raise UserError(
            f"{typed}: it is {kind}; name the file of a whole Keras model, as "
            "model.save('model.keras') writes it"
        )
    replaced = [artifact_path(stage.models_dir, name).resolve() for name in KERAS_MODELS]
    if path.resolve() in replaced:
        kept = ownership.free_name(path, "earlier")
        copied = commands.line("cp", commands.as_operand(path), commands.as_operand(kept))
        asked = stage.asked()
        again = asked.with_settings({**asked.settings, flag: str(kept)})
        raise UserError(
            f"{typed}: the stages replace that file; keep a copy and name it: {copied} && {again}"
        )


def load(model: keras.Model, path: Path | None) -> dict[str, dict[str, list[str]]]:
    """Copies weights from an earlier model, in place, and prints which layers have them.

    Args:
        model: the network that is about to be trained.
        path: an .h5 file of this pipeline, or of another one if it has plain layers only; None:
            nothing is copied.

    Returns:
        For the record, {"started_from": {"loaded": names, "anew": names}} of layers with weights:
        loaded are all whose name and shapes agree. {} without a path.

    Raises:
        UserError: the file cannot be read, or no layer agrees.
    """
    if path is None:
        return {}
    earlier = {layer.name: layer.get_weights() for layer in read_model(path).layers}
    loaded, anew = [], []
    for layer in model.layers:
        shapes = [weight.shape for weight in layer.get_weights()]
        values = earlier.get(layer.name, [])
        if not shapes:
            continue
        if [value.shape for value in values] == shapes:
            layer.set_weights(values)
            loaded.append(layer.name)
        else:
            anew.append(layer.name)
    if not loaded:
        raise UserError(
            f"--start-from {path}: no layer of {model.name} has the name and the shapes of one in "
            "it; train without --start-from, or with the --architecture that it has"
        )
    named = ", ".join(anew[:MOST_NAMED]) + ", ..." * (len(anew) > MOST_NAMED)
    rest = f"{len(anew)} anew: {named}" if anew else "none anew"
    say(f"{len(loaded)} layers begin with the weights of {path}, {rest}")
    return {"started_from": {"loaded": loaded, "anew": anew}}
