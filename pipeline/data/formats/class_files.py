"""Files beside folders of masks that say which class a value or a colour is.

labelmap.txt (CVAT), _classes.csv (Roboflow: value and name), class_dict.csv (name, red, green,
blue).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from pipeline.base.console import UserError
from pipeline.data.classes import Colour
from pipeline.data.label_mapping import Labels, by_colour, fault_of_names, read_labelmap
from pipeline.data.text_files import lines_of

LABELMAP, BY_VALUE, BY_COLOUR = "labelmap.txt", "_classes.csv", "class_dict.csv"


def labels_in(
    folders: Iterable[Path], void: Colour, coloured: bool
) -> tuple[Labels | None, list[Path]]:
    """The labels that files in some folders state, and these files; None if there are none.

    Args:
        void: colour that is ignored where a labelmap.txt is.
        coloured: whether the masks are in colours; else a table of colours says nothing.

    Raises:
        UserError: a file has another form, or two of them differ.
    """
    readers = {LABELMAP: lambda path: read_labelmap(path, void), BY_VALUE: read_values}
    if coloured:
        readers[BY_COLOUR] = read_colours
    for name, read in readers.items():
        files = sorted({path for folder in folders if (path := folder / name).is_file()})
        if files:
            labels = [read(path) for path in files]
            for path, other in zip(files, labels):
                if other != labels[0]:
                    raise UserError(f"{files[0]} and {path} differ; make them the same")
            return labels[0], files
    return None, []


def rows_of(path: Path, columns: int) -> list[list[str]]:
    """The rows of a CSV file after its header, each with at least so many columns.

    Raises:
        UserError: a row has fewer.
    """
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines_of(path)) if any(row)]
    except csv.Error as error:
        raise UserError(f"{path} is not a table ({error}); correct it") from None
    for row in rows[1:]:
        if len(row) < columns:
            raise UserError(f"{path}: the row {','.join(row)!r} has fewer than {columns} columns")
    return rows[1:]


def read_values(path: Path) -> Labels:
    """Reads a _classes.csv: one row `value, name` per class, below a header.

    Raises:
        UserError: a row has another form.
    """
    rows = rows_of(path, 2)
    names = tuple(row[1] for row in rows)
    try:
        values = [int(row[0]) for row in rows]
    except ValueError:
        raise UserError(f"{path}: each row must be VALUE,NAME, with whole numbers") from None
    if len(set(values)) < len(values):
        raise UserError(f"{path}: two classes have the same value; give each its own")
    if fault := fault_of_names(names):
        raise UserError(f"{path}: {fault}")
    mapping = {value: index for index, value in enumerate(values)}
    return Labels(names, None, mapping, of_source=True)


def read_colours(path: Path) -> Labels:
    """Reads a class_dict.csv: one row `name,red,green,blue` per class, below a header.

    Raises:
        UserError: a row has another form.
    """
    rows = rows_of(path, 4)
    names = tuple(row[0] for row in rows)
    fields = (row[1:4] for row in rows)
    colours, mapping = by_colour(path, names, fields, "row must be NAME,RED,GREEN,BLUE")
    return Labels(names, colours, mapping, True, of_source=True)
