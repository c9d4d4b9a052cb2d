"""Test photos for the report: the worst and a sample of the others, with all predictions."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from pipeline.base.artifacts import MODELS, artifact_path, command
from pipeline.base.console import UserError
from pipeline.data.classes import IGNORED, Colour
from pipeline.data.dataset import load_classes, load_split, names_of
from pipeline.data.npz import read_npz
from pipeline.evaluation.finished import COUNTS_FILE
from pipeline.inference.iou import iou_per_class, mean_iou
from pipeline.inference.models import open_model
from pipeline.report.overlays import overlay

WRONG: Colour = (230, 0, 126)  # colour of the pixels of a wrong class
SHOWN_PHOTOS = 6  # number of the worst photos, and of those spread over the ranking
THUMBNAIL = 160  # longer side of a picture in pixels


def data_uri(content: bytes, kind: str) -> str:
    """A picture file as a data URI: an address that contains the file."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def chosen_photos(counts: np.ndarray, number: int) -> dict[int, str]:
    """The worst test photos and as many spread evenly over the ranking of the others.

    Args:
        counts: pixel counts of each image (n, 3, classes); its mean IoU ranks the image.
        number: how many of each.

    Returns:
        By row of `counts`, the rank: "worst 1", "better than 40%", "best".
    """
    ranking = np.argsort(mean_iou(iou_per_class(counts)), kind="stable")
    worst = {int(row): f"worst {k + 1}" for k, row in enumerate(ranking[:number])}
    if len(ranking) <= number:
        return worst
    ranks = np.unique(np.linspace(number, len(ranking) - 1, number).astype(int))
    others = {int(ranking[k]): f"better than {k / len(ranking):.0%}" for k in ranks}
    return worst | others | {int(ranking[-1]): "best"}


def stacked(pictures: list[np.ndarray], text: str, score: str = "") -> dict[str, Any]:
    """A cell of the photo table: pictures one below the other, in one WebP file.

    Args:
        pictures: uint8 (height, width, 3), all of the same size.
        text: description for screen readers.
        score: what is written below the pictures.

    Returns:
        `picture` (a data URI), its `width` and `height` in pixels, `text`, `score`.
    """
    box = (THUMBNAIL, THUMBNAIL)
    small = [np.asarray(ImageOps.contain(Image.fromarray(pixels), box)) for pixels in pictures]
    stack, content = np.concatenate(small), io.BytesIO()
    Image.fromarray(stack).save(content, "webp", quality=75)
    height, width = stack.shape[:2]
    picture = data_uri(content.getvalue(), "webp")
    return {"picture": picture, "width": width, "height": height, "text": text, "score": score}


def photo_grid(models_dir: Path, evaluation: dict[str, Any]) -> dict[str, Any]:
    """The photo table: test photos, ground truth, each model's prediction and its wrong pixels.

    Returns:
        `what` (what a photo is called), `number` (photos of each kind), `colours` (name and RGB of
        each entry of the key), `head` (column names), `rows` (`rank`, `number`, `called`, `cells`).

    Raises:
        UserError: the pixel counts or the data set are missing or damaged.
    """
    path = models_dir / COUNTS_FILE
    counts = read_npz(path) or {}
    if not all(name in counts and counts[name].ndim == 3 for name in MODELS):
        remedy = command("evaluation", models_dir)
        raise UserError(f"{path} is missing or damaged; make it anew with: {remedy}")
    scores = {name: mean_iou(iou_per_class(counts[name])) for name in MODELS}
    chosen = chosen_photos(counts["int8"], SHOWN_PHOTOS)
    texts = {
        name: {row: f"{of_model[row]:.3f}" for row in chosen} for name, of_model in scores.items()
    }
    return {"number": SHOWN_PHOTOS, **grid(models_dir, evaluation, chosen, texts)}


def changed_photos(
    models_dir: Path, evaluation: dict[str, Any], changes: dict[str, Any] | None
) -> dict[str, Any] | None:
    """The test photos that a model's change changed most, as the present model sees them.

    Args:
        changes: as from `comparison.compare`.

    Returns:
        As `photo_grid`, with the model alone; None if no photo changed, or there are no changes.
    """
    photos = (changes or {}).get("photos")
    if not photos:
        return None
    chosen = {row: f"{now - then:+.3f}" for row, then, now in photos["rows"]}
    texts = {row: f"{now:.3f}, was {then:.3f}" for row, then, now in photos["rows"]}
    return grid(models_dir, evaluation, chosen, {photos["model"]: texts})


def grid(
    models_dir: Path,
    evaluation: dict[str, Any],
    chosen: dict[int, str],
    texts: dict[str, dict[int, str]],
) -> dict[str, Any]:
    """Some test photos with the predictions of some models, see `photo_grid`.

    Args:
        chosen: by row of the test split, what stands before the photo.
        texts: by model and row, what stands below the prediction.
    """
    classes = load_classes(models_dir)
    images, masks = (array[list(chosen)] for array in load_split(models_dir, "test"))
    paths = {name: artifact_path(models_dir, name) for name in texts}
    predictions = {name: open_model(file).class_maps(images) for name, file in paths.items()}
    names = names_of(models_dir, "test", chosen.keys())
    what = "synthetic test picture" if evaluation["dataset"]["synthetic"] else "test photo"
    rows = []
    for k, (row, rank) in enumerate(chosen.items()):
        image, mask, name = images[k], masks[k], names.get(row, f"number {row}")
        photo = f"{what} {name}"
        grey = (0.45 * image.mean(axis=-1, keepdims=True)).astype(np.uint8)
        faint = np.repeat(grey, 3, axis=-1)
        cells = [stacked([image, overlay(image, mask, classes)], f"{photo}, ground truth below")]
        for model, prediction in predictions.items():
            wrong = (prediction[k] != mask) & (mask != IGNORED)
            pictures = [
                overlay(image, prediction[k], classes),
                np.where(wrong[..., None], np.array(WRONG, np.uint8), faint),
            ]
            text = f"{model} on {photo}: its prediction, below it the wrong pixels"
            cells.append(stacked(pictures, text, texts[model][row]))
        rows.append({"rank": rank, "number": row, "called": name, "cells": cells})
    colours = zip((*classes.names, "wrong pixel"), (*classes.colours, WRONG))
    return {
        "what": what,
        "colours": list(colours),
        "head": [what, "photo, ground truth", *predictions],
        "rows": rows,
    }
