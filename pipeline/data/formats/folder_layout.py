"""Folders of pictures and masks: images/ and masks/, and the layout of Pascal VOC and CVAT.

An image and its mask have the same path below these folders, apart from the suffix.
"""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

from pipeline.base.console import UserError
from pipeline.data.foreign_files import NOT_READ, kind_of_name
from pipeline.data.formats.pairing import Pairs, PathsByStem, match
from pipeline.data.image_reader import suffixes
from pipeline.data.label_mapping import Labels, read_labelmap
from pipeline.data.sample_source import LISTED_TWICE, SPLIT_NAMES, UNPAIRED, Collection, Fault

# Names of the folders of images and of masks, in this project and in other tools.
FOLDERS = (
    *(("images", "masks"), ("imgs", "masks"), ("img_dir", "ann_dir")),
    *(("images", "annotations"), ("images", "labels"), ("JPEGImages", "SegmentationClass")),
)
WHOLE = ("trainval", "default")  # lists of all pictures, used if no list is called train
OUR_OUTPUTS = (".overlay.png", ".classes.png", ".legend.png")  # by evaluation.py --image
VOID_COLOUR, VOID = (224, 224, 192), 255  # Pascal VOC: borders of objects, ignored

# --- files --------------------------------------------------------------------------------


def normal(name: str) -> str:
    """A name in Unicode form NFC; macOS stores accents as separate characters (NFD)."""
    return unicodedata.normalize("NFC", name)


def stem(path: str) -> str:
    """A path in normal form, with "/", and without the suffix if it is that of a picture."""
    root, suffix = os.path.splitext(path)
    return normal(root if suffix.lower() in suffixes() else path).replace(os.sep, "/")


def pictures_below(folder: Path, base: Path, skipped: list[tuple[str, str]]) -> PathsByStem:
    """Finds all pictures in a folder and its subfolders.

    A folder whose name has the suffix of a picture is listed as one, so that reading it is a fault.

    Args:
        folder: to search.
        base: that the listed paths are relative to.
        skipped: files that are not listed are added to it, each with the reason.

    Returns:
        Paths relative to `base`, by path relative to `folder` without suffix.
    """
    paths: PathsByStem = {}
    pending = [folder]
    while pending:
        for entry in sorted(os.scandir(pending.pop()), key=lambda entry: entry.name):
            name = os.path.relpath(entry.path, base)
            picture = os.path.splitext(entry.name)[1].lower() in suffixes()
            if entry.name.startswith("."):
                skipped.append((name, "hidden"))
            elif entry.is_dir() and entry.is_symlink() and not picture:
                skipped.append((name, "a link to a folder"))  # which may contain this one
            elif entry.is_dir() and not picture:
                pending.append(Path(entry.path))
            elif entry.name.lower().endswith(OUR_OUTPUTS):
                skipped.append((name, "drawn by evaluation.py"))
            elif not picture:
                kind = kind_of_name(entry.name)
                reason = f"{kind.name}, {NOT_READ}" if kind else "not the suffix of a picture"
                skipped.append((name, reason))
            else:
                paths.setdefault(stem(os.path.relpath(entry.path, folder)), []).append(name)
    return paths


# --- layouts ------------------------------------------------------------------------------


def layout_of(folder: Path) -> tuple[str, str] | None:
    """Names of the folders of images and masks, one of FOLDERS; None if the folder has none."""
    parents = [folder, *(folder / name for names in SPLIT_NAMES.values() for name in names)]
    for parent in parents:
        for images, masks in FOLDERS:
            if (parent / images).is_dir() and has_pictures(parent / masks):
                return images, masks
    return None


def has_pictures(folder: Path) -> bool:
    """Whether a folder or one of its subfolders holds a picture."""
    parents = [folder, *folder.iterdir()] if folder.is_dir() else []
    names = (name for parent in parents for *_, names in os.walk(parent) for name in names)
    return any(os.path.splitext(name)[1].lower() in suffixes() for name in names)


def read_folder(folder: Path) -> Collection:
    """Reads a folder in a layout that `layout_of` knows.

    Splits are subfolders of the folders of images and masks, or their parent folders, or text
    files with one name per line (train.txt ...) in the folder, in splits/ or where Pascal VOC has
    them. Without splits, all pictures are in the training split.

    Raises:
        UserError: the folder has no such layout, a split has images but no folder of masks, or
            there is no training split.
    """
    layout = layout_of(folder)
    if layout is None:
        raise UserError(
            f"{folder} has no folder of images with a folder of masks beside it; "
            "add masks/NAME.png for each images/NAME.jpg"
        )
    images, masks = layout
    pairs = Pairs(folder)
    folders = {split: split_folder(folder, images, names) for split, names in SPLIT_NAMES.items()}
    lists = {} if any(folders.values()) else lists_of(folder)
    if not any(folders.values()):
        paths = [pictures_below(folder / name, folder, pairs.skipped) for name in (images, masks)]
        if lists:
            match_lists(pairs, lists, images, *paths)
        elif images == "JPEGImages":  # in Pascal VOC, most pictures have boxes and no mask
            match(pairs, "train", sorted(paths[1]), *paths)
        else:
            match(pairs, "train", sorted(paths[0].keys() | paths[1].keys()), *paths)
    for split, image_folder in folders.items():
        if not image_folder:
            continue
        below = image_folder.name != images  # images/train, not train/images
        mask_folder = folder / masks / image_folder.name if below else image_folder.parent / masks
        if not mask_folder.is_dir():
            raise UserError(
                f"{image_folder} exists, but its masks {mask_folder} do not; add them, or remove "
                "the images"
            )
        paths = [
            pictures_below(subfolder, folder, pairs.skipped)
            for subfolder in (image_folder, mask_folder)
        ]
        match(pairs, split, sorted(paths[0].keys() | paths[1].keys()), *paths)
    return pairs.collection(labels_of(folder, images, pairs))


def split_folder(folder: Path, images: str, names: tuple[str, ...]) -> Path | None:
    """The folder of a split's images, images/NAME or NAME/images for one of `names`."""
    for name in names:
        for candidate in (folder / images / name, folder / name / images):
            if candidate.is_dir():
                return candidate
    return None


def lists_of(folder: Path) -> dict[str, Path]:
    """The text files that list the names of each split; {} if there is none for training."""
    texts: dict[str, Path] = {}  # by name in lower case, without suffix
    for parent in (folder, folder / "ImageSets" / "Segmentation", folder / "splits"):
        texts |= {path.stem.lower(): path for path in sorted(parent.glob("*.txt"))}
    lists = {}
    for split, names in SPLIT_NAMES.items():
        for name in names + (WHOLE if split == "train" else ()):
            if name in texts and split not in lists:
                lists[split] = texts[name]
    return lists if "train" in lists else {}


def match_lists(
    pairs: Pairs, lists: dict[str, Path], folder: str, images: PathsByStem, masks: PathsByStem
) -> None:
    """Pairs the images and masks of every split whose names are listed in a text file.

    Args:
        pairs: pairs, faults and images that no list names are added to it.
        lists: the text file of each split.
        folder: name of the folder of images, which lines may begin with.
        images: paths of images, by key.
        masks: paths of masks, by key.
    """
    listed: dict[str, Path] = {}
    for split, path in lists.items():
        pairs.extra.append(path)
        keys = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if not line.strip():
                continue
            key = next((key for key in keys_of(line, folder) if key in images), None)
            if key is None:
                text = f"{path} lists {line.strip()}, but there is no such image"
                pairs.faults.append(Fault(UNPAIRED, f"{text}; remove it from the list, or add it"))
            elif key in listed:
                text = f"{line.strip()} is in {listed[key]} and in {path}"
                pairs.faults.append(Fault(LISTED_TWICE, f"{text}; keep it in one of them"))
            else:
                listed[key] = path
                keys.append(key)
        match(pairs, split, keys, images, masks)
    for key in sorted(images.keys() - listed.keys()):
        pairs.skipped += [(name, "in no list") for name in images[key]]


def keys_of(line: str, folder: str) -> list[str]:
    """Keys that a line of a list may stand for.

    A line is one name, which may have spaces, or several columns of which the first one counts;
    either with or without suffix and folder.
    """
    whole, first = line.strip(), line.split()[0]
    names = [stem(whole), stem(first)]
    return names + [name.rpartition(f"{folder}/")[2] for name in names]


def labels_of(folder: Path, images: str, pairs: Pairs) -> Labels:
    """Labels from CVAT's labelmap.txt, if there is one; else VOID is ignored in Pascal VOC."""
    if (path := folder / "labelmap.txt").is_file():
        pairs.extra.append(path)
        return read_labelmap(path, VOID_COLOUR)
    return Labels(ignored_if_present=frozenset({VOID} if images == "JPEGImages" else ()))
