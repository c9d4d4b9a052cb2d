"""COCO JSON: objects as polygons or run lengths, drawn as masks when they are asked for."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.base.console import UserError
from pipeline.base.lazy import coco_masks
from pipeline.data.image_reader import Unreadable, as_png
from pipeline.data.label_mapping import Labels, fault_of_names
from pipeline.data.sample_source import SPLIT_NAMES, Collection, Example, Split

BACKGROUND = "background"  # what no object covers


def jsons_in(folder: Path) -> Path | None:
    """The COCO JSON of a folder of a usual export: its own, that of train/, or annotations/."""
    for place in (
        folder,
        *(folder / name for name in SPLIT_NAMES["train"]),
        folder / "annotations",
    ):
        found = sorted(place.glob("*.json"))
        train = [path for path in found if "train" in path.stem.lower()]
        coco = [path for path in found if "coco" in path.stem.lower() or "instances" in path.stem]
        if len(train) == 1 or len(coco) == 1 or len(found) == 1:
            return next(each[0] for each in (train, coco, found) if len(each) == 1)
    return None


def read_coco(path: Path) -> Collection:
    """The pictures of a COCO JSON, and of those of the other splits that lie beside it.

    "instances_train2017.json" has its validation split in "instances_val2017.json", and
    "train/_annotations.coco.json" in "valid/_annotations.coco.json". Classes are the categories
    that have objects, in the order of their numbers, after one for what no object covers.
    Where objects overlap, the smaller one is seen.

    Raises:
        UserError: no COCO JSON, or one that names no pictures or no objects.
    """
    others = {split: counterpart(path, split) for split in ("validation", "test")}
    files = {"train": path} | {split: other for split, other in others.items() if other}
    contents = {split: load(file) for split, file in files.items()}
    used, names = {}, {}
    for split, content in contents.items():
        for category in content["categories"]:
            if names.setdefault(category["id"], str(category["name"])) != str(category["name"]):
                both = f"{names[category['id']]!r} and {category['name']!r}"
                raise UserError(f"{files[split]}: category {category['id']} is called {both}")
        used |= dict.fromkeys(each["category_id"] for each in content["annotations"])
    if missing := used.keys() - names.keys():
        raise UserError(f"{path}: objects have the category {min(missing)}, which has no name")
    classes = [BACKGROUND] + [names[k] for k in sorted(used) if names[k] != BACKGROUND]
    if fault := fault_of_names(classes):
        raise UserError(f"{path}: {fault} (with {BACKGROUND!r}, what no object covers)")
    index = {k: classes.index(names[k]) for k in used}
    folders = {split: folder_of(files[split], content) for split, content in contents.items()}
    splits = {}
    for split, content in contents.items():
        reading = functools.partial(read, content, folders[split], index, path.parent)
        splits[split] = Split(len(content["images"]), reading)

    def listed() -> list[str]:
        pictures = [
            folders[split] / image["file_name"]
            for split, content in contents.items()
            for image in content["images"]
        ]
        return [os.path.relpath(each, path.parent) for each in (*files.values(), *pictures)]

    unused = [(f"category {names[k]}", "has no object") for k in names if k not in used]
    return Collection(str(path), splits, Labels(tuple(classes)), [], unused, listed, path.parent)


def counterpart(path: Path, split: str) -> Path | None:
    """The file of a split beside that of the training split, by its name or its folder's."""
    for train in SPLIT_NAMES["train"]:
        for name in SPLIT_NAMES[split]:
            for other in (
                path.with_name(path.name.replace(train, name)),
                path.parent.parent / path.parent.name.replace(train, name) / path.name,
            ):
                if other != path and other.is_file():
                    return other
    return None


def load(path: Path) -> dict[str, Any]:
    """The content of a COCO JSON, with the objects of each image under its "objects"."""
    try:
        content = json.loads(path.read_bytes())
        images, objects = content["images"], content["annotations"]
        by_id = {image["id"]: image for image in images}
        for image in images:
            image |= {"objects": [], "size": (int(image["height"]), int(image["width"]))}
        for each in objects:
            by_id[each["image_id"]]["objects"].append(each)
        images.sort(key=lambda image: image["file_name"])
        if not images or not all({"id", "name"} <= each.keys() for each in content["categories"]):
            raise ValueError("it names no images, or a category has no name")
        return content
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{type(error).__name__} {error}".partition("\n")[0]
        raise UserError(
            f"{path} is no COCO JSON with images, annotations and categories ({what})"
        ) from None


def folder_of(path: Path, content: dict[str, Any]) -> Path:
    """The folder of a file's pictures: its own, images/, or one that is called like its split."""
    name = path.stem.removeprefix("instances_").removeprefix("stuff_")
    places = [path.parent, path.parent / "images", path.parent / name]
    places += [path.parent.parent / sub for sub in ("", "images", name, f"images/{name}")]
    for place in places:
        if any((place / image["file_name"]).exists() for image in content["images"]):
            return place
    first = content["images"][0]["file_name"]
    raise UserError(f"{path} names {first}, which is neither beside it nor in images/")


def read(
    content: dict[str, Any], folder: Path, index: dict[int, int], base: Path
) -> Iterator[Example]:
    """The examples of one file; each mask is drawn when it is asked for.

    Args:
        folder: of the pictures. base: that their names count from.
    """
    for image in content["images"]:
        file, name = folder / image["file_name"], f"the objects of {image['file_name']}"
        mask = functools.partial(draw, image, index, name)
        yield Example(file, mask, str(file), name, os.path.relpath(file, base))


def draw(image: dict[str, Any], index: dict[int, int], name: str) -> bytes:
    """The mask of one picture as a PNG: indices of classes, 0 where no object is.

    Raises:
        Unreadable: an object has no outline that can be drawn.
    """
    height, width = image["size"]
    mask, shapes = np.zeros((height, width), np.uint8), []
    for each in image["objects"]:
        try:
            shape = outline(each.get("segmentation"), height, width)
            covered = coco_masks.decode(shape) > 0
        except (ValueError, TypeError, KeyError, IndexError) as error:
            what = f"object {each.get('id')}: {error}".partition("\n")[0]
            raise Unreadable(f"{name} cannot be drawn ({what})") from None
        shapes.append((int(covered.sum()), index[each["category_id"]], shape))
    for _, value, shape in sorted(shapes, key=lambda entry: -entry[0]):
        mask[coco_masks.decode(shape) > 0] = value
    return as_png(Image.fromarray(mask))


def outline(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """An object as run lengths, which it is or which its polygons make.

    What pycocotools would read beyond its memory, or as something else, is refused before.
    """
    if isinstance(segmentation, dict):
        if [int(side) for side in segmentation["size"]] != [height, width]:
            raise ValueError(f"its mask has the size {segmentation['size']}")
        counts = segmentation["counts"]
        if isinstance(counts, (str, bytes)):
            return segmentation
        if min(counts, default=0) < 0 or sum(counts) != height * width:
            raise ValueError("its run lengths do not fill the picture")
        return coco_masks.frPyObjects(segmentation, height, width)
    polygons = [[float(value) for value in polygon] for polygon in segmentation or ()]
    if not polygons or any(len(polygon) < 6 or len(polygon) % 2 for polygon in polygons):
        raise ValueError("it has no polygon of three points")
    if not np.isfinite(np.concatenate(polygons)).all():
        raise ValueError("a point is no number")
    return coco_masks.merge(coco_masks.frPyObjects(polygons, height, width))
