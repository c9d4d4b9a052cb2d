"""Files of pictures below a folder, and why each other file is left out."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

from pipeline.data.foreign_files import NOT_READ, kind_of_name
from pipeline.data.image_reader import suffixes

PathsByStem = dict[str, list[str]]  # path without suffix: all paths that have it
OUR_OUTPUTS = (".overlay.png", ".classes.png", ".legend.png")  # by evaluation.py --image
ARRAYS = (".npy",)  # suffix of masks that are NumPy arrays


def normal(name: str) -> str:
    """A name in Unicode form NFC; macOS stores accents as separate characters (NFD)."""
    return unicodedata.normalize("NFC", name)


def is_picture(name: str, more: tuple[str, ...] = ()) -> bool:
    """Whether a file name has the suffix of a picture, or one of `more`."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix in suffixes() or suffix in more


def stem(path: str, more: tuple[str, ...] = ()) -> str:
    """A path in normal form, with "/", and without the suffix if it is that of a picture."""
    return normal(os.path.splitext(path)[0] if is_picture(path, more) else path).replace(
        os.sep, "/"
    )


def pictures_below(
    folder: Path,
    base: Path,
    skipped: list[tuple[str, str]],
    more: tuple[str, ...] = (),
    recursive: bool = True,
) -> PathsByStem:
    """Finds all pictures in a folder and its subfolders.

    A folder whose name has the suffix of a picture is listed as one, so that reading it is a fault.
    A link to a folder is followed, unless that lies in this folder or holds it.

    Args:
        folder: to search.
        base: that the listed paths are relative to.
        skipped: files that are not listed are added to it, each with the reason.
        more: suffixes of files that count as pictures, too.
        recursive: whether to look into its subfolders.

    Returns:
        Paths relative to `base`, by path relative to `folder` without suffix.
    """
    paths: PathsByStem = {}
    pending = [folder]
    seen = {os.path.realpath(folder)}
    while pending:
        for entry in sorted(os.scandir(pending.pop()), key=lambda entry: entry.name):
            name = os.path.relpath(entry.path, base)
            picture = is_picture(entry.name, more)
            if entry.name.startswith("."):
                skipped.append((name, "hidden"))
            elif entry.is_dir() and not picture and not recursive:
                continue
            elif entry.is_dir() and not picture:
                target = os.path.realpath(entry.path)
                if entry.is_symlink() and any(
                    os.path.commonpath([target, other]) in (target, other) for other in seen
                ):
                    skipped.append((name, "a link to a folder that is read already"))
                    continue
                if entry.is_symlink():
                    seen.add(target)
                pending.append(Path(entry.path))
            elif entry.name.lower().endswith(OUR_OUTPUTS):
                skipped.append((name, "drawn by evaluation.py"))
            elif not picture:
                kind = kind_of_name(entry.name)
                reason = f"{kind.name}, {NOT_READ}" if kind else "not the suffix of a picture"
                skipped.append((name, reason))
            else:
                key = stem(os.path.relpath(entry.path, folder), more)
                paths.setdefault(key, []).append(name)
    return paths
