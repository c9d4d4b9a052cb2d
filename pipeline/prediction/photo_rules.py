"""Which classes a model has, and by which rule a photograph becomes its input.

The rule was decided when the data set was prepared, and a .tflite file made from it carries it in
its contract. What a file says of itself comes first, wherever it lies: the data set beside it may
have been prepared again since, with another `--fit` (a note says that the file is stale then). That
data set comes second, and only if a run made the file there: for .h5 files, which have no contract,
and .tflite files of an earlier version, whose contract leaves the rule out. Where neither says
anything, photographs are stretched, and a note says so if that distorts one.

Names and colours of the classes change no pixel's class: those of the data set come first, and then
those in the file; else the classes are numbered.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.base.artifacts import read_record
from pipeline.base.console import UserError, say
from pipeline.data.classes import Classes, make_classes
from pipeline.data.dataset import load_classes
from pipeline.data.fitting import FitRule, rule_from
from pipeline.data.image_reader import opened
from pipeline.data.photo_audit import inspect_photo
from pipeline.data.photographs import PHOTO_RULES, rules_from, white_key
from pipeline.inference.contract import read
from pipeline.prediction.photo_models import PhotoModel

NOTED_STRETCH = 1.02  # ratio of two aspect ratios above which a stretch is worth a note


class PhotoUse(NamedTuple):
    """What is needed beside a model to segment photographs with it."""

    classes: Classes
    photos: dict[str, Any]  # what `photographs.rules_from` takes
    picture: FitRule
    stated: bool  # whether anything says how photographs are fitted


def use_of(path: Path, model: PhotoModel) -> PhotoUse:
    """The classes of a model and the rule for its photographs.

    Args:
        path: the model file.
        model: what was opened.

    Raises:
        UserError: the contract in the file asks for what is not known here.
    """
    inside: dict[str, Any] = {}
    with contextlib.suppress(UserError):  # it has no contract
        inside = read(path)
    beside = data_beside(path, model)
    if beside:
        classes = load_classes(path.parent)
    else:
        names = model.names or tuple(f"class {k}" for k in range(model.number))
        colours = inside["output"].get("colours") if inside else None
        classes = make_classes(names, colours_from(colours, model.number))
    stored = {"fit": beside["fit"]} if "fit" in beside else None
    if inside:
        photos, stored = inside["input"].get("photos", {}), inside["input"].get("picture", stored)
    else:
        photos = beside.get("photos", {})
    try:
        rules_from(photos)
        rule = FitRule() if stored is None else rule_from(stored)
    except ValueError as error:
        raise UserError(
            f"{path} asks for {error}; use the version of this project that made the file"
        ) from None
    return PhotoUse(classes, photos, rule, stored is not None)


def data_beside(path: Path, model: PhotoModel) -> Mapping[str, Any]:
    """The record of the data set in a model's folder; {} if the model was not made from one there.

    That is so if no run made the file where it lies, or the data set has another number of classes.
    """
    if model.recorded:
        with contextlib.suppress(UserError, OSError):  # there is no data set
            if len(load_classes(path.parent)) == model.number:
                return read_record(path.parent, "dataset")
    return {}


def colours_from(stored: Any, number: int) -> tuple[tuple[int, int, int], ...] | None:
    """The colours that a contract lists, one for each class; None if it lists no such."""
    try:
        colours = tuple((int(red), int(green), int(blue)) for red, green, blue in stored)
    except (TypeError, ValueError):
        return None
    fits = len(colours) == number and all(0 <= value <= 255 for c in colours for value in c)
    return colours if fits else None


def note_stretch(path: Path, photo_size: tuple[int, int], size: tuple[int, int]) -> bool:
    """Prints a note that a photograph is stretched although nothing says so.

    Args:
        path: the model file.
        photo_size: width and height of the photograph.
        size: height and width that the model takes.

    Returns:
        Whether it was printed: not if the aspect ratios are about the same.
    """
    ratio = photo_size[0] * size[0] / (photo_size[1] * size[1])
    if 1 / NOTED_STRETCH <= ratio <= NOTED_STRETCH:
        return False
    say(
        f"note: {path} does not say how photos of another aspect ratio come to its size; they are "
        f"stretched to {size[1]} x {size[0]} pixels"
    )
    return True


def note_on_depth(path: Path, rules: Mapping[str, Any]) -> str:
    """A note on a photo that is deeper than 8 bits if the model was trained on none such; else "".

    Raises:
        Unreadable: the photo cannot be read.
    """
    name = f"the photo {path}"
    with opened(path, name) as picture:
        key = white_key(picture)
    if not key or key in rules:
        return ""
    return (
        f"{path} holds values up to {inspect_photo(path, name).largest:g}, and the pictures "
        f"that the model was trained on have 8 bits; {getattr(PHOTO_RULES, key)} is taken for white"
    )
