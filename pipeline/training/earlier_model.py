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

FLAG = "start_from"
INPUT = "the model that --start-from names"  # among the inputs of a record
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


def with_earlier_model(stage: Stage) -> Stage:
    """The stage with the content of the earlier model among its inputs; its path does not count.

    Raises:
        UserError: the file is missing, or one that the stages replace.
    """
    stage, path = stage.ignoring(FLAG), getattr(stage.arguments, FLAG)
    if not path:
        return stage
    if not path.is_file():
        raise UserError(f"--start-from {path}: there is no such file; name an .h5 file")
    replaced = [artifact_path(stage.models_dir, name).resolve() for name in KERAS_MODELS]
    if path.resolve() in replaced:
        kept = ownership.free_name(path, "earlier")
        copied = commands.line("cp", commands.as_operand(path), commands.as_operand(kept))
        asked = stage.asked("original")
        again = asked.with_settings({**asked.settings, FLAG: str(kept)})
        raise UserError(
            f"--start-from {path}: the stages replace that file; keep a copy and start from it: "
            f"{copied} && {again}"
        )
    return stage.with_inputs({INPUT: sha256(path)})


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
