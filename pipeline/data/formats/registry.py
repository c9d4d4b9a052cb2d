"""Where examples come from: what `--data` means, and whether it changed."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.base.artifacts import atomic, sha256
from pipeline.base.console import UserError
from pipeline.data.formats.coco import jsons_in, read_coco
from pipeline.data.formats.folder_layout import folders_of, read_folder
from pipeline.data.formats.synthetic import KINDS, drawn_animals
from pipeline.data.formats.tfds import any_set, oxford_pets
from pipeline.data.formats.ultralytics import read_ultralytics, yaml_in
from pipeline.data.label_mapping import with_user
from pipeline.data.sample_source import Collection

PETS, DRAWN, TFDS = ("pets", "oxford_iiit_pet"), "synthetic", "tfds"
LAYOUTS = (
    "images/ and masks/, JPEGImages/ and SegmentationClass/ (Pascal VOC), a data.yaml "
    "(Ultralytics), or a COCO JSON"
)


def on_disk(data: str) -> bool:
    """Whether `--data` names files of the user, whose content may change."""
    kind = data.partition(":")[0]
    return data not in PETS and kind not in (DRAWN, TFDS)


def open_source(
    data: str,
    data_dir: Path | None,
    keys: tuple[str | None, str | None],
    size: tuple[int, int],
    seed: int,
) -> Collection:
    """The source that `--data` names. Nothing of its masks is read yet.

    Args:
        data: "pets", "synthetic", "synthetic:6", "tfds:NAME", or a path.
        data_dir: the folder of TensorFlow Datasets, or None for its usual place.
        keys: of photographs and masks in TFDS, where they are said.
        size: height and width of what is drawn.

    Raises:
        UserError: there is no such source, or it cannot be read.
    """
    kind, _, rest = data.partition(":")
    if data in PETS:
        return oxford_pets(data_dir)
    if kind == TFDS:
        return any_set(rest, data_dir, *keys)
    if kind == DRAWN:
        if rest not in ("", *map(str, KINDS)):
            choice = ", ".join(f"{DRAWN}:{number}" for number in KINDS)
            raise UserError(f"--data {data}: drawn are {choice}")
        return drawn_animals(int(rest or 3), size, seed)
    return open_path(Path(data))


def open_path(path: Path) -> Collection:
    """The source of a path: a folder in one of LAYOUTS, a COCO JSON or a data.yaml."""
    suffix = path.suffix.lower()
    if not path.exists():
        raise UserError(
            f"--data {path} is missing; name pets, synthetic, tfds:NAME, or a folder with {LAYOUTS}"
        )
    if not path.is_dir():
        if suffix == ".json":
            return read_coco(path)
        if suffix in (".yaml", ".yml"):
            return read_ultralytics(path)
        raise UserError(f"{path} is no data set; name a folder with {LAYOUTS}")
    path = next((path / name for name in ("VOCdevkit",) if (path / name).is_dir()), path)
    if path.name == "VOCdevkit":
        path = next((each for each in sorted(path.glob("VOC*")) if folders_of(each)), path)
    if file := yaml_in(path):
        return read_ultralytics(file)
    if folders_of(path):
        return read_folder(path)
    if file := jsons_in(path):
        return read_coco(file)
    if (path / PETS[1]).is_dir():
        raise UserError(f"{path} is a folder of TFDS; read it with: --data pets --data-dir {path}")
    raise UserError(f"{path} is no data set; a folder must have {LAYOUTS}")


def refuse_pictures(data_dir: Path) -> None:
    """Raises UserError if a folder that is named as that of TFDS holds a user's own pictures."""
    if data_dir.is_dir() and (folders_of(data_dir) or yaml_in(data_dir) or jsons_in(data_dir)):
        raise UserError(
            f"{data_dir} is a folder of pictures and none of TFDS; read it with: --data {data_dir}"
        )


def with_flags(
    collection: Collection,
    names: list[str] | None,
    ignore_index: int | None,
    mapping: dict[str, Any] | None,
    skip_bad: float | None,
) -> Collection:
    """A source with what the command line says of its classes; raises as `labels.with_user`."""
    if collection.drawn and (names or mapping or ignore_index is not None):
        raise UserError("--names and what masks mean are for pictures of one's own, not for drawn")
    labels = with_user(collection.labels, names, ignore_index, mapping)
    share = collection.skip_bad if skip_bad is None else skip_bad
    return replace(collection, labels=labels, skip_bad=share)


# --- whether files changed ----------------------------------------------------------------


def content_of(folder: Path, files: Iterable[str], listing: Path) -> str:
    """One hash over names and contents of files.

    A file is read only if its size or times are not those in `listing`, which is written anew:
    asking again costs no more than looking at the folder. Both lists are in the order of their
    names and are read side by side, so that neither is held.

    Args:
        folder: that the names count from.
    """
    digest, number = hashlib.sha256(), 0
    with tempfile.TemporaryFile("w+", encoding="utf-8") as new:
        known = known_states(listing)
        old = next(known, None)
        changed = False
        for name in sorted(set(files)):
            state = state_of(folder / name)
            while old and old[0] < name:
                old, changed = next(known, None), True
            if old and old[0] == name and old[1] == state:
                content, old = old[2], next(known, None)
            else:
                content, changed = hash_of(folder / name), True
            new.write(json.dumps([name, state, content]) + "\n")
            digest.update(json.dumps([name, content]).encode())
            number += 1
        if changed or old:
            new.seek(0)
            with atomic(listing) as temporary, temporary.open("w", encoding="utf-8") as file:
                shutil.copyfileobj(new, file)
    return f"{number} files, {digest.hexdigest()[:16]}"


def state_of(path: Path) -> list[int]:
    """What changes with a file: size and times; nothing for a link to nothing."""
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def hash_of(path: Path) -> str:
    """SHA-256 of a file, or that it cannot be read."""
    try:
        return sha256(path)
    except OSError:
        return "unreadable"


def known_states(listing: Path) -> Iterator[tuple[str, list[int], str]]:
    """Name, state and hash of each file that a listing has; a damaged one ends there."""
    try:
        with listing.open(encoding="utf-8") as file:
            for line in file:
                name, state, content = json.loads(line)
                yield str(name), state, str(content)
    except (OSError, ValueError, TypeError):
        return
