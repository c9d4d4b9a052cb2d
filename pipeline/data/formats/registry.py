"""Resolves `--data`: picks the module that reads it, and detects whether its files changed.

`locate` decides the kind of data; `open_source` reads it, and `format_of` names the modules that
do, which are the only data formats in the fingerprint of a data set.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.base import commands
from pipeline.base.console import UserError
from pipeline.base.files import atomic, sha256
from pipeline.data.folder_flags import NO_FOLDERS, Folders
from pipeline.data.formats.cityscapes import has_cityscapes, read_cityscapes
from pipeline.data.formats.coco import json_in, read_coco
from pipeline.data.formats.folder_layout import read_folder
from pipeline.data.formats.folder_search import layout_of
from pipeline.data.formats.labelme import has_labelme, read_labelme
from pipeline.data.formats.oxford_trimaps import has_trimaps, read_trimaps
from pipeline.data.formats.synthetic import KINDS, drawn_animals
from pipeline.data.formats.tfds import any_set, oxford_pets
from pipeline.data.formats.ultralytics import read_ultralytics, yaml_in
from pipeline.data.formats.unknown_folders import explain
from pipeline.data.formats.yolo_polygons import has_polygons, labels_below, read_polygons
from pipeline.data.label_flags import with_user
from pipeline.data.sample_source import Collection

PETS, DRAWN, TFDS = ("pets", "oxford_iiit_pet"), "synthetic", "tfds"
COCO, ULTRALYTICS, FOLDERS = "coco", "ultralytics", "folders"
YOLO, CITYSCAPES, LABELME, TRIMAPS = "YOLO polygons", "Cityscapes", "labelme", "trimaps"
OF_FOLDERS = (
    *("folder_roles", "folder_search", "endings", "class_files", "pairing", "picture_files"),
    "drawn_masks",
)
MODULES = {  # kind of data: the modules of this folder that read it
    PETS[0]: ("tfds",),
    TFDS: ("tfds",),
    DRAWN: ("synthetic",),
    COCO: ("coco", "json_kinds", "polygons", "drawn_masks"),
    ULTRALYTICS: ("ultralytics", "pairing", "drawn_masks", "picture_files"),
    YOLO: ("yolo_polygons", "ultralytics", "polygons", "pairing", "drawn_masks", "picture_files"),
    LABELME: ("labelme", "polygons", "folder_layout", *OF_FOLDERS),
    CITYSCAPES: ("cityscapes", "pairing", "drawn_masks", "picture_files"),
    TRIMAPS: ("oxford_trimaps", "folder_layout", *OF_FOLDERS),
    FOLDERS: ("folder_layout", *OF_FOLDERS),
}
LAYOUTS = (
    "images/ and masks/ (or: --images DIR --masks DIR), JPEGImages/ and SegmentationClass/ (Pascal "
    "VOC), a data.yaml (Ultralytics, YOLO polygons), a COCO JSON, labelme's JSON, or Cityscapes"
)
READERS = {COCO: read_coco, YOLO: read_polygons}  # where a picture without objects is background
OF_MASKS = {  # where it may be a mistake
    ULTRALYTICS: read_ultralytics,
    LABELME: read_labelme,
    CITYSCAPES: read_cityscapes,
    TRIMAPS: read_trimaps,
}

Entry = tuple[list[int], str]  # of the cache: what `state_of` gives, and the hash


class Location(NamedTuple):
    """What `--data` names."""

    kind: str  # a key of MODULES; empty if it is no data set
    name: str = ""  # of the TFDS set, or the number of classes of the synthetic one
    path: Path = Path()  # of the file or folder to read, for data on disk


def format_of(data: str, folders: Folders = NO_FOLDERS) -> tuple[str, ...]:
    """Names of the modules of this folder that `open_source` reads `--data` with.

    Looks into folders and their YAML files, and opens no data set. () if `data` is no data set.
    """
    return MODULES.get(locate(data, folders).kind, ())


def locate(data: str, folders: Folders = NO_FOLDERS) -> Location:
    """Decides which kind of data the command line names; see `open_source` for its values."""
    if folders.images:
        return Location(FOLDERS, path=folders.images)
    kind, _, name = data.partition(":")
    if data in PETS:
        return Location(PETS[0])
    if kind in (TFDS, DRAWN):
        return Location(kind, name)
    path = Path(data)
    if path.is_dir():
        return locate_in_folder(dataset_folder(path), folders.suffix)
    suffix = path.suffix.lower()
    if suffix == ".json" and path.exists():
        return Location(COCO, path=path)
    if suffix in (".yaml", ".yml") and path.exists():
        return Location(YOLO if has_polygons(path) else ULTRALYTICS, path=path)
    return Location("", path=path)


def dataset_folder(folder: Path) -> Path:
    """The folder to look into: VOCdevkit/VOC2012 or the like if `folder` has or is a VOCdevkit."""
    if (folder / "VOCdevkit").is_dir():
        folder = folder / "VOCdevkit"
    if folder.name == "VOCdevkit":
        folder = next((year for year in sorted(folder.glob("VOC*")) if layout_of(year)), folder)
    return folder


def locate_in_folder(folder: Path, suffix: str | None = None) -> Location:
    """The kind of data in a folder; a data.yaml counts before folders, these before a COCO JSON.

    Args:
        suffix: of --mask-suffix.
    """
    if file := yaml_in(folder):
        return Location(YOLO if has_polygons(file) else ULTRALYTICS, path=file)
    if has_cityscapes(folder):
        return Location(CITYSCAPES, path=folder)
    if has_trimaps(folder):
        return Location(TRIMAPS, path=folder)
    if layout_of(folder, suffix):
        return Location(FOLDERS, path=folder)
    if labels_below(folder):
        return Location(YOLO, path=folder)
    if (file := json_in(folder)) and not has_labelme(file.parent):
        return Location(COCO, path=file)
    if has_labelme(folder):
        return Location(LABELME, path=folder)
    return Location("", path=folder)


def on_disk(data: str) -> bool:
    """Whether `--data` names a path, whose content may change."""
    kind = data.partition(":")[0]
    return data not in PETS and kind not in (DRAWN, TFDS)


def open_source(
    data: str,
    data_dir: Path | None,
    keys: tuple[str | None, str | None],
    size: tuple[int, int],
    seed: int,
    folders: Folders = NO_FOLDERS,
) -> Collection:
    """Opens the data set that `--data` names, without reading a mask.

    Args:
        data: "pets", "synthetic", "synthetic:6", "tfds:NAME", or a path.
        data_dir: the folder of TensorFlow Datasets; None for its default.
        keys: features of TFDS that hold photographs and masks; None to find them.
        size: height and width of synthetic pictures, in pixels.
        seed: of synthetic pictures.
        folders: of images and masks, and the ending of masks' names, if the command line names
            them.

    Raises:
        UserError: there is no such data set, or it cannot be read.
    """
    kind, name, path = locate(data, folders)
    if folders.suffix and kind and kind != FOLDERS:
        raise UserError(f"--mask-suffix is for folders of masks, and {data} is none; leave it out")
    if kind == PETS[0]:
        return oxford_pets(data_dir)
    if kind == TFDS:
        return any_set(name, data_dir, *keys)
    if kind == DRAWN:
        if name not in ("", *map(str, KINDS)):
            choice = ", ".join(f"{DRAWN}:{number}" for number in KINDS)
            raise UserError(f"--data {data} does not exist; use one of {choice}")
        return drawn_animals(int(name or 3), size, seed)
    if kind == FOLDERS:
        return read_folder(path, folders)
    if kind in OF_MASKS:
        return OF_MASKS[kind](path, folders.background)
    if kind in READERS:
        return READERS[kind](path)
    if not path.exists():
        raise UserError(
            f"--data {path} is missing; use pets, synthetic, tfds:NAME, or a folder with {LAYOUTS}"
        )
    if not path.is_dir():
        raise UserError(f"{path} is not a data set; use a folder with {LAYOUTS}")
    if (path / PETS[1]).is_dir():
        raise UserError(
            f"{path} is a TFDS folder; read it with: --data pets --data-dir {commands.line(path)}"
        )
    if said := explain(path):
        raise UserError(said)
    raise UserError(f"{path} is not a data set; a folder must have {LAYOUTS}")


def refuse_pictures(data_dir: Path) -> None:
    """Raises UserError if `--data-dir`, the folder of TFDS, holds a data set that `--data` reads.

    TFDS would download into it.
    """
    if data_dir.is_dir() and locate_in_folder(data_dir).kind:
        raise UserError(
            f"{data_dir} is a folder of pictures, not of TFDS; read it with: --data "
            f"{commands.line(data_dir)}"
        )


def with_flags(
    collection: Collection,
    names: list[str] | None,
    ignore_index: int | None,
    mapping: dict[str, Any] | None,
) -> Collection:
    """Returns the collection with the class flags of the command line applied to it.

    Raises:
        UserError: as `with_user`.
    """
    labels = with_user(collection.labels, names, ignore_index, mapping)
    return replace(collection, labels=labels)


# --- whether files changed ----------------------------------------------------------------


def content_of(folder: Path, files: Iterable[str], listing: Path) -> str:
    """Hashes names and contents of files: "N files, " and 16 hex digits.

    Reads a file only if its size or times differ from its entry in `listing`, which is then
    updated; so asking again costs one `stat` per file.

    Args:
        folder: that `files` are relative to.
        files: paths of the files, in any order.
        listing: cache of names, sizes, times and hashes, one JSON line per file.
    """
    before, digest = read_listing(listing), hashlib.sha256()
    entries: dict[str, Entry] = {}
    for name in sorted(set(files)):
        state = state_of(folder / name)
        known_state, content = before.get(name, (None, ""))
        entries[name] = state, content if state == known_state else hash_of(folder / name)
        digest.update(json.dumps([name, entries[name][1]]).encode())
    if entries != before:
        with atomic(listing) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps([name, *entry]) + "\n" for name, entry in entries.items())
    return f"{len(entries)} files, {digest.hexdigest()[:16]}"


def state_of(path: Path) -> list[int]:
    """Size, modification time and status change time (ns) of a file; [] if it cannot be found."""
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def hash_of(path: Path) -> str:
    """SHA-256 of a file, or "unreadable"."""
    try:
        return sha256(path)
    except OSError:
        return "unreadable"


def read_listing(listing: Path) -> dict[str, Entry]:
    """State and hash of each file in the cache, by name, up to the first damaged entry."""
    entries: dict[str, Entry] = {}
    try:
        with listing.open(encoding="utf-8") as file:
            for line in file:
                name, state, content = json.loads(line)
                entries[str(name)] = state, str(content)
    except (OSError, ValueError, TypeError):
        pass
    return entries
