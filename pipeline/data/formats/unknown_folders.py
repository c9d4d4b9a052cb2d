"""What to say of a folder that is no data set: what lies in it, and what makes one of it."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

from PIL import Image

from pipeline.base import commands
from pipeline.data.foreign_files import NOT_READ, commonest_below
from pipeline.data.formats.endings import NONE, find
from pipeline.data.formats.folder_roles import IMAGES, MASKS, survey
from pipeline.data.formats.json_kinds import kind_of
from pipeline.data.formats.picture_files import pictures_below
from pipeline.data.image_reader import Unreadable, opened

LOOKED_AT = 20  # JSON files, and folders of pictures
LARGEST = 10_000_000  # bytes of a JSON file that is looked into
FEWEST_PAIRS = 3  # that make two folders look like images and masks
FEW_COLOURS = 64  # that a mask has at most


def explain(folder: Path) -> str:
    """What a folder holds and what to do, in one line; "" if nothing is known of it."""
    if pair := likely_folders(folder):
        flags = commands.line("--images", pair[0], "--masks", pair[1])
        return (
            f"{folder} has no folders of images and masks by names that are known; if so: {flags}"
        )
    for path in itertools.islice(jsons_below(folder), LOOKED_AT):
        try:
            kind = kind_of(json.loads(path.read_bytes()))
        except (OSError, ValueError, RecursionError):
            continue
        if kind:
            return f"{folder} holds {path}, {kind.name}, {NOT_READ}; {kind.remedy}"
    if foreign := commonest_below(folder):
        return f"{folder} is not a data set that is read: {foreign}"
    return ""


def jsons_below(folder: Path) -> list[Path]:
    """JSON files in a folder and its subfolders that are not too large to look into."""
    paths = (Path(parent, name) for parent, _, names in os.walk(folder) for name in sorted(names))
    jsons = (path for path in paths if path.suffix.lower() == ".json")
    return [path for path in itertools.islice(jsons, LOOKED_AT) if path.stat().st_size < LARGEST]


def likely_folders(folder: Path) -> tuple[Path, Path] | None:
    """Two folders of pictures of which the one seems to hold the masks of the other."""
    found = survey(folder)
    names = sorted({*found.others, *found.roots[IMAGES], *found.roots[MASKS]} - {os.curdir})
    keys = {name: set(pictures_below(folder / name, folder, [])) for name in names[:LOOKED_AT]}
    for first, second in itertools.permutations(keys, 2):
        _, ending, _ = find(keys[first], keys[second])
        same = keys[first] & keys[second]
        few = [has_few_colours(folder / name, same) for name in (first, second) if same]
        if ending != NONE or (len(same) >= FEWEST_PAIRS and few == [False, True]):
            return folder / first, folder / second
    return None


def has_few_colours(folder: Path, keys: set[str]) -> bool:
    """Whether the first of some pictures in a folder has as few colours as a mask."""
    paths = pictures_below(folder, folder, [])
    try:
        with opened(folder / paths[min(keys)][0], "") as picture:
            small = picture.convert("RGB").resize((64, 64), Image.Resampling.NEAREST)
            return small.getcolors(FEW_COLOURS) is not None
    except Unreadable:
        return False
