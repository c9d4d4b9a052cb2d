"""labelme: one JSON file for each picture, with the outlines of its objects.

The format: https://github.com/wkentaro/labelme. Later shapes cover earlier ones, as its own
converter draws them.
"""

from __future__ import annotations

import base64
import functools
import io
import itertools
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.base.console import UserError
from pipeline.base.lazy import coco_masks
from pipeline.data.classes import IGNORED
from pipeline.data.formats.drawn_masks import BACKGROUND, as_mask, shown_size
from pipeline.data.formats.endings import NONE
from pipeline.data.formats.folder_layout import pair_up
from pipeline.data.formats.folder_roles import keyed
from pipeline.data.formats.folder_search import Found, Layout
from pipeline.data.formats.pairing import Pairs
from pipeline.data.formats.picture_files import PathsByStem, pictures_below
from pipeline.data.formats.polygons import INVALID, Shape, classes_with, outline, paint
from pipeline.data.image_reader import MOST_PIXELS, Unreadable
from pipeline.data.label_mapping import Labels
from pipeline.data.sample_source import Collection
from pipeline.data.text_files import lines_of, with_slashes

HEAD = 1 << 16  # bytes of a file that tell whether labelme wrote it
LOOKED_AT = 20  # JSON files of a folder that tell what it is
SUFFIX = (".json",)
LABELS = "labels.txt"  # labelme's list of names, if there is one
AS_BACKGROUND, AS_IGNORED = ("_background_", BACKGROUND), "__ignore__"  # names with a meaning
WITHOUT_AREA = ("line", "linestrip", "point", "points")
FEWEST_SIDES = 16  # of a polygon in place of a circle


# --- which folders are of this kind ---------------------------------------------------------


def has_labelme(folder: Path) -> bool:
    """Whether one of the first JSON files in a folder and its subfolders is labelme's."""
    return any(map(is_labelme, itertools.islice(jsons_below(folder), LOOKED_AT)))


def jsons_below(folder: Path) -> Iterator[Path]:
    """The JSON files in a folder and its subfolders."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(".json") and not name.startswith("."):
                yield Path(parent, name)


def is_labelme(path: Path) -> bool:
    """Whether a JSON file has shapes, by its beginning."""
    try:
        with path.open("rb") as file:
            return b'"shapes"' in file.read(HEAD).replace(b"\0", b"")
    except OSError:
        return False


# --- reading --------------------------------------------------------------------------------


def read_labelme(folder: Path, background: bool = False) -> Collection:
    """Reads a folder of labelme's files and their pictures, beside each other or in folders.

    A file belongs to the picture of the same name, else to the one that it names. Class 0 is the
    background; then come the labels that are drawn, in the order of labels.txt if there is one,
    else by name. What is drawn as __ignore__ is ignored.

    Args:
        background: whether a picture without a file is background; else that is a fault.

    Raises:
        UserError: there is no training split, or the classes are too few or too many.
    """
    pairs = Pairs(folder, noun="file of labelme", background=background)
    pictures = pictures_below(folder, folder, pairs.skipped)
    images = keyed(name for names in pictures.values() for name in names)
    every = keyed((os.path.relpath(path, folder) for path in jsons_below(folder)), SUFFIX)
    jsons: dict[str, PathsByStem] = {}  # those of labelme, and damaged ones of a picture
    for split, by_key in every.items():
        for key, names in by_key.items():
            if key in images.get(split, {}) or is_labelme(folder / names[0]):
                jsons.setdefault(split, {})[key] = names
    known = {name for by_key in jsons.values() for names in by_key.values() for name in names}
    pairs.skipped = [(name, why) for name, why in pairs.skipped if name not in known]
    used: set[str] = set()
    for split, by_key in jsons.items():
        for key, names in by_key.items():
            content = load(folder / names[0])
            used |= {str(shape.get("label")) for shape in content["shapes"]}
            if key not in images.get(split, {}):
                image = named_image(folder, names[0], content)
                if image:
                    images.setdefault(split, {})[key] = [image]
    pair_up(pairs, Layout((".",), (".",), by_name=False), Found(images, jsons, (NONE, NONE), ""))
    used -= {*AS_BACKGROUND, AS_IGNORED}
    order = sorted(used)
    if (path := folder / LABELS).is_file():
        pairs.extra.append(path)
        listed = list(dict.fromkeys(line.strip() for line in lines_of(path)))
        order = [name for name in listed if name in used] + sorted(used.difference(listed))
    try:
        classes = classes_with(order, folder)
    except ValueError as error:
        raise UserError(str(error)) from None
    index = {name: number for number, name in enumerate(classes)}
    index |= {AS_BACKGROUND[0]: 0, AS_IGNORED: IGNORED}
    pairs.draw = functools.partial(draw, index)
    return pairs.collection(Labels(classes, ignored_if_present=frozenset({IGNORED})))


def load(path: Path) -> dict[str, Any]:
    """Reads a file; one that is not valid has no shapes here, and is refused when it is drawn."""
    try:
        content = json.loads(path.read_bytes())
        if all(isinstance(shape, dict) for shape in content["shapes"]):
            return content
    except (OSError, RecursionError, *INVALID):
        pass
    return {"shapes": []}


def named_image(folder: Path, name: str, content: dict[str, Any]) -> str:
    """The image that a file names, relative to the data set's folder; "" if it is not there."""
    given = content.get("imagePath")
    if not isinstance(given, str) or "\0" in given:
        return ""
    parent, given = (folder / name).parent, with_slashes(given)
    for path in (parent / given, parent / Path(given).name):
        if path.is_file():
            return os.path.relpath(path, folder)
    return ""


def draw(index: dict[str, int], image: Path, file: Path | None) -> bytes:
    """Draws the mask of one picture as PNG: class indices, 0 where there is no object.

    Args:
        index: class index, or IGNORED, by label.
        image: whose size counts if the file states none.
        file: of its shapes.

    Raises:
        Unreadable: the image cannot be read, or a shape is not valid.
    """
    height, width, turn = shown_size(image)
    shapes: list[tuple[int, Shape]] = []
    try:
        content = json.loads(file.read_bytes()) if file else {"shapes": []}
        stated = (content.get(key) for key in ("imageHeight", "imageWidth"))
        sides = [side for side in stated if isinstance(side, int) and side > 0]
        if len(sides) == 2:
            height, width = sides
        if height * width > MOST_PIXELS:
            raise ValueError(f"{width} x {height} pixels")
        for shape in content["shapes"]:
            shapes.append((index[str(shape["label"])], covered(shape, height, width)))
    except (OSError, RecursionError, *INVALID) as error:
        reason = f"shape {len(shapes) + 1}: {error}".partition("\n")[0]
        raise Unreadable(f"{file} cannot be drawn ({reason})") from None
    return as_mask(paint(shapes, height, width, in_order=True), turn)


def covered(shape: dict[str, Any], height: int, width: int) -> Shape:
    """The pixels that one shape covers.

    Raises:
        one of INVALID: it is not valid, or has no area.
    """
    kind = shape.get("shape_type") or "polygon"
    points: np.ndarray = np.array(shape["points"], float).reshape(-1, 2)
    if kind in WITHOUT_AREA:
        raise ValueError(f"a {kind} covers no pixels; draw a polygon")
    if kind == "mask":
        return pasted(shape["mask"], points, height, width)
    if kind == "rectangle" and len(points) == 2:
        (left, top), (right, bottom) = points
        points = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    if kind == "circle":
        (x, y), radius = points[0], math.dist(*points)
        sides = min(max(FEWEST_SIDES, math.ceil(math.tau * radius)), 4 * (height + width))
        angles = np.arange(sides) * math.tau / sides
        points = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], -1)
    return outline([points.ravel().tolist()], height, width)


def pasted(encoded: str, points: np.ndarray, height: int, width: int) -> Shape:
    """The pixels of a shape that is a picture of its own, in the box between two points."""
    with Image.open(io.BytesIO(base64.b64decode(encoded)), formats=("PNG",)) as picture:
        if picture.width * picture.height > MOST_PIXELS:
            raise ValueError("its mask is too large")
        inside = np.asarray(picture.convert("L")) > 0
    left, top = (int(value) for value in points.min(axis=0))
    mask = np.zeros((height, width), np.uint8, order="F")
    if not (0 <= left < width and 0 <= top < height):
        raise ValueError("its mask lies outside of the picture")
    inside = inside[: height - top, : width - left]
    mask[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return coco_masks.encode(mask)
