"""Test photos for the report: the worst and others, with what every model makes of them."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from pipeline.base.artifacts import MODELS, command
from pipeline.base.console import UserError
from pipeline.data.classes import IGNORED
from pipeline.data.dataset import load_classes, load_split, names_of
from pipeline.data.npz import read_npz
from pipeline.evaluation.accuracy import class_maps
from pipeline.inference.iou import iou_per_class, mean_iou
from pipeline.report.overlays import overlay

COUNTS_FILE = "counts_per_image.npz"  # pixels of each class and image, by model: see metrics.py
WRONG = np.array((230, 0, 126), np.uint8)  # pixels of the wrong class
SHOWN_PHOTOS = 6  # so many worst ones and so many spread over the ranking
THUMBNAIL = 160  # pixels, the largest side of a picture


def data_uri(content: bytes, kind: str) -> str:
    """A file as an address that holds the file itself."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def chosen_photos(counts: np.ndarray, number: int) -> dict[int, str]:
    """Rows of the worst test photos and of as many spread evenly over the others.

    Args:
        counts: of each image (n, 3, classes); its mean IoU ranks it.

    Returns:
        By row, what it is: "worst 1", "better than 40%", "best".
    """
    ranking = np.argsort(mean_iou(iou_per_class(counts)), kind="stable")
    worst = {int(row): f"worst {k + 1}" for k, row in enumerate(ranking[:number])}
    if len(ranking) <= number:
        return worst
    places = np.unique(np.linspace(number, len(ranking) - 1, number).astype(int))
    others = {int(ranking[k]): f"better than {k / len(ranking):.0%}" for k in places}
    return worst | others | {int(ranking[-1]): "best"}


def stacked(pictures: list[np.ndarray], text: str, score: str = "") -> dict[str, Any]:
    """Pictures of one size (height, width, 3), uint8, one below the other, for one cell."""
    largest = (THUMBNAIL, THUMBNAIL)
    stack = [np.asarray(ImageOps.contain(Image.fromarray(each), largest)) for each in pictures]
    whole, buffer = np.concatenate(stack), io.BytesIO()
    Image.fromarray(whole).save(buffer, "webp", quality=75)
    height, width = whole.shape[:2]
    picture = data_uri(buffer.getvalue(), "webp")
    return {"picture": picture, "width": width, "height": height, "text": text, "score": score}


def photo_grid(models_dir: Path, evaluation: dict[str, Any]) -> dict[str, Any]:
    """A grid of test photos: truth, the prediction of each model, and where it is wrong."""
    path = models_dir / COUNTS_FILE
    counts = read_npz(path) or {}
    if not all(name in counts and counts[name].ndim == 3 for name in MODELS):
        remedy = command("evaluation", models_dir)
        raise UserError(f"{path} is missing or damaged; make it anew with: {remedy}")
    scores = {name: mean_iou(iou_per_class(counts[name])) for name in MODELS}
    chosen = chosen_photos(counts["int8"], SHOWN_PHOTOS)
    classes = load_classes(models_dir)
    images, masks = (array[list(chosen)] for array in load_split(models_dir, "test"))
    predictions = {name: class_maps(models_dir, name, images) for name in MODELS}
    names = names_of(models_dir, "test", chosen.keys())
    what = "synthetic test picture" if evaluation["dataset"]["synthetic"] else "test photo"
    rows = []
    for k, (row, rank) in enumerate(chosen.items()):
        image, mask, called = images[k], masks[k], names.get(row, f"number {row}")
        shown = f"{what} {called}"
        grey = (0.45 * image.mean(axis=-1, keepdims=True)).astype(np.uint8)
        faint = np.repeat(grey, 3, axis=-1)
        cells = [stacked([image, overlay(image, mask, classes)], f"{shown}, truth below")]
        for name, prediction in predictions.items():
            wrong = (prediction[k] != mask) & (mask != IGNORED)
            wrong = np.where(wrong[..., None], WRONG, faint)
            text = f"{name} on {shown}: its prediction, below it the wrong pixels"
            pictures = [overlay(image, prediction[k], classes), wrong]
            cells.append(stacked(pictures, text, f"{scores[name][row]:.3f}"))
        rows.append({"rank": rank, "number": row, "called": called, "cells": cells})
    colours = zip((*classes.names, "wrong pixel"), (*classes.colours, WRONG))
    return {
        "what": what,
        "number": SHOWN_PHOTOS,
        "colours": [(name, tuple(map(int, colour))) for name, colour in colours],
        "head": [what, "as it is, truth", *predictions],
        "rows": rows,
    }
