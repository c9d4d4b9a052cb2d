"""The data.yaml of Ultralytics' semantic data sets: folders or lists, names, mapped values."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pipeline.base.console import UserError
from pipeline.base.lazy import yaml
from pipeline.data.classes import IGNORED
from pipeline.data.formats.folder_layout import Found, Pairs, match, pictures_below, stem
from pipeline.data.label_mapping import Labels, fault_of_names, index_of
from pipeline.data.sample_source import Collection

KEYS = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}


def yaml_in(folder: Path) -> Path | None:
    """The one file of this kind in a folder, if there is one."""
    found = [
        path
        for path in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml")))
        if {"train", "names"} <= {line.partition(":")[0] for line in lines_of(path)}
    ]
    return found[0] if len(found) == 1 else None


def lines_of(path: Path) -> list[str]:
    """The lines of a text file, whatever is in it."""
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def read_ultralytics(path: Path) -> Collection:
    """The pictures of a data.yaml of semantic segmentation.

    Keys: `path`, `train`, `val`, `test` (folders or .txt lists of files, or lists of these),
    `masks_dir`, which replaces `images` in the path of a picture, `names` and `label_mapping`
    (value to class, or to `ignore_label`). 255 is no class. As documented at
    https://docs.ultralytics.com/datasets/semantic

    Raises:
        UserError: no such file, or a folder that it names is missing.
    """
    content = load(path)
    root = root_of(path, content)
    pairs = Pairs(root, extra=[path])
    masks_dir = str(content.get("masks_dir") or "masks")
    for split, keys in KEYS.items():
        places = next((content[key] for key in keys if content.get(key)), None)
        for place in places if isinstance(places, list) else [places] if places else []:
            add(pairs, split, root / str(place), masks_dir, path)
    names = names_of(path, content)
    mapping = content.get("label_mapping") or {}
    try:
        table = {int(value): index_of(target, names) for value, target in mapping.items()}
    except (ValueError, TypeError, AttributeError):
        raise UserError(f"{path}: label_mapping must say VALUE: CLASS, with numbers") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return pairs.collection(Labels(names, None, table, False, frozenset({IGNORED})))


def load(path: Path) -> dict[str, Any]:
    """The content of a data.yaml."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" (line {where.line + 1})" if where else ""
        raise UserError(f"{path} is no YAML{line}") from None
    if not isinstance(content, dict) or not {"train", "names"} <= content.keys():
        raise UserError(f"{path} is no data set of Ultralytics: it needs train: and names:")
    return content


def root_of(path: Path, content: dict[str, Any]) -> Path:
    """The folder that paths count from: `path`, from the file or from where the user is."""
    given = str(content.get("path") or ".")
    for root in (path.parent / given, Path(given)):
        if root.is_dir():
            return root
    raise UserError(f"{path}: path: {given} is no folder, from there or from here; correct it")


def names_of(path: Path, content: dict[str, Any]) -> tuple[str, ...]:
    """The classes, from a list or from a table by number."""
    names = content["names"]
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise UserError(f"{path}: the numbers of names: must go 0, 1, 2 without a gap")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list):
        raise UserError(f"{path}: names: must be a list, or a table by number")
    names = tuple(str(name) for name in names)
    if fault := fault_of_names(names):
        raise UserError(f"{path}: {fault}")
    return names


def add(pairs: Pairs, split: str, place: Path, masks_dir: str, source: Path) -> None:
    """Adds the pictures of a folder, or of a list of files, to a split."""
    if place.is_dir():
        masks = mask_path(place, pairs.folder, masks_dir)
        if not masks.is_dir():
            raise UserError(
                f"{masks} is missing, where {source} has the masks of {place} (masks_dir: "
                f"{masks_dir}); polygons in labels/ are not read: export masks as PNG"
            )
        images = pictures_below(place, pairs.folder, pairs.passed_over)
        found = pictures_below(masks, pairs.folder, pairs.passed_over)
        match(pairs, split, sorted(images.keys() | found.keys()), images, found)
        return
    if not place.is_file():
        raise UserError(f"{place} is missing, which {source} names as {split}")
    pairs.extra.append(place)
    images: Found = {}
    masks: Found = {}
    known: dict[Path, Found] = {}  # what each folder of masks holds
    for line in lines_of(place):
        if not line.strip():
            continue
        below = [Path(os.path.normpath(top / line.strip())) for top in (place.parent, pairs.folder)]
        image = next((path for path in below if path.exists()), below[-1])
        name, mask = os.path.relpath(image, pairs.folder), mask_path(image, pairs.folder, masks_dir)
        if mask.parent not in known:
            there = mask.parent.is_dir()
            known[mask.parent] = pictures_below(mask.parent, pairs.folder, []) if there else {}
        if name not in images.setdefault(stem(name), []):
            images[stem(name)].append(name)
        masks[stem(name)] = known[mask.parent].get(stem(mask.name), [])
    match(pairs, split, sorted(images), images, masks)


def mask_path(image: Path, root: Path, masks_dir: str) -> Path:
    """Where the mask of an image, or the masks of a folder, lie: `images` replaced in the path."""
    parts = list(Path(os.path.relpath(image, root)).parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = masks_dir
    else:
        parts.insert(0, masks_dir)
    return root.joinpath(*parts)
