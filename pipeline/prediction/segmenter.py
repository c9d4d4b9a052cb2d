"""A finished model for one's own program: photos in, class maps and probabilities out.

from pipeline.prediction.segmenter import Segmenter

segmenter = Segmenter("models/int8_quantized_model.tflite")
classes = segmenter.classes("cat.jpg")               # uint8 (height, width)
probabilities = segmenter.probabilities("cat.jpg")   # float32 (height, width, classes)
print(segmenter.names, (classes == 0).mean())
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pipeline.base.artifacts import MODELS_DIR, artifact_path
from pipeline.data.class_maps import class_map
from pipeline.data.fitting import Fitted, fitted
from pipeline.data.image_reader import as_png, open_photograph
from pipeline.data.photographs import rules_from
from pipeline.inference.models import open_model
from pipeline.prediction.photo_models import open_photo_model
from pipeline.prediction.photo_rules import use_of
from pipeline.prediction.pretrained import folder_of_models

IN_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # modes that a PNG holds as they are

Photo = str | Path | Image.Image | np.ndarray  # an array: uint8 (height, width, 3), RGB


class Segmenter:
    """A model file and the rule by which photos become its input, as `evaluation.py --image` has.

    Args:
        model: an .h5 or .tflite file of this pipeline. None: the int8 file in models/, or while
            there is none the one that comes with the project.

    Attributes:
        names: of the classes, in the order of their indices.
        colours: red, green, blue of each, 0..255.

    Raises:
        UserError: the file is missing, damaged or of another kind.
    """

    def __init__(self, model: str | Path | None = None) -> None:
        if model is None:
            model = artifact_path(folder_of_models(MODELS_DIR, ["int8"]), "int8")
        path = Path(model)
        self._network, self._model = open_photo_model(path), open_model(path)
        use = use_of(path, self._network)
        self._photos, self._rule = rules_from(use.photos), use.picture
        self.names, self.colours = use.classes.names, use.classes.colours

    def classes(self, photo: Photo) -> np.ndarray:
        """The class of each pixel, as `evaluation.py --image` finds it.

        Returns:
            uint8 (height, width) of the photo; of its middle alone if the model was trained with
            --fit crop, as it sees no more.

        Raises:
            UserError: the photo cannot be read.
            ValueError: the array is no photo.
        """
        seen = self._seen(photo)
        left, top, right, bottom = seen.part
        scores = self._network.predict(np.asarray(seen.image))
        return class_map(scores, (right - left, bottom - top), seen.box)

    def probabilities(self, photo: Photo) -> np.ndarray:
        """The probability of each class in each pixel: softmax of the enlarged logits.

        Returns:
            float32 (height, width, classes) of what `classes` covers; 4 bytes for each class and
            pixel are in memory.

        Raises:
            UserError, ValueError: as `classes`.
        """
        seen = self._seen(photo)
        left, top, right, bottom = seen.part
        logits = self._model.logits(np.asarray(seen.image)[None])[0]
        size, smooth = (right - left, bottom - top), Image.Resampling.BILINEAR
        layers = np.moveaxis(logits.astype(np.float32), -1, 0)
        planes = [Image.fromarray(layer).resize(size, smooth, seen.box) for layer in layers]
        enlarged: np.ndarray = np.stack([np.asarray(plane) for plane in planes], axis=-1)
        enlarged = np.exp(enlarged - enlarged.max(axis=-1, keepdims=True))
        return enlarged / enlarged.sum(axis=-1, keepdims=True)

    def _seen(self, photo: Photo) -> Fitted:
        """A photo at the network's size, and which part of it that shows."""
        if isinstance(photo, np.ndarray):
            if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
                raise ValueError(
                    f"an array {photo.dtype} {photo.shape} is no photo: uint8 (height, width, 3)"
                )
            image = Image.fromarray(photo)
        elif isinstance(photo, Image.Image):
            turned = ImageOps.exif_transpose(photo)
            stored = as_png(turned if turned.mode in IN_PNG else turned.convert("RGB"))
            image = open_photograph(stored, "the photo", self._photos)
        else:
            image = open_photograph(Path(photo), f"the photo {photo}", self._photos)
        return fitted(image, self._network.size, self._rule)
