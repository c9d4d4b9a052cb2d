"""data.yaml of Ultralytics: data sets for semantic segmentation, in folders or lists of files.

The format: https://docs.ultralytics.com/datasets/semantic
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pipeline.base.console import UserError
from pipeline.base.lazy import yaml
from pipeline.data.classes import IGNORED
from pipeline.data.formats.pairing import Pairs, match
from pipeline.data.formats.picture_files import PathsByStem, pictures_below, stem
from pipeline.data.label_mapping import Labels, fault_of_names, index_of
from pipeline.data.sample_source import SPLIT_NAMES, Collection
from pipeline.data.text_files import lines_of, read_text, with_slashes

MOST_FAULTS = 200  # that are looked through for the name of a picture
EMPTY = ("", "~", "null", "Null", "NULL")  # values that say nothing
KEYS = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}


def yaml_in(folder: Path) -> Path | None:
    """Finds the one YAML file with the keys `train` and `names` in a folder; None if not one."""
    files = [
        path
        for path in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml")))
        if {"train", "names"} <= {line.partition(":")[0] for line in lines_of(path)}
    ]
    return files[0] if len(files) == 1 else None


def read_ultralytics(path: Path, background: bool = False) -> Collection:
    """Reads a data.yaml of semantic segmentation.

    Keys: `path`; `train`, `val`, `test` (folders, .txt lists of files, or lists of these);
    `masks_dir`, which replaces `images` in the path of a picture; `names`; `label_mapping` (value
    to class, or to `ignore_label`). 255 is ignored.

    Args:
        background: whether a picture without a mask is background; else that is a fault.

    Raises:
        UserError: the file is not a data.yaml, one of its keys is invalid, or a folder or list
            that it names is missing.
    """
    content = load(path)
    root = root_of(path, content)
    pairs = Pairs(root, extra=[path], background=background)
    masks_dir = str(content.get("masks_dir") or "masks")
    for split, paths in split_paths(root, content).items():
        for name in paths:
            add(pairs, split, name, masks_dir, path)
    list_unused(pairs)
    names = names_of(path, content)
    mapping = content.get("label_mapping") or {}
    try:
        table = {
            int(value): index_of(int(target) if target.isdecimal() else target, names)
            for value, target in mapping.items()
        }
    except (ValueError, TypeError, AttributeError):
        raise UserError(f"{path}: label_mapping must be VALUE: CLASS, with whole numbers") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return pairs.collection(Labels(names, None, table, False, frozenset({IGNORED}), True))


def load(path: Path) -> dict[str, Any]:
    """Reads a data.yaml; raises UserError if it is not YAML or lacks `train` or `names`.

    All values are texts as they are written: YAML takes a class called no, on or 1.10 for
    something else.
    """
    try:
        content = yaml.load(read_text(path), yaml.BaseLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark else ""
        raise UserError(f"{path} is not valid YAML{line}; correct it") from None
    if not isinstance(content, dict) or not {"train", "names"} <= content.keys():
        raise UserError(f"{path} is not a data.yaml of Ultralytics; it needs train: and names:")
    return {key: None if value in EMPTY else value for key, value in content.items()}


def root_of(path: Path, content: dict[str, Any]) -> Path:
    """The folder that paths are relative to: `path`, from the file's or the working directory.

    The folder of the file, if there is no such folder and the training split is found from there.

    Raises:
        UserError: there is no such folder.
    """
    name = with_slashes(str(content.get("path") or "."))
    for root in (path.parent / name, Path(name)):
        if root.is_dir():
            return root
    if all(folder.exists() for folder in split_paths(path.parent, content).get("train", [path])):
        return path.parent  # it was moved, or the path is that of another machine
    raise UserError(
        f"{path}: path: {name} is not a folder, neither from the file nor from the working "
        "directory; correct it"
    )


def split_paths(root: Path, content: dict[str, Any]) -> dict[str, list[Path]]:
    """The folders or lists of every split that a data.yaml names.

    Of "../train/images", as Roboflow writes it, the beginning is left out if that is missing, as
    Ultralytics does.
    """
    paths: dict[str, list[Path]] = {}
    for split, keys in KEYS.items():
        given = next((content[key] for key in keys if content.get(key)), None)
        for name in given if isinstance(given, list) else [given] if given else []:
            name = with_slashes(str(name))
            inside = root / name.removeprefix("../")
            path = inside if not (root / name).exists() and inside.exists() else root / name
            paths.setdefault(split, []).append(path)
    return paths


def list_unused(pairs: Pairs) -> None:
    """Lists pictures in folders of splits that the data.yaml does not name, and in no list."""
    used = {image for split in pairs.splits.values() for image, _ in split}
    known = used | {name for name, _ in pairs.skipped}
    folders = {pairs.folder / os.path.dirname(image) for image in used if image}
    for name in (name for names in SPLIT_NAMES.values() for name in names):
        folders |= {pairs.folder / "images" / name, pairs.folder / name / "images"}
    faulty = " ".join(fault.text for fault in pairs.faults[:MOST_FAULTS])
    for folder in sorted(folder for folder in folders if folder.is_dir()):
        found = pictures_below(folder, pairs.folder, [], recursive=False)
        for path in sorted(path for paths in found.values() for path in paths):
            if path not in known and str(pairs.folder / path) not in faulty:
                known.add(path)
                pairs.skipped.append((path, "in no split that data.yaml names"))


def names_of(path: Path, content: dict[str, Any]) -> tuple[str, ...]:
    """Class names from `names`, a list or a table by index; raises UserError if it is invalid."""
    names = listed_names(path, content)
    if fault := fault_of_names(names):
        raise UserError(f"{path}: {fault}")
    return names


def listed_names(path: Path, content: dict[str, Any]) -> tuple[str, ...]:
    """The texts in `names`, whatever they say; raises UserError if it is no list and no table."""
    names = content["names"]
    if isinstance(names, dict):
        if sorted(names) != sorted(map(str, range(len(names)))):
            raise UserError(f"{path}: the keys of names: must be 0, 1, 2 ... without gaps")
        names = [names[str(number)] for number in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: names: must be a list, or a table by class index, of texts")
    return tuple(names)


def add(pairs: Pairs, split: str, path: Path, masks_dir: str, source: Path) -> None:
    """Adds the pictures of a folder, or of a list of files, to a split.

    Args:
        pairs: changed in place.
        split: "train", "validation" or "test".
        path: of the folder or list.
        masks_dir: replaces `images` in the path of a picture.
        source: the data.yaml, for messages.
    """
    if path.is_dir():
        masks_folder = mask_path(path, pairs.folder, masks_dir)
        if not masks_folder.is_dir():
            raise UserError(
                f"{masks_folder} is missing; {source} has the masks of {path} there (masks_dir: "
                f"{masks_dir}), or polygons in labels/; add either"
            )
        images = pictures_below(path, pairs.folder, pairs.skipped)
        masks = pictures_below(masks_folder, pairs.folder, pairs.skipped)
        match(pairs, split, sorted(images.keys() | masks.keys()), images, masks)
        return
    if not path.is_file():
        raise UserError(f"{path} is missing; {source} names it as {split}; correct it")
    pairs.extra.append(path)
    images, masks = {}, {}
    by_folder: dict[Path, PathsByStem] = {}  # the masks in each folder
    for line in lines_of(path):
        if not line.strip():
            continue
        folders = path.parent, pairs.folder
        written = (line.strip(), with_slashes(line.strip()))
        candidates = [
            Path(os.path.normpath(folder / name)) for name in written for folder in folders
        ]
        image = next((file for file in candidates if file.exists()), candidates[-1])
        name, mask = os.path.relpath(image, pairs.folder), mask_path(image, pairs.folder, masks_dir)
        if mask.parent not in by_folder:
            exists = mask.parent.is_dir()
            by_folder[mask.parent] = pictures_below(mask.parent, pairs.folder, []) if exists else {}
        if name not in images.setdefault(stem(name), []):
            images[stem(name)].append(name)
        masks[stem(name)] = by_folder[mask.parent].get(stem(mask.name), [])
    match(pairs, split, sorted(images), images, masks)


def mask_path(image: Path, root: Path, masks_dir: str) -> Path:
    """Path of the mask of an image, or of the masks of a folder: `images` becomes `masks_dir`.

    The last `images` in the path below `root` counts; without one, `masks_dir` comes first.
    """
    parts = list(Path(os.path.relpath(image, root)).parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = masks_dir
    else:
        parts.insert(0, masks_dir)
    return root.joinpath(*parts)
