"""YOLO segmentation: one text file of polygons for each picture, with or without a data.yaml.

The format: https://docs.ultralytics.com/datasets/segment. A line is a class and a polygon, x and y
as shares of the picture's sides: `0 0.1 0.1 0.4 0.1 0.4 0.6`. A picture without a file is one
without objects.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.base.console import UserError
from pipeline.data.formats.drawn_masks import as_mask, shown_size
from pipeline.data.formats.pairing import Pairs, match
from pipeline.data.formats.picture_files import PathsByStem, normal, pictures_below, stem
from pipeline.data.formats.polygons import INVALID, classes_with, outline, paint
from pipeline.data.formats.ultralytics import (
    list_unused,
    listed_names,
    load,
    mask_path,
    root_of,
    split_paths,
)
from pipeline.data.image_reader import Unreadable
from pipeline.data.label_mapping import Labels
from pipeline.data.sample_source import SPLIT_NAMES, Collection
from pipeline.data.text_files import lines_of, with_slashes

OUTSIDE = 0.01  # shares by which a point may lie outside of the picture, as Ultralytics allows
BOX = 4  # numbers of a box
NAME_LISTS = ("classes.txt", "obj.names", "labels/classes.txt", "labels.txt")  # without data.yaml
NOUN = "file in labels/"
LOOKED_AT = 50  # lines of a list, or files, that tell what a data set is


# --- which data sets are of this kind -------------------------------------------------------


def has_polygons(path: Path) -> bool:
    """Whether a data.yaml is of text files in labels/, and there is no folder of masks."""
    try:
        content = load(path)
        root = root_of(path, content)
    except (UserError, OSError):
        return False
    if content.get("masks_dir"):
        return False
    for name in split_paths(root, content).get("train", ()):
        images = [name]
        if name.is_file():
            lines = itertools.islice((line for line in lines_of(name) if line.strip()), LOOKED_AT)
            images = [image_of(root, name, line) for line in lines]
        for image in images:
            masks, label = mask_path(image, root, "masks"), label_path(image)
            if (masks if image.is_dir() else masks.parent).is_dir():
                return False
            if label.is_file() or (image.is_dir() and any(texts_below(label))):
                return True
    return False


def labels_below(folder: Path) -> bool:
    """Whether a folder has images/ and labels/ with text files of numbers, without a data.yaml."""
    for images in folders_of(folder).values():
        for file in itertools.islice(texts_below(label_path(images)), LOOKED_AT):
            for line in lines_of(file):
                if len(fields := line.split()) > BOX and all(map(is_number, fields)):
                    return True
    return False


def folders_of(folder: Path) -> dict[str, Path]:
    """The folders of images of every split, images/NAME or NAME/images; or images/ for training."""
    folders = {}
    for split, names in SPLIT_NAMES.items():
        for name in names:
            for candidate in (folder / "images" / name, folder / name / "images"):
                if candidate.is_dir() and split not in folders:
                    folders[split] = candidate
    return folders or {"train": folder / "images"}


def texts_below(folder: Path) -> Iterator[Path]:
    """The text files of objects in a folder and its subfolders."""
    for parent, _, names in os.walk(folder):
        for name in sorted(names):
            if name.lower().endswith(".txt") and name != "classes.txt" and name[0] != ".":
                yield Path(parent, name)


def label_path(image: Path) -> Path:
    """The file of an image's objects, or the folder of these: the last `images` becomes `labels`.

    Without one, they lie beside the images.
    """
    parts = list(image.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    path = Path(*parts)
    return path if image.is_dir() or path.name == "labels" else path.with_name(
        f"{stem(path.name)}.txt"
    )  # fmt: skip


def image_of(root: Path, listing: Path, line: str) -> Path:
    """The image that a line of a list names, relative to the list or to the data set."""
    written = (line.strip(), with_slashes(line.strip()))
    candidates = [
        Path(os.path.normpath(folder / name))
        for name in written
        for folder in (listing.parent, root)
    ]
    return next((path for path in candidates if path.exists()), candidates[-1])


def is_number(text: str) -> bool:
    """Whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


# --- reading --------------------------------------------------------------------------------


def read_polygons(path: Path) -> Collection:
    """Reads a data.yaml of polygons, or a folder with images/ and labels/.

    Class 0 is the background, which no polygon covers; then come the classes that have objects, in
    their order. Where objects overlap, the mask shows the smaller one.

    Raises:
        UserError: the data.yaml is not valid, something that it names is missing, or there are
            boxes in place of polygons.
    """
    if path.is_dir():
        root, pairs = path, Pairs(path, noun=NOUN)
        paths = {split: [folder] for split, folder in folders_of(path).items()}
        names, file = listed(path, pairs), path
    else:
        content = load(path)
        root = root_of(path, content)
        pairs = Pairs(root, extra=[path], noun=NOUN)
        paths, names, file = split_paths(root, content), listed_names(path, content), path
    for split, folders in paths.items():
        for folder in folders:
            add(pairs, split, folder, file)
    list_unused(pairs)
    used = classes_in(pairs, file)
    names = names or tuple(f"class {number}" for number in range(max(used, default=0) + 1))
    known = [number for number in sorted(used) if number < len(names)]
    try:
        classes = classes_with((names[number] for number in known), file)
    except ValueError as error:
        raise UserError(str(error)) from None
    index = {number: classes.index(names[number]) for number in known}
    pairs.skipped += [
        (f"class {name}", "has no object") for k, name in enumerate(names) if k not in used
    ]
    pairs.draw = functools.partial(draw, index, names)
    return pairs.collection(Labels(classes))


def listed(folder: Path, pairs: Pairs) -> tuple[str, ...]:
    """The names in a list of classes in a folder; () if there is none."""
    for name in NAME_LISTS:
        if (path := folder / name).is_file():
            pairs.extra.append(path)
            return tuple(line.strip() for line in lines_of(path) if line.strip())
    return ()


def add(pairs: Pairs, split: str, path: Path, source: Path) -> None:
    """Adds the pictures of a folder, or of a list of files, to a split.

    Args:
        pairs: changed in place.
        split: "train", "validation" or "test".
        path: of the folder or list.
        source: the data.yaml or the folder, for messages.
    """
    images: PathsByStem = {}
    if path.is_dir():
        images = pictures_below(path, pairs.folder, pairs.skipped)
        folder = label_path(path)
        labels = {
            normal(file.relative_to(folder).as_posix()[:-4]): [os.path.relpath(file, pairs.folder)]
            for file in texts_below(folder)
        }
    elif path.is_file():
        pairs.extra.append(path)
        labels = {}
        for line in lines_of(path):
            if line.strip():
                image = image_of(pairs.folder, path, line)
                name, label = (os.path.relpath(p, pairs.folder) for p in (image, label_path(image)))
                images[stem(name)] = [name]
                if (pairs.folder / label).is_file():
                    labels[stem(name)] = [label]
    else:
        raise UserError(f"{path} is missing; {source} names it as {split}; correct it")
    if not labels:
        if split == "train":
            raise UserError(f"{label_path(path)} has no text files with the objects of {path}")
        reason = "of a split without files of objects"
        pairs.skipped += [(name, reason) for key in sorted(images) for name in images[key]]
        return
    empty = sorted(key for key in images if key not in labels and len(images[key]) == 1)
    match(pairs, split, sorted((images.keys() | labels.keys()) - set(empty)), images, labels)
    pairs.splits[split] += [(images[key][0], "") for key in empty]
    if empty:
        pairs.notes.append(
            f"note: {len(empty)} pictures of {split} have no file in labels/, such as "
            f"{images[empty[0]][0]}: without objects, as YOLO takes them"
        )


def classes_in(pairs: Pairs, source: Path) -> set[int]:
    """The classes that have objects; raises UserError if all objects are boxes."""
    used, boxes, polygons = set(), 0, 0
    labels = (label for split in pairs.splits.values() for _, label in split if label)
    for label in labels:
        try:
            lines = lines_of(pairs.folder / label)
        except OSError:  # a fault of this picture, when its mask is drawn
            continue
        for fields in map(str.split, lines):
            if fields and is_number(fields[0]) and abs(float(fields[0])) < 1e6:
                used.add(int(float(fields[0])))
                boxes, polygons = (
                    boxes + (len(fields) == 1 + BOX),
                    polygons + (len(fields) > 1 + BOX),
                )
    if boxes and not polygons:
        raise UserError(
            f"{source} has boxes (a class and {BOX} numbers a line) and no polygons; export "
            "polygons or masks from your labelling tool"
        )
    return used


def draw(index: dict[int, int], names: tuple[str, ...], image: Path, label: Path | None) -> bytes:
    """Draws the mask of one picture as PNG: class indices, 0 where there is no object.

    Args:
        index: class index by the number in the file.
        names: of the classes in the file, for messages.
        image: of which the size counts.
        label: the file of its objects; None for none.

    Raises:
        Unreadable: the image cannot be read, or a line is not a class and a polygon.
    """
    height, width, turn = shown_size(image)
    shapes = []
    try:
        lines: Iterable[str] = lines_of(label) if label else ()
    except OSError as error:
        raise Unreadable(f"{label} cannot be read ({error.strerror})") from None
    for number, line in enumerate(lines, start=1):
        try:
            if not (fields := line.split()):
                continue
            value, shares = int(float(fields[0])), [float(field) for field in fields[1:]]
            if value not in index:
                raise ValueError(f"there are {len(names)} classes, 0..{len(names) - 1}")
            if len(shares) == BOX:
                raise ValueError("it is a box, not a polygon")
            if not all(-OUTSIDE <= share <= 1 + OUTSIDE for share in shares):
                raise ValueError("points must be shares of the picture's sides, 0..1")
            sides = itertools.cycle((width, height))
            polygon = [share * side for share, side in zip(shares, sides)]
            shapes.append((index[value], outline([polygon], height, width)))
        except INVALID as error:
            reason = f"line {number}: {error}".partition("\n")[0]
            raise Unreadable(f"{label} cannot be drawn ({reason})") from None
    return as_mask(paint(shapes, height, width), turn)
