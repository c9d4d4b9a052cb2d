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
from pipeline.data.formats.folder_layout import pictures_below, stem
from pipeline.data.formats.pairing import Pairs, PathsByStem, match
from pipeline.data.label_mapping import Labels, fault_of_names, index_of
from pipeline.data.sample_source import Collection

KEYS = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}


def yaml_in(folder: Path) -> Path | None:
    """Finds the one YAML file with the keys `train` and `names` in a folder; None if not one."""
    files = [
        path
        for path in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml")))
        if {"train", "names"} <= {line.partition(":")[0] for line in lines_of(path)}
    ]
    return files[0] if len(files) == 1 else None


def lines_of(path: Path) -> list[str]:
    """The lines of a text file; bytes that are not UTF-8 are replaced."""
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def read_ultralytics(path: Path) -> Collection:
    """Reads a data.yaml of semantic segmentation.

    Keys: `path`; `train`, `val`, `test` (folders, .txt lists of files, or lists of these);
    `masks_dir`, which replaces `images` in the path of a picture; `names`; `label_mapping` (value
    to class, or to `ignore_label`). 255 is ignored.

    Raises:
        UserError: the file is not a data.yaml, one of its keys is invalid, or a folder or list
            that it names is missing.
    """
    content = load(path)
    root = root_of(path, content)
    pairs = Pairs(root, extra=[path])
    masks_dir = str(content.get("masks_dir") or "masks")
    for split, keys in KEYS.items():
        paths = next((content[key] for key in keys if content.get(key)), None)
        for name in paths if isinstance(paths, list) else [paths] if paths else []:
            add(pairs, split, root / str(name), masks_dir, path)
    names = names_of(path, content)
    mapping = content.get("label_mapping") or {}
    try:
        table = {int(value): index_of(target, names) for value, target in mapping.items()}
    except (ValueError, TypeError, AttributeError):
        raise UserError(f"{path}: label_mapping must be VALUE: CLASS, with whole numbers") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return pairs.collection(Labels(names, None, table, False, frozenset({IGNORED})))


def load(path: Path) -> dict[str, Any]:
    """Reads a data.yaml; raises UserError if it is not YAML or lacks `train` or `names`."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark else ""
        raise UserError(f"{path} is not valid YAML{line}; correct it") from None
    if not isinstance(content, dict) or not {"train", "names"} <= content.keys():
        raise UserError(f"{path} is not a data.yaml of Ultralytics; it needs train: and names:")
    return content


def root_of(path: Path, content: dict[str, Any]) -> Path:
    """The folder that paths are relative to: `path`, from the file's or the working directory."""
    name = str(content.get("path") or ".")
    for root in (path.parent / name, Path(name)):
        if root.is_dir():
            return root
    raise UserError(
        f"{path}: path: {name} is not a folder, neither from the file nor from the working "
        "directory; correct it"
    )


def names_of(path: Path, content: dict[str, Any]) -> tuple[str, ...]:
    """Class names from `names`, a list or a table by index; raises UserError if it is invalid."""
    names = content["names"]
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise UserError(f"{path}: the keys of names: must be 0, 1, 2 ... without gaps")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list):
        raise UserError(f"{path}: names: must be a list, or a table by class index")
    names = tuple(str(name) for name in names)
    if fault := fault_of_names(names):
        raise UserError(f"{path}: {fault}")
    return names


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
                f"{masks_dir}); polygons in labels/ are not read: export masks as PNG"
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
        candidates = [Path(os.path.normpath(folder / line.strip())) for folder in folders]
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
