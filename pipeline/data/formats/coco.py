"""COCO JSON: objects as polygons or run lengths, drawn as masks when an example is read.

The format: https://cocodataset.org/#format-data
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.base.console import UserError
from pipeline.base.lazy import coco_masks
from pipeline.data.formats.json_kinds import not_coco, refuse_others
from pipeline.data.formats.polygons import INVALID, Shape, classes_with, outline, paint
from pipeline.data.image_reader import Unreadable, as_png, suffixes
from pipeline.data.label_mapping import Labels
from pipeline.data.sample_source import SPLIT_NAMES, Collection, Picture, Sample, Split
from pipeline.data.text_files import with_slashes


def json_in(folder: Path) -> Path | None:
    """Finds the COCO JSON of the training split in a folder, its train/ or its annotations/.

    Goes by names only: the one JSON file with "train" in its name, or with "coco" or "instances",
    or with both ("instances_train2017.json" beside "captions_train2017.json"), or the only JSON
    file there. None if there is no such file.
    """
    subfolders = (*(folder / name for name in SPLIT_NAMES["train"]), folder / "annotations")
    for candidate in (folder, *subfolders):
        files = sorted(candidate.glob("*.json"))
        train = [path for path in files if "train" in path.stem.lower()]
        coco = [path for path in files if "coco" in path.stem.lower() or "instances" in path.stem]
        for paths in (train, coco, [path for path in train if path in coco], files):
            if len(paths) == 1:
                return paths[0]
    return None


def read_coco(path: Path) -> Collection:
    """Reads a COCO JSON of the training split, and those of the other splits beside it.

    The validation split of "instances_train2017.json" is "instances_val2017.json", that of
    "train/_annotations.coco.json" is "valid/_annotations.coco.json". Class 0 is the background;
    then come the categories that have objects, by category id. Where objects overlap, the mask
    shows the smaller one.

    Raises:
        UserError: a file is not a COCO JSON or lists no pictures; an object's category has no
            name; the classes are too few or too many; the pictures are not found.
    """
    others = {split: counterpart(path, split) for split in ("validation", "test")}
    files = {"train": path} | {split: other for split, other in others.items() if other}
    contents = {split: load(file) for split, file in files.items()}

    # Classes are those of the categories that have objects, in any split.
    names = category_names(files, contents)
    used = {item["category_id"] for content in contents.values() for item in content["annotations"]}
    classes = classes_of(path, names, used)
    index = {category: classes.index(names[category]) for category in used}
    folders = {split: folder_of(files[split], content) for split, content in contents.items()}

    def reading(split: str) -> Callable[[], Iterator[Sample]]:
        return functools.partial(read, contents[split], folders[split], index, path.parent)

    pictures = [
        os.path.relpath(folders[split] / image["file_name"], path.parent)
        for split, content in contents.items()
        for image in content["images"]
    ]

    def listed() -> list[str]:
        return [os.path.relpath(file, path.parent) for file in files.values()] + pictures

    return Collection(
        title=str(path),
        splits={
            split: Split(len(content["images"]), reading(split))
            for split, content in contents.items()
        },
        labels=Labels(classes),
        skipped=[
            *((f"category {names[k]}", "has no object") for k in names if k not in used),
            *((name, "in no COCO JSON") for name in not_listed(folders, pictures, path.parent)),
        ],
        files=listed,
        folder=path.parent,
    )


def category_names(files: dict[str, Path], contents: dict[str, Any]) -> dict[int, str]:
    """The names of all categories by id, in the order of the files.

    Args:
        files: the COCO JSON of each split.
        contents: result of `load` for each.

    Raises:
        UserError: a category has two names.
    """
    names: dict[int, str] = {}
    for split, content in contents.items():
        for category in content["categories"]:
            number, name = category["id"], str(category["name"])
            if names.setdefault(number, name) != name:
                raise UserError(
                    f"{files[split]}: category {number} has two names, {names[number]!r} and "
                    f"{name!r}; use the same name in all files"
                )
    return names


def classes_of(path: Path, names: dict[int, str], used: set[int]) -> tuple[str, ...]:
    """The background and the names of the used categories, by category id.

    Raises:
        UserError: a used category has no name, or the classes are too few, too many or not unique.
    """
    if missing := used - names.keys():
        raise UserError(
            f"{path}: objects have the category {min(missing)}, which has no name; "
            "add it to categories"
        )
    try:
        return classes_with((names[k] for k in sorted(used)), path)
    except ValueError as error:
        raise UserError(str(error)) from None


def not_listed(folders: dict[str, Path], pictures: list[str], base: Path) -> list[str]:
    """Pictures that lie in the folders of a COCO JSON's pictures, and that no file lists.

    Args:
        folders: of each split.
        pictures: that are listed, relative to `base`.
        base: that the result is relative to.
    """
    listed = {os.path.normpath(name) for name in pictures}
    names = {
        os.path.relpath(entry.path, base)
        for folder in set(folders.values())
        for entry in os.scandir(folder)
        if os.path.splitext(entry.name)[1].lower() in suffixes() and entry.name[0] != "."
    }
    return sorted(names - listed)


def counterpart(path: Path, split: str) -> Path | None:
    """The COCO JSON of another split, named like the training split's file or its folder."""
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
    """Reads a COCO JSON; adds "objects" (its annotations) and "size" to each image.

    Raises:
        UserError: the file is not a COCO JSON with images, annotations and categories; the message
            names what it is, or what is missing.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        reason = f"{type(error).__name__} {error}".partition("\n")[0]
        raise UserError(not_coco(path, reason)) from None
    refuse_others(path, content)
    images = content["images"]
    by_id = {image["id"]: image for image in images}
    for image in images:
        image |= {"objects": [], "size": (int(image["height"]), int(image["width"]))}
    for item in content["annotations"]:
        by_id[item["image_id"]]["objects"].append(item)
    images.sort(key=lambda image: image["file_name"])
    return content


def folder_of(path: Path, content: dict[str, Any]) -> Path:
    """The folder of the pictures of a COCO JSON, the first candidate that has any of them.

    Candidates are the file's own folder, images/ and a folder called like the split, in the file's
    folder or the one above. If none has any, backslashes in the file names become slashes.

    Raises:
        UserError: none of them has a picture.
    """
    name = path.stem.removeprefix("instances_").removeprefix("stuff_")
    candidates = [path.parent, path.parent / "images", path.parent / name]
    candidates += [path.parent.parent / sub for sub in ("", "images", name, f"images/{name}")]
    first = content["images"][0]["file_name"]
    for _ in range(2):
        for candidate in candidates:
            if any((candidate / image["file_name"]).exists() for image in content["images"]):
                return candidate
        for image in content["images"]:
            image["file_name"] = with_slashes(image["file_name"])
    raise UserError(
        f"{path} lists {first}, which is neither beside it nor in images/; move the pictures there"
    )


def read(
    content: dict[str, Any], folder: Path, index: dict[int, int], base: Path
) -> Iterator[Sample]:
    """Yields the samples of one COCO JSON; a mask is drawn when it is fetched.

    Args:
        content: result of `load`.
        folder: of the pictures.
        index: class index by category id.
        base: folder that `Sample.id` is relative to.
    """
    for image in content["images"]:
        file, name = folder / image["file_name"], f"the objects of {image['file_name']}"
        mask = functools.partial(draw, image, index, name)
        yield Sample(os.path.relpath(file, base), Picture(file, str(file)), Picture(mask, name))


def draw(image: dict[str, Any], index: dict[int, int], name: str) -> bytes:
    """Draws the mask of one picture as PNG: class indices, 0 where there is no object.

    Args:
        image: an entry of "images" from `load`.
        index: class index by category id.
        name: of the mask, for messages.

    Raises:
        Unreadable: an object has no valid polygon or run lengths.
    """
    height, width = image["size"]
    shapes = []
    for item in image["objects"]:
        try:
            shape = run_lengths(item.get("segmentation"), height, width)
            coco_masks.decode(shape)
        except INVALID as error:
            reason = f"object {item.get('id')}: {error}".partition("\n")[0]
            raise Unreadable(f"{name} cannot be drawn ({reason})") from None
        shapes.append((index[item["category_id"]], shape))
    return as_png(Image.fromarray(paint(shapes, height, width)))


def run_lengths(segmentation: Any, height: int, width: int) -> Shape:
    """Run lengths of an object, from its "segmentation": run lengths or polygons.

    Raises:
        one of INVALID: the segmentation is not valid. pycocotools would read beyond its memory.
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
    return outline(segmentation or (), height, width)
