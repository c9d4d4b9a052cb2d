"""Oxford-IIIT Pet as its authors give it out: images.tar.gz and annotations.tar.gz, unpacked.

https://www.robots.ox.ac.uk/~vgg/data/pets: images/NAME.jpg, annotations/trimaps/NAME.png with the
values 1 (pet), 2 (background) and 3 (border), annotations/trainval.txt and test.txt.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.data.classes import PET_COLOURS, PET_NAMES
from pipeline.data.folder_flags import Folders
from pipeline.data.formats.folder_layout import read_folder
from pipeline.data.label_mapping import Labels
from pipeline.data.sample_source import Collection
from pipeline.data.text_files import lines_of

LISTS = ("trainval.txt", "test.txt")
BOXES = "annotations/xmls"  # of the heads
COLUMNS = 4  # of a list: name, class, species, breed


def has_trimaps(folder: Path) -> bool:
    """Whether a folder holds the unpacked archives."""
    annotations = folder / "annotations"
    if not ((annotations / "trimaps").is_dir() and (folder / "images").is_dir()):
        return False
    lists = [path for name in LISTS if (path := annotations / name).is_file()]
    lines = [line.split() for path in lists for line in lines_of(path)[:1]]
    return bool(lines) and all(
        len(line) == COLUMNS and all(map(str.isdecimal, line[1:])) for line in lines
    )


def read_trimaps(folder: Path, background: bool = False) -> Collection:
    """Reads the unpacked archives, with the official splits.

    Some trimaps have another size than their photograph; as in TensorFlow Datasets, they are read.

    Args:
        background: whether a photograph without a trimap is background; else that is a fault.

    Raises:
        UserError: the photographs or the list of the training split are missing.
    """
    found = read_folder(folder, Folders(background=background))
    skipped = [(name, why) for name, why in found.skipped if not name.startswith(BOXES)]
    labels = Labels(PET_NAMES, PET_COLOURS, {1: 0, 2: 1, 3: 2})
    title = f"Oxford-IIIT Pet in {folder}"
    return replace(found, title=title, labels=labels, skipped=skipped, any_shape=True)
