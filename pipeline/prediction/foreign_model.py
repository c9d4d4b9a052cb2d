"""A model that was made elsewhere, opened so that it is measured like one of ours.

What its file does not say is found out on pictures of the validation split, as `training.py --take`
does it: the values that its input wants, and whether its classes stand in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.base.artifacts import read_record
from pipeline.base.console import UserError
from pipeline.base.lazy import keras
from pipeline.data.class_maps import class_map
from pipeline.data.dataset import load_classes, load_split
from pipeline.data.fitting import FitRule, fitted
from pipeline.inference.conventions import RANGES, TRIED, Match, match, proposed_order
from pipeline.inference.keras3_files import read_whole_model
from pipeline.inference.keras_files import KerasModel
from pipeline.inference.tflite_files import IDENTIFIER
from pipeline.prediction.input_values import DIVIDED
from pipeline.prediction.photo_models import PhotoModel, open_tflite, with_checks
from pipeline.training.taken_model import fitting, with_range

SCORE_OF_A_COIN = 0.5  # a sigmoid's value between two classes; that of its logit is 0


@dataclass(frozen=True)
class ForeignModel:
    """A model of others behind the face of `iou.Model`, as far as accuracy needs it."""

    path: Path
    network: PhotoModel
    keras_model: keras.Model | None  # from images of 0 to 1 to logits; None: a .tflite file
    fit: str  # how pictures come to its size, one of `fitting.FITS`
    order: Sequence[int]  # the data set's class of each of its outputs
    single: float | None = None  # of one score per pixel: the value above which it is class 1
    about: str = ""  # what was found out, for the user
    batch: int = 1

    def class_maps(self, images: np.ndarray) -> np.ndarray:
        """See `iou.Model`; images of another size than the network's are fitted to it."""
        return np.stack([self.class_map(image) for image in images])

    def class_map(self, image: np.ndarray) -> np.ndarray:
        """The class of each pixel of one image, integers (height, width).

        Args:
            image: uint8 (height, width, 3).
        """
        height, width = image.shape[:2]
        if (height, width) == self.network.size:
            scores = self.scores(image)
            return self.in_order(scores if scores.ndim == 2 else scores.argmax(-1))
        seen = fitted(Image.fromarray(image), self.network.size, FitRule(self.fit))
        scores = self.scores(np.asarray(seen.image))
        return self.in_order(class_map(scores, (width, height), seen.box))

    def scores(self, image: np.ndarray) -> np.ndarray:
        """As `PhotoModel.predict`, with a score of each class."""
        scores = self.network.predict(image)
        if self.single is None or scores.ndim == 2:
            return scores
        return np.concatenate([np.full_like(scores, self.single), scores], axis=-1)

    def in_order(self, classes: np.ndarray) -> np.ndarray:
        """Class indices of the network as those of the data set."""
        if classes.max(initial=0) >= len(self.order):
            raise UserError(
                f"{self.path} gives pixels the class {int(classes.max())}, and the data set has "
                f"{len(self.order)} classes, 0 to {len(self.order) - 1}; name another file"
            )
        return np.asarray(self.order)[classes]


def open_foreign(
    path: Path, models_dir: Path, input_range: str | None, order: Sequence[int] | None
) -> ForeignModel:
    """Opens a .tflite file or a whole Keras model, and finds out what it takes for granted.

    Args:
        path: of the model.
        models_dir: has the data set whose validation pictures are tried.
        input_range: a key of RANGES; None: what the file says, else the best of RANGES.
        order: the data set's class of each output; None: the data set's own order.

    Raises:
        UserError: the file is missing, cannot be read, or does not fit the data set.
    """
    names, record = load_classes(models_dir).names, read_record(models_dir, "dataset")
    validation = load_split(models_dir, "validation")
    rows = np.unique(np.linspace(0, len(validation[0]) - 1, TRIED).astype(int))
    images, masks = (part[rows] for part in validation)
    own = list(range(len(names)))
    # Cropping would leave pixels that the network says nothing of.
    fit = "pad" if record.get("fit") == "crop" else record.get("fit", "stretch")

    open_with = opener(path, (images.shape[1], images.shape[2]), len(names))

    def opened(kind: str) -> ForeignModel:
        network, model = open_with(kind)
        single = None
        if network.number == 1:
            tried = np.stack([network.predict(resized(image, network)) for image in images[:8]])
            is_probability = tried.min() >= 0 and tried.max() <= 1
            single = SCORE_OF_A_COIN if is_probability else 0.0
        return ForeignModel(path, network, model, fit, order or own, single)

    kinds = [input_range] if input_range else list(RANGES)
    found: dict[str, tuple[ForeignModel, Match]] = {}
    for kind in kinds:
        try:
            model = opened(kind)
        except UserError:
            if kind == kinds[-1] and not found:
                raise
            continue  # its quantised input cannot hold these values
        found[kind] = model, match(masks, model.class_maps(images), len(names))
        if model.network.told:
            break
    best = max(found, key=lambda kind: max(found[kind][1].mean_iou, found[kind][1].reordered))
    model, agreement = found[best]
    if model.network.told:
        about = "the file tells its input values"
    elif input_range:
        about = f"input {input_range} as typed"
    else:
        listed = ", ".join(f"{kind} {of.mean_iou:.3f}" for kind, (_, of) in found.items())
        about = f"input {best}, by mean IoU on {len(images)} validation pictures: {listed}"
    if model.network.output:
        about += f"; of its outputs, {model.network.output} is read"
    about = "; ".join([about, *([] if order else proposed_order(agreement, names))])
    return replace(model, about=about)


def resized(image: np.ndarray, network: PhotoModel) -> np.ndarray:
    """An image stretched to the size of a network."""
    height, width = network.size
    return np.asarray(Image.fromarray(image).resize((width, height)))


def opener(
    path: Path, size: tuple[int, int], classes: int
) -> Callable[[str], tuple[PhotoModel, keras.Model | None]]:
    """A function that opens a file for one of RANGES; a Keras file is read once.

    Args:
        path: of the file.
        size: height and width of a network that takes any size.
        classes: of the data set.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing" if not path.exists() else f"{path} is no file")
    with path.open("rb") as file:
        is_tflite = file.read(8)[4:] == IDENTIFIER or path.suffix.lower() == ".tflite"
    if is_tflite:

        def as_tflite(kind: str) -> tuple[PhotoModel, None]:
            scale, offset = (np.array(values, np.float32) for values in RANGES[kind])
            network = open_tflite(path, DIVIDED * scale + offset, single_score=classes == 2)
            if network.number not in (classes, 1) and not network.is_map:
                raise UserError(
                    f"{path} tells {network.number} classes apart, and the data set has {classes}"
                )
            return with_checks(path, network), None

        return as_tflite
    model, _ = read_whole_model(path)
    sides = tuple(side or own for side, own in zip(model.input_shape[1:3], size))
    network, _ = fitting(path, model, (sides[0], sides[1]), classes)

    def as_keras(kind: str) -> tuple[PhotoModel, keras.Model]:
        whole = with_range(network, kind)
        scores: Any = KerasModel(whole).scores
        return PhotoModel((sides[0], sides[1]), classes, None, False, False, scores), whole

    return as_keras
