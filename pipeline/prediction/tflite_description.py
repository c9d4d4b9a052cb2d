"""What a .tflite file of anybody says of itself: how pixels become values, names of its classes.

It reads the TFLite metadata (schema M001, see inference/tflite_metadata.py) and the text files in
the zip archive behind the model. Our own files have both, and a contract, which says the same.
"""

from __future__ import annotations

import contextlib
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flatbuffers import encode, number_types
from flatbuffers.table import Table

from pipeline.base.archives import ZIP_ERRORS
from pipeline.base.console import UserError
from pipeline.inference import contract
from pipeline.inference.tflite_files import tables
from pipeline.inference.tflite_metadata import BUFFER, FIELDS, LABELS_FILE, NORMALISATION

LARGEST_LIST = 1 << 20  # bytes of a list of class names
# What the readers of the schema raise for tables that are damaged, which LiteRT does not look at.
DAMAGED = (
    *(struct.error, ValueError, IndexError, KeyError, TypeError, AttributeError),
    *(OverflowError, MemoryError, RecursionError),
)


@dataclass(frozen=True)
class Description:
    """What a file says of itself; None for what it does not say."""

    mean: tuple[float, ...] | None = None  # a real input value is (pixel - mean) / std,
    std: tuple[float, ...] | None = None  # one number for all channels, or one for each
    names: tuple[str, ...] | None = None  # of the classes


def describe(path: Path) -> Description:
    """Reads what a .tflite file says of itself.

    Raises:
        UserError: its list of classes is larger than LARGEST_LIST, or its contract has another.
    """
    mean, std, label_files = metadata_of(path)
    try:
        inside = contract.read(path)
    except UserError:
        inside = {}
    names = labels_of(path, label_files)
    if inside:
        in_contract = tuple(inside["output"]["classes"])
        if names is not None and len(names) != len(in_contract):
            raise UserError(
                f"{path} names {len(names)} classes in its list and {len(in_contract)} in its "
                "contract; name another file"
            )
        names = in_contract
    elif names is not None:  # blank lines at the end are no classes
        names = tuple("\n".join(names).rstrip().split("\n")) if any(names) else None
    if mean is None and inside:
        with contextlib.suppress(KeyError, TypeError, ValueError):
            image = inside["input"]
            mean, std = (float(image["mean"]),), (float(image["std"]),)
    return Description(mean, std, names)


def metadata_of(
    path: Path,
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None, list[str]]:
    """Mean and std of the normalisation of the first input, and the names of files with labels."""
    try:
        root = metadata_table(path.read_bytes())
        graphs = root and elements(root, "ModelMetadata", "subgraph_metadata")
        if not graphs:
            return None, None, []
        mean = std = None
        for image in elements(graphs[0], "SubGraphMetadata", "input_tensor_metadata")[:1]:
            for unit in elements(image, "TensorMetadata", "process_units"):
                if byte(unit, "ProcessUnit", "options_type") == NORMALISATION:
                    options = child(unit, "ProcessUnit", "options")
                    mean = floats(options, "mean") if options else None
                    std = floats(options, "std") if options else None
        files = []
        for output in elements(graphs[0], "SubGraphMetadata", "output_tensor_metadata"):
            for file in elements(output, "TensorMetadata", "associated_files"):
                files.append(text(file, "AssociatedFile", "name"))
        return (mean, std, files) if mean and std else (None, None, files)
    except DAMAGED:
        return None, None, []


def labels_of(path: Path, named: list[str]) -> tuple[str, ...] | None:
    """The class names in the zip archive behind a model, one a line; None if there are none.

    Args:
        named: files that the metadata name; without one, `labels.txt` counts.

    Raises:
        UserError: the list is larger than LARGEST_LIST.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            name = next((name for name in [*named, LABELS_FILE] if name in entries), None)
            if name is None:
                return None
            if entries[name].file_size > LARGEST_LIST:
                raise UserError(
                    f"{path}: its list of classes, {name}, has {entries[name].file_size} bytes; "
                    "name another file"
                )
            names = archive.read(name).decode("utf-8").removesuffix("\n").split("\n")
    except ZIP_ERRORS:
        return None
    return tuple(name.strip() for name in names)


# --- flatbuffers ----------------------------------------------------------------------------


def metadata_table(content: bytes) -> Table | None:
    """The table ModelMetadata of a .tflite file; None if there is none."""
    model = tables(content)
    for entry in model.metadata or []:
        data = model.buffers[entry.buffer].data
        if entry.name == BUFFER.encode() and data is not None:
            buffer = bytearray(np.asarray(data, np.uint8).tobytes())
            start = encode.Get(number_types.UOffsetTFlags.packer_type, buffer, 0)
            return Table(buffer, start)
    return None


def offset(table: Table, kind: str, name: str) -> int:
    """Where a field lies in a table; 0 if it is left out."""
    return int(table.Offset(4 + 2 * FIELDS[kind].index(name)))


def child(table: Table, kind: str, name: str) -> Table | None:
    """A table that a field refers to."""
    start = offset(table, kind, name)
    return Table(table.Bytes, table.Indirect(start + table.Pos)) if start else None


def elements(table: Table, kind: str, name: str) -> list[Table]:
    """The tables of a vector."""
    start = offset(table, kind, name)
    if not start:
        return []
    first, number = table.Vector(start), table.VectorLen(start)
    if number > len(table.Bytes):
        raise ValueError("the metadata are damaged")
    return [Table(table.Bytes, table.Indirect(first + 4 * k)) for k in range(number)]


def byte(table: Table, kind: str, name: str) -> int:
    """A number of one byte."""
    start = offset(table, kind, name)
    return int(table.Get(number_types.Uint8Flags, start + table.Pos)) if start else 0


def text(table: Table, kind: str, name: str) -> str:
    """A string."""
    start = offset(table, kind, name)
    value: Any = table.String(start + table.Pos) if start else b""
    return value.decode("utf-8", "replace")


def floats(table: Table, name: str) -> tuple[float, ...]:
    """A vector of float32 of the table NormalizationOptions."""
    start = offset(table, "NormalizationOptions", name)
    if not start:
        return ()
    values = table.GetVectorAsNumpy(number_types.Float32Flags, start)
    return tuple(float(value) for value in values)
