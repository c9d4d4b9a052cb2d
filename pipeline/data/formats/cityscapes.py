"""Cityscapes, and data sets in its layout: leftImg8bit/SPLIT/CITY/, gtFine/SPLIT/CITY/.

The format: https://github.com/mcordts/cityscapesScripts. Masks are labelTrainIds (0..18) if they
were made, else labelIds (0..33), of which 19 are classes.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from pipeline.base.console import UserError
from pipeline.data.classes import IGNORED, Colour
from pipeline.data.formats.pairing import Pairs, match
from pipeline.data.formats.picture_files import PathsByStem, pictures_below
from pipeline.data.image_reader import Unreadable
from pipeline.data.label_mapping import Labels
from pipeline.data.masks import open_mask
from pipeline.data.sample_source import SPLIT_NAMES, Collection

IMAGES, MASKS = "leftImg8bit", "gtFine"  # folders, and parts of the file names
TRAIN_IDS, IDS = f"_{MASKS}_labelTrainIds", f"_{MASKS}_labelIds"
OTHERS = (f"_{MASKS}_color", f"_{MASKS}_instanceIds", f"_{MASKS}_instanceTrainIds")
POLYGONS = f"_{MASKS}_polygons.json"
CLASSES: dict[str, tuple[int, Colour]] = {  # name: label id, colour
    "road": (7, (128, 64, 128)),
    "sidewalk": (8, (244, 35, 232)),
    "building": (11, (70, 70, 70)),
    "wall": (12, (102, 102, 156)),
    "fence": (13, (190, 153, 153)),
    "pole": (17, (153, 153, 153)),
    "traffic light": (19, (250, 170, 30)),
    "traffic sign": (20, (220, 220, 0)),
    "vegetation": (21, (107, 142, 35)),
    "terrain": (22, (152, 251, 152)),
    "sky": (23, (70, 130, 180)),
    "person": (24, (220, 20, 60)),
    "rider": (25, (255, 0, 0)),
    "car": (26, (0, 0, 142)),
    "truck": (27, (0, 0, 70)),
    "bus": (28, (0, 60, 100)),
    "train": (31, (0, 80, 100)),
    "motorcycle": (32, (0, 0, 230)),
    "bicycle": (33, (119, 11, 32)),
}
ALL_IDS = range(34)
LOOKED_AT = 5  # masks that tell whether those of the test split are withheld


def has_cityscapes(folder: Path) -> bool:
    """Whether a folder is in the layout of Cityscapes."""
    return (folder / IMAGES).is_dir() and (folder / MASKS).is_dir()


def read_cityscapes(folder: Path, background: bool = False) -> Collection:
    """Reads a folder in the layout of Cityscapes. The 19 classes are those that are evaluated.

    A test split whose masks hold no class, as the authors give it out, is left out.

    Args:
        background: whether a picture without a mask is background; else that is a fault.

    Raises:
        UserError: there are no masks, or no training split.
    """
    pairs = Pairs(folder, background=background)
    images: dict[str, PathsByStem] = {}
    masks: dict[str, PathsByStem] = {}
    kinds: set[str] = set()
    for split, names in SPLIT_NAMES.items():
        for kind, found in ((IMAGES, images), (MASKS, masks)):
            place = next((p for name in names if (p := folder / kind / name).is_dir()), None)
            found[split] = pictures_below(place, folder, pairs.skipped) if place else {}
        kinds |= {end for end in (TRAIN_IDS, IDS) for key in masks[split] if key.endswith(end)}
    if not kinds:
        raise UserError(
            f"{folder / MASKS} has no masks that end in {TRAIN_IDS}.png or {IDS}.png; make them: "
            "csCreateTrainIdLabelImgs (of cityscapesscripts)"
        )
    ending = TRAIN_IDS if TRAIN_IDS in kinds else IDS
    labels = labels_of(ending)
    for split in SPLIT_NAMES:
        photos = shortened(images[split], f"_{IMAGES}")
        drawn = {k: v for k, v in shortened(masks[split], ending).items() if k not in masks[split]}
        if split == "test" and withheld(folder, drawn, labels):
            reason = "of the test split, whose masks hold no class"
            pairs.skipped += [(name, reason) for key in sorted(photos) for name in photos[key]]
        elif photos:
            match(pairs, split, sorted(photos.keys() | drawn.keys()), photos, drawn)
    pairs.skipped = [(name, why) for name, why in pairs.skipped if not name.endswith(POLYGONS)]
    for name in sorted(path.name for path in (folder / IMAGES).iterdir() if path.is_dir()):
        if not any(name in names for names in SPLIT_NAMES.values()):
            left = pictures_below(folder / IMAGES / name, folder, [])
            reason = f"{name}/ is none of train, val, test"
            pairs.skipped += [(path, reason) for key in sorted(left) for path in left[key]]
    return pairs.collection(labels)


def labels_of(ending: str) -> Labels:
    """Names, colours and values of the classes in masks with this ending."""
    names, (ids, colours) = tuple(CLASSES), zip(*CLASSES.values())
    mapping = {index: index for index in range(len(names))}
    if ending == IDS:
        mapping = dict.fromkeys(ALL_IDS, IGNORED) | {value: k for k, value in enumerate(ids)}
    return Labels(names, colours, mapping, False, frozenset({IGNORED}), True)


def shortened(paths: PathsByStem, ending: str) -> PathsByStem:
    """The pictures without an ending of their keys; others keep them, unless they are no masks."""
    return {
        key.removesuffix(ending): names
        for key, names in paths.items()
        if not key.endswith((*OTHERS, *({TRAIN_IDS, IDS} - {ending})))
    }


def withheld(folder: Path, masks: PathsByStem, labels: Labels) -> bool:
    """Whether none of the first masks of a split holds a class."""
    for names in itertools.islice(masks.values(), LOOKED_AT):
        try:
            values = open_mask(folder / names[0], os.fspath(names[0])).counts
        except Unreadable:
            return False
        if any(labels.mapping.get(value, IGNORED) != IGNORED for value in values):
            return False
    return True
