"""Finds the folders of images and masks of a data set, and the pictures in them.

In this order: folders called so (images/, Masks/ ...); masks called so, and images in the folder
beside them or in folders called train ...; images and masks in the same folders, told by endings.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from pipeline.base.console import UserError
from pipeline.data.folder_flags import Folders
from pipeline.data.formats import endings
from pipeline.data.formats.endings import NONE, Ending
from pipeline.data.formats.folder_roles import (
    EXACT,
    IMAGES,
    LOOSE,
    MASKS,
    WORDS,
    Reading,
    keyed,
    place_of,
    survey,
)
from pipeline.data.formats.picture_files import ARRAYS, PathsByStem, pictures_below
from pipeline.data.image_reader import opened

VOC = "jpegimages"  # folder of images of Pascal VOC


class Layout(NamedTuple):
    """Which folders hold images and which hold masks; paths are relative to the data set's."""

    images: tuple[str, ...]
    masks: tuple[str, ...]  # the same as `images`, if they hold both
    others: tuple[str, ...] = ()  # folders with pictures that are not read
    by_name: bool = True  # whether folders of images are called so; else they hold pictures only
    reading: Reading = EXACT  # of the names of folders
    given: bool = False  # whether the command line names both folders

    @property
    def is_voc(self) -> bool:
        """Whether it is that of Pascal VOC."""
        return self.by_name and place_of(Path(self.images[0]).parts).word == VOC


class Found(NamedTuple):
    """The pictures of a layout, by split ("" for none) and key."""

    images: dict[str, PathsByStem]
    masks: dict[str, PathsByStem]
    ending: tuple[Ending, Ending]  # of images and of masks
    note: str  # what was found out, or ""


# --- folders ------------------------------------------------------------------------------


def layout_of(folder: Path, suffix: str | None = None) -> Layout | None:
    """The folders of images and masks of a data set; None if it has no layout that is known.

    Args:
        suffix: of --mask-suffix.
    """
    layout = layout_with(folder, suffix, EXACT)
    if layout is None:
        loose = layout_with(folder, suffix, LOOSE)
        layout = loose if loose and number_of_pairs(folder, loose, suffix) else None
    return layout


def layout_with(folder: Path, suffix: str | None, reading: Reading) -> Layout | None:
    """As `layout_of`, with one reading of the names of folders."""
    found = survey(folder, ARRAYS, reading)
    others = tuple(sorted(found.others))
    images, masks = (found.best(role, reading) for role in (IMAGES, MASKS))
    if images and masks:
        bases = set.intersection(*({base(p, reading) for p in paths} for paths in (images, masks)))
        bases = {()} if () in bases else bases
        if bases:
            images, masks = (
                tuple(path for path in paths if base(path, reading) in bases)
                for paths in (images, masks)
            )
            unread = {*found.roots[IMAGES], *found.roots[MASKS]} - {*images, *masks}
            return Layout(images, masks, (*others, *sorted(unread)), reading=reading)
    candidates = []
    if masks and others:
        candidates.append(Layout(others, masks, by_name=False, reading=reading))
        for name in sorted({Path(other).name for other in others} - {""}):
            with_name = tuple(other for other in others if name in Path(other).parts)
            one_more = reading._replace(extra=name)
            candidates.append(Layout(with_name, masks, by_name=False, reading=one_more))
    elif images and not masks:
        candidates.append(Layout(images, images, reading=reading))
    elif others:
        candidates.append(Layout(others, others, by_name=False, reading=reading))
    numbers = [number_of_pairs(folder, layout, suffix) for layout in candidates]
    if not any(numbers):
        return None
    best = candidates[numbers.index(max(numbers))]
    return best._replace(others=tuple(name for name in others if name not in best.images))


def named_layout(folders: Folders) -> Layout:
    """The folders that the command line names."""
    roots = [os.path.relpath(str(folder), folders.common) for folder in folders[:2]]
    return Layout((roots[0],), (roots[1],), given=True)


def base(root: str, reading: Reading) -> tuple[str, ...]:
    """The folders above a folder of images or masks, without those of splits."""
    return place_of(Path(root).parts, reading=reading).base


def number_of_pairs(folder: Path, layout: Layout, suffix: str | None) -> int:
    """How many images have a mask; 1 if that is not clear."""
    try:
        found = find_pictures(folder, layout, suffix, [])
    except UserError:
        return 1 if suffix is None else 0
    return sum(
        len(keys.keys() & found.masks.get(split, {}).keys()) for split, keys in found.images.items()
    )


# --- pictures -----------------------------------------------------------------------------


def find_pictures(
    folder: Path, layout: Layout, suffix: str | None, skipped: list[tuple[str, str]]
) -> Found:
    """Lists the pictures of a layout, and takes the endings off their names.

    Args:
        suffix: of --mask-suffix; None to find it.
        skipped: files that are no images and no masks are added to it, each with the reason.

    Raises:
        UserError: no mask has this suffix, or two endings of masks fit.
    """
    images = listed(folder, layout, IMAGES, skipped)
    masks = images if layout.images == layout.masks else listed(folder, layout, MASKS, skipped)
    if images is masks:
        return told_apart(folder, layout, images, suffix)
    if layout.given:  # the one may lie below the other
        if layout.masks[0] == os.curdir:
            masks = without(masks, images)
        images = without(images, masks)
    if suffix is None:
        image_ending, mask_ending, rivals = endings.find(all_keys(images), all_keys(masks))
        refuse_rivals(folder, rivals)
    else:
        image_ending, mask_ending = NONE, Ending("", suffix)
    shared = shorten(masks, mask_ending, skipped, f"does not have {mask_ending} in its name")
    if suffix is not None and not all_keys(shared):
        refuse_suffix(folder, suffix, masks)
    note = f"note: masks are paired by {mask_ending} in their names" if mask_ending != NONE else ""
    images = shorten(images, image_ending, skipped, f"does not have {image_ending} in its name")
    return Found(images, shared, (image_ending, mask_ending), note)


def without(
    paths: dict[str, PathsByStem], others: dict[str, PathsByStem]
) -> dict[str, PathsByStem]:
    """The pictures that are not all among some others, by split and key."""
    inside = {name for keys in others.values() for names in keys.values() for name in names}
    return {
        split: {key: names for key, names in keys.items() if not inside.issuperset(names)}
        for split, keys in paths.items()
    }


def told_apart(
    folder: Path, layout: Layout, pictures: dict[str, PathsByStem], suffix: str | None
) -> Found:
    """The images and the masks of folders that hold both; see `find_pictures`.

    If the command line names one folder twice and no name ends like a mask's, each picture is its
    own mask, in its transparency.
    """
    keys = all_keys(pictures)
    if suffix is None:
        image_ending, mask_ending, rivals = endings.find_mixed(keys)
        refuse_rivals(folder, rivals)
    else:
        image_ending, mask_ending = NONE, Ending("", suffix)
        if not any(mask_ending.shared(key) for key in keys):
            refuse_suffix(folder, suffix, pictures)
    if mask_ending == NONE:
        own = pictures if layout.given else {}
        if own:
            refuse_opaque(folder, own)
        return Found(pictures, own, (NONE, NONE), "")
    is_mask = {key for key in keys if mask_ending.shared(key)}
    images, masks = (
        {
            split: {key: names for key, names in by_key.items() if (key in is_mask) == wanted}
            for split, by_key in pictures.items()
        }
        for wanted in (False, True)
    )
    note = f"note: pictures with {mask_ending} in their names are the masks of the others"
    images = shorten(images, image_ending, None, "")
    return Found(images, shorten(masks, mask_ending, None, ""), (image_ending, mask_ending), note)


def refuse_opaque(folder: Path, pictures: dict[str, PathsByStem]) -> None:
    """Raises UserError if the first picture that is to be its own mask has no transparency."""
    names = [names[0] for by_key in pictures.values() for names in by_key.values()]
    for name in sorted(names)[:1]:
        with opened(folder / name, str(folder / name)) as picture:
            if picture.has_transparency_data:
                return
        raise UserError(
            f"--images and --masks are both {folder}, where no name ends as that of a mask, and "
            f"{name} has no transparency that could be its mask; tell masks by --mask-suffix TEXT"
        )


def refuse_rivals(folder: Path, rivals: list[Ending]) -> None:
    """Raises UserError if there is more than one ending that masks may have."""
    if rivals:
        choices = " or ".join(f"--mask-suffix {ending.after}" for ending in rivals if ending.after)
        listing = " and with ".join(map(str, rivals))
        raise UserError(
            f"{folder} has masks with {listing} in their names; say which are to be read: "
            f"{choices or 'move the others away'}"
        )


def refuse_suffix(folder: Path, suffix: str, masks: dict[str, PathsByStem]) -> None:
    """Raises UserError: no mask ends in the suffix of the command line."""
    first = min((name for keys in masks.values() for names in keys.values() for name in names),
                default="none")  # fmt: skip
    raise UserError(
        f"--mask-suffix {suffix}: no mask below {folder} has a name that ends so (the first is "
        f"{first}); correct it"
    )


def all_keys(paths: dict[str, PathsByStem]) -> set[str]:
    """The keys of all splits."""
    return {key for by_key in paths.values() for key in by_key}


def shorten(
    paths: dict[str, PathsByStem],
    ending: Ending,
    skipped: list[tuple[str, str]] | None,
    reason: str,
) -> dict[str, PathsByStem]:
    """The pictures by key without an ending; those that lack it are added to `skipped`.

    None for `skipped`: these keep their keys.
    """
    if ending == NONE:
        return paths
    shared: dict[str, PathsByStem] = {}
    for split, by_key in paths.items():
        for key, names in by_key.items():
            short = ending.shared(key)
            if short is None and skipped is not None:
                skipped += [(name, reason) for name in names]
            else:
                shared.setdefault(split, {}).setdefault(short or key, []).extend(names)
    return shared


def listed(
    folder: Path, layout: Layout, role: str, skipped: list[tuple[str, str]]
) -> dict[str, PathsByStem]:
    """The pictures of the folders of one role, by split and key.

    The key of a picture is its path without the names that say what it is and the file's suffix.
    """
    roots, more = (layout.images, ()) if role == IMAGES else (layout.masks, ARRAYS)
    recursive = role == MASKS or layout.by_name
    names = [
        (root, name)
        for root in roots
        for paths in pictures_below(folder / root, folder, skipped, more, recursive).values()
        for name in paths
    ]
    if not layout.given:
        return keyed((name for _, name in names), more, layout.reading)
    below = {name: (WORDS[role][0], os.path.relpath(name, root)) for root, name in names}
    return keyed(below, more, paths={name: os.path.join(*parts) for name, parts in below.items()})
