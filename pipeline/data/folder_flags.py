"""The flags that name the folders of images and masks, and the ending of the masks' names."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import NamedTuple

from pipeline.base.console import UserError


class Folders(NamedTuple):
    """What the command line says of the folders of a data set."""

    images: Path | None = None
    masks: Path | None = None
    suffix: str | None = None  # of the names of masks, before the suffix of the file
    background: bool = False  # whether a picture without a mask is background all over

    @property
    def common(self) -> Path:
        """The folder that holds both; names of pictures are relative to it.

        Raises:
            UserError: one of them is no folder.
        """
        for flag, folder in (("--images", self.images), ("--masks", self.masks)):
            if not (folder and folder.is_dir()):
                reason = "is a file" if folder and folder.is_file() else "is missing"
                raise UserError(f"{flag} {folder} {reason}; name a folder of pictures")
        return Path(os.path.commonpath([os.path.abspath(str(f)) for f in self[:2]]))


REFUSE, TAKE = "refuse", "background"  # what is done about a missing mask
NO_FOLDERS = Folders()  # the command line says nothing


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this module."""
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="folder of photographs of any name; with --masks"
    )
    parser.add_argument(
        "--masks",
        type=Path,
        metavar="DIR",
        help="folder of masks of any name, one of the same name for each photograph; may be the "
        "same folder as --images",
    )
    parser.add_argument(
        "--mask-suffix",
        metavar="TEXT",
        help="what the names of masks have at their end, as _mask in p00_mask.png for p00.jpg "
        "(default: found by itself if it is usual)",
    )

    parser.add_argument(
        "--missing-mask",
        choices=(REFUSE, TAKE),
        default=REFUSE,
        help=f"a photograph without a mask: {REFUSE} it, or take it as {TAKE} all over (default: "
        "%(default)s)",
    )


def check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Ends with a message if the flags of this module do not go with each other or with --data."""
    if bool(arguments.images) != bool(arguments.masks):
        given, missing = ("--images", "--masks") if arguments.images else ("--masks", "--images")
        parser.error(f"{given} needs {missing} DIR, too")
    others = {arguments.data, arguments.dataset} - {None, str(arguments.images)}
    if arguments.images and others:
        parser.error("--images and --masks name the data set; leave --data and --dataset out")
    if arguments.mask_suffix == "":
        parser.error("--mask-suffix is empty; write it as in --mask-suffix _mask")


def folders_of(arguments: argparse.Namespace) -> Folders:
    """What the command line says of the folders."""
    suffix = arguments.mask_suffix
    if suffix:  # "_mask.png" is meant, too
        root, extension = os.path.splitext(suffix)
        suffix = root if root and extension.lower() in (".png", ".tif", ".tiff", ".bmp") else suffix
    return Folders(arguments.images, arguments.masks, suffix, arguments.missing_mask == TAKE)
