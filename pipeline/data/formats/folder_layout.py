"""Folders of pictures and masks, under all usual names, and the layout of Pascal VOC and CVAT.

An image and its mask have the same path below their folders, apart from the suffix and from an
ending (p00.jpg, p00_mask.png). `folder_search` says which folders hold what.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from PIL import Image

from pipeline.base.console import UserError
from pipeline.data.folder_flags import NO_FOLDERS, Folders
from pipeline.data.formats.class_files import labels_in
from pipeline.data.formats.folder_roles import meaning
from pipeline.data.formats.folder_search import (
    Found,
    Layout,
    find_pictures,
    layout_of,
    named_layout,
)
from pipeline.data.formats.pairing import Pairs, PathsByStem, match
from pipeline.data.formats.picture_files import pictures_below, stem
from pipeline.data.image_reader import Unreadable, opened
from pipeline.data.label_mapping import Labels
from pipeline.data.sample_source import LISTED_TWICE, SPLIT_NAMES, UNPAIRED, Collection, Fault
from pipeline.data.text_files import lines_of, with_slashes

WHOLE = ("trainval", "default")  # lists of all pictures, used if no list is called train
LIST_FOLDERS = ("", "ImageSets/Segmentation", "splits", "annotations")
VOID_COLOUR, VOID = (224, 224, 192), 255  # Pascal VOC: borders of objects, ignored
UNUSED = "in a folder that is not read; --images DIR --masks DIR name others"


def read_folder(folder: Path, folders: Folders = NO_FOLDERS) -> Collection:
    """Reads a folder in a layout that `layout_of` knows, or the folders of the command line.

    Splits are folders called train, val, test ... above or below those of images and masks, or
    text files with one name per line (train.txt ...) in the folder, in splits/ or where Pascal VOC
    has them. Without splits, all pictures are in the training split.

    Args:
        folder: of the data set; nothing if `folders` names those of images and masks.

    Raises:
        UserError: the folder has no such layout, a split has images but no masks, or there is no
            training split; no mask has the suffix of the command line.
    """
    if folders.images:
        folder = folders.common
        layout: Layout | None = named_layout(folders)
    else:
        layout = layout_of(folder, folders.suffix)
    if layout is None:
        raise UserError(
            f"{folder} has no folder of images with a folder of masks beside it; add "
            "masks/NAME.png for each images/NAME.jpg, or name both: --images DIR --masks DIR"
        )
    pairs = Pairs(folder, background=folders.background)
    found = find_pictures(folder, layout, folders.suffix, pairs.skipped)
    if found.note:
        pairs.notes.append(found.note)
    for other in layout.others:
        list_unused(pairs, other, layout.reading.loose)
    pair_up(pairs, layout, found)
    return pairs.collection(labels_of(folder, layout, pairs))


def pair_up(pairs: Pairs, layout: Layout, found: Found) -> None:
    """Pairs the images and masks that were found, split by split.

    Raises:
        UserError: a split has images in a folder called so, and no masks.
    """
    if any(found.images):  # a split has a name
        match_splits(pairs, layout, found)
    else:
        images, masks = found.images.get("", {}), found.masks.get("", {})
        if lists := lists_of(pairs.folder):
            match_lists(pairs, lists, found, images, masks)
        elif layout.is_voc and not pairs.background:  # most pictures have boxes and no mask
            match(pairs, "train", sorted(masks), images, masks)
            without = [name for key in sorted(images.keys() - masks.keys()) for name in images[key]]
            pairs.skipped += [(name, "no mask in SegmentationClass") for name in without]
        else:
            match(pairs, "train", sorted(images.keys() | masks.keys()), images, masks)
        for split in found.masks.keys() - {""}:
            skip(pairs, found.masks[split], "a mask of a split that has no images")


def list_unused(pairs: Pairs, name: str, loose: bool) -> None:
    """Lists the pictures of a folder that is not read; with those below it, if it has a role."""
    has_role = any(meaning(part, loose).word for part in Path(name).parts)
    paths = pictures_below(pairs.folder / name, pairs.folder, [], recursive=has_role)
    skip(pairs, paths, UNUSED)


def skip(pairs: Pairs, paths: PathsByStem, reason: str) -> None:
    """Lists pictures as left out."""
    pairs.skipped += [(name, reason) for key in sorted(paths) for name in paths[key]]


def match_splits(pairs: Pairs, layout: Layout, found: Found) -> None:
    """Pairs the images and masks of every split that has a folder; lists all others.

    Raises:
        UserError: a split has images in a folder called so, and no masks.
    """
    for split in SPLIT_NAMES:
        images, masks = found.images.get(split, {}), found.masks.get(split, {})
        if not images:
            skip(pairs, masks, "a mask of a split that has no images")
        elif masks:
            match(pairs, split, sorted(images.keys() | masks.keys()), images, masks)
        elif layout.by_name:
            image_folder = os.path.dirname(images[min(images)][0])
            mask_folder = in_masks(image_folder, layout)
            raise UserError(
                f"{pairs.folder / image_folder} exists, but its masks {pairs.folder / mask_folder} "
                "do not; add them, or remove the images"
            )
        else:
            skip(pairs, images, "of a split that has no masks")
    loose = layout.reading.loose
    for paths in (found.images.get("", {}), found.masks.get("", {})):
        for key in sorted(paths):
            for name in paths[key]:
                beside = [part for part in Path(name).parts[:-1] if not meaning(part, loose).word]
                where = f"{beside[-1]}/ is" if beside else "is in the folder"
                reason = f"{where} none of train, val, test"
                if not beside:
                    reason = "beside the folders of the splits"
                pairs.skipped.append((name, f"{reason}; to use it, call its folder so"))


def in_masks(folder: str, layout: Layout) -> str:
    """The folder of the masks of a folder of images."""
    loose, mask_folder = layout.reading.loose, Path(layout.masks[0]).name
    word = meaning(mask_folder, loose).word or mask_folder
    parts = []
    for part in Path(folder).parts:
        said = meaning(part, loose)
        parts.append(part.lower().replace(said.word, word) if said.word else part)
    return os.path.join(*parts)


def lists_of(folder: Path) -> dict[str, Path]:
    """The text files that list the names of each split; {} if there is none for training."""
    texts: dict[str, Path] = {}  # by name in lower case, without suffix
    for parent in LIST_FOLDERS:
        files = sorted(path for path in (folder / parent).glob("*.txt") if path.is_file())
        texts |= {path.stem.lower(): path for path in files}
    lists = {}
    for split, names in SPLIT_NAMES.items():
        for name in names + (WHOLE if split == "train" else ()):
            if name in texts and split not in lists:
                lists[split] = texts[name]
    return lists if "train" in lists else {}


def match_lists(
    pairs: Pairs, lists: dict[str, Path], found: Found, images: PathsByStem, masks: PathsByStem
) -> None:
    """Pairs the images and masks of every split whose names are listed in a text file.

    Args:
        pairs: pairs, faults and images that no list names are added to it.
        lists: the text file of each split.
        found: what the names of images end in.
        images: paths of images, by key.
        masks: paths of masks, by key.
    """
    listed: dict[str, Path] = {}
    for split, path in lists.items():
        pairs.extra.append(path)
        keys = []
        for line in lines_of(path):
            if not line.strip():
                continue
            key = next((key for key in keys_of(line, found) if key in images), None)
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


def keys_of(line: str, found: Found) -> list[str]:
    """Keys that a line of a list may stand for.

    A line is one name, which may have spaces, or several columns of which the first one counts;
    either with or without suffix, folders, and the ending of images; with "/" or backslashes.
    """
    whole, first = line.strip(), line.split()[0]
    names = [stem(whole), stem(first)]
    names += [stem(with_slashes(name)) for name in (whole, first) if "\\" in name]
    for name in list(names):
        parts = name.split("/")
        for number, part in enumerate(parts[:-1], start=1):
            if meaning(part).word:
                names.append("/".join(parts[number:]))
    return names + [key for name in names if (key := found.ending[0].shared(name))]


def labels_of(folder: Path, layout: Layout, pairs: Pairs) -> Labels:
    """Labels from a file beside the folders; without one, VOID is ignored in Pascal VOC."""
    roots = [folder / root for root in (*layout.images, *layout.masks)]
    places = dict.fromkeys([folder, *roots, *(root.parent for root in roots)])
    inside = [place for place in places if place == folder or folder in place.parents]
    labels, files = labels_in(inside, VOID_COLOUR, coloured(pairs))
    pairs.extra += files
    if labels:
        return labels
    return Labels(ignored_if_present=frozenset({VOID} if layout.is_voc else ()))


def coloured(pairs: Pairs) -> bool:
    """Whether the first mask is in colours."""
    for _, mask in itertools.islice(pairs.splits.get("train", ()), 1):
        try:
            with opened(pairs.folder / mask, mask) as picture:
                small = picture.convert("RGB").resize((64, 64), Image.Resampling.NEAREST)
                red, green, blue = (channel.tobytes() for channel in small.split())
                return not red == green == blue
        except Unreadable:
            return False
    return False
