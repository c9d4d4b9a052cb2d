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
from pipeline.data.foreign_files import commonest_below
from pipeline.data.formats.coco import json_in, read_coco
from pipeline.data.formats.folder_layout import layout_of, read_folder
from pipeline.data.formats.synthetic import KINDS, drawn_animals
from pipeline.data.formats.tfds import any_set, oxford_pets
from pipeline.data.formats.ultralytics import read_ultralytics, yaml_in
from pipeline.data.label_flags import with_user
from pipeline.data.sample_source import Collection

PETS, DRAWN, TFDS = ("pets", "oxford_iiit_pet"), "synthetic", "tfds"
COCO, ULTRALYTICS, FOLDERS = "coco", "ultralytics", "folders"
MODULES = {  # kind of data: the modules of this folder that read it
    PETS[0]: ("tfds",),
    TFDS: ("tfds",),
    DRAWN: ("synthetic",),
    COCO: ("coco", "json_kinds"),
    ULTRALYTICS: ("ultralytics", "folder_layout", "pairing"),
    FOLDERS: ("folder_layout", "pairing"),
}
LAYOUTS = (
    "images/ and masks/, JPEGImages/ and SegmentationClass/ (Pascal VOC), a data.yaml "
    "(Ultralytics), or a COCO JSON"
)


Entry = tuple[list[int], str]  # of the cache: what `state_of` gives, and the hash


class Location(NamedTuple):
    """What `--data` names."""

    kind: str  # a key of MODULES; empty if it is no data set
    name: str = ""  # of the TFDS set, or the number of classes of the synthetic one
    path: Path = Path()  # of the file or folder to read, for data on disk


def format_of(data: str) -> tuple[str, ...]:
    """Names of the modules of this folder that `open_source` reads `--data` with.

    Looks into folders and their YAML files, and opens no data set. () if `data` is no data set.
    """
    return MODULES.get(locate(data).kind, ())


def locate(data: str) -> Location:
    """Decides which kind of data `--data` names; see `open_source` for its values."""
    kind, _, name = data.partition(":")
    if data in PETS:
        return Location(PETS[0])
    if kind in (TFDS, DRAWN):
        return Location(kind, name)
    path = Path(data)
    if path.is_dir():
        return locate_in_folder(dataset_folder(path))
    suffix = path.suffix.lower()
    if suffix == ".json" and path.exists():
        return Location(COCO, path=path)
    if suffix in (".yaml", ".yml") and path.exists():
        return Location(ULTRALYTICS, path=path)
    return Location("", path=path)


def dataset_folder(folder: Path) -> Path:
    """The folder to look into: VOCdevkit/VOC2012 or the like if `folder` has or is a VOCdevkit."""
    if (folder / "VOCdevkit").is_dir():
        folder = folder / "VOCdevkit"
    if folder.name == "VOCdevkit":
        folder = next((year for year in sorted(folder.glob("VOC*")) if layout_of(year)), folder)
    return folder


def locate_in_folder(folder: Path) -> Location:
    """The kind of data in a folder; a data.yaml counts before folders, these before a COCO JSON."""
    if file := yaml_in(folder):
        return Location(ULTRALYTICS, path=file)
    if layout_of(folder):
        return Location(FOLDERS, path=folder)
    if file := json_in(folder):
        return Location(COCO, path=file)
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
) -> Collection:
    """Opens the data set that `--data` names, without reading a mask.

    Args:
        data: "pets", "synthetic", "synthetic:6", "tfds:NAME", or a path.
        data_dir: the folder of TensorFlow Datasets; None for its default.
        keys: features of TFDS that hold photographs and masks; None to find them.
        size: height and width of synthetic pictures, in pixels.
        seed: of synthetic pictures.

    Raises:
        UserError: there is no such data set, or it cannot be read.
    """
    kind, name, path = locate(data)
    if kind == PETS[0]:
        return oxford_pets(data_dir)
    if kind == TFDS:
        return any_set(name, data_dir, *keys)
    if kind == DRAWN:
        if name not in ("", *map(str, KINDS)):
            choice = ", ".join(f"{DRAWN}:{number}" for number in KINDS)
            raise UserError(f"--data {data} does not exist; use one of {choice}")
        return drawn_animals(int(name or 3), size, seed)
    if kind == COCO:
        return read_coco(path)
    if kind == ULTRALYTICS:
        return read_ultralytics(path)
    if kind == FOLDERS:
        return read_folder(path)
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
    if foreign := commonest_below(path):
        raise UserError(f"{path} is not a data set that is read: {foreign}")
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
