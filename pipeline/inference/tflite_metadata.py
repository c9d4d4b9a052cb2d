"""TFLite metadata: the description of a .tflite file for Android, MediaPipe and other runtimes.

It is a flatbuffer inside a buffer of the .tflite file. Its schema, M001, is public
(`metadata_schema.fbs` in MediaPipe and in TFLite Support). The package that writes it, TFLite
Support, has no release for Python 3.12 and later, so this module builds the tables itself, from
dictionaries of their fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from flatbuffers import number_types

from pipeline.inference.tflite_files import SharingBuilder

BUFFER = "TFLITE_METADATA"  # name of the entry in a .tflite file's list of metadata
LABELS_FILE = "labels.txt"
CONTRACT_FILE = "contract.json"

# Fields of the tables in the order of the schema; a union is two fields, its type and its value.
# Left out: tables that an image segmenter does not need, and fields after the last one used.
FIELDS = {
    "ModelMetadata": (
        *("name", "description", "version", "subgraph_metadata"),
        *("author", "license", "associated_files", "min_parser_version"),
    ),
    "SubGraphMetadata": (
        *("name", "description", "input_tensor_metadata", "output_tensor_metadata"),
        *("associated_files", "input_process_units", "output_process_units"),
        *("input_tensor_groups", "output_tensor_groups", "custom_metadata"),
    ),
    "TensorMetadata": (
        *("name", "description", "dimension_names", "content"),
        *("process_units", "stats", "associated_files"),
    ),
    "Content": ("content_properties_type", "content_properties"),
    "FeatureProperties": (),
    "ImageProperties": ("color_space", "default_size"),
    "ImageSize": ("width", "height"),
    "ProcessUnit": ("options_type", "options"),
    "NormalizationOptions": ("mean", "std"),
    "Stats": ("max", "min"),
    "AssociatedFile": ("name", "description", "type"),
    "CustomMetadata": ("name", "data"),
    # From MediaPipe's own schema, V001: how outputs become confidences.
    "ImageSegmenterOptions": ("activation", "min_parser_version"),
}
# Members of the schema's enumerations and unions, as scalars of the type that is stored.
RGB = np.int8(1)  # ColorSpaceType
AXIS_LABELS, DESCRIPTIONS = np.int8(2), np.int8(1)  # AssociatedFileType
FEATURES, IMAGE = np.uint8(1), np.uint8(2)  # ContentProperties
NORMALISATION = np.uint8(1)  # ProcessUnitOptions
SOFTMAX = np.int8(2)  # Activation of ImageSegmenterOptions

FLAGS = {
    np.int8: number_types.Int8Flags,
    np.uint8: number_types.Uint8Flags,
    np.uint32: number_types.Uint32Flags,
}


@dataclass(frozen=True)
class Table:
    """A table of the schema and its fields."""

    kind: str  # name of the table, a key of FIELDS
    # Numbers are NumPy scalars of the stored type; other values as for `write`.
    fields: dict[str, Any]


def metadata(contract: dict[str, Any]) -> bytes:
    """Returns a contract, as `contract.describe` makes it, as TFLite metadata (a flatbuffer)."""
    image, logits = contract["input"], contract["output"]
    rule = image.get("picture", {})
    _, height, width, _ = image["shape"]
    size = {"width": np.uint32(width), "height": np.uint32(height)}
    colours = {"color_space": RGB, "default_size": Table("ImageSize", size)}
    scaling = {"mean": floats(image["mean"]), "std": floats(image["std"])}
    unit = {"options_type": NORMALISATION, "options": Table("NormalizationOptions", scaling)}
    # In units of the tensor: integers for a quantised input, as MediaPipe's own writer does.
    low, high = image["range"]
    if image["scale"] is not None:
        low, high = np.iinfo(image["type"]).min, np.iinfo(image["type"]).max
    input_tensor = {
        "name": "image",
        "description": "; ".join(part for part in (rule.get("meaning"), image["pixel"]) if part),
        "content": content(IMAGE, Table("ImageProperties", colours)),
        "process_units": [Table("ProcessUnit", unit)],
        "stats": Table("Stats", {"min": floats(low), "max": floats(high)}),
    }
    output_tensor = {
        "name": "logits",
        "description": logits["meaning"],
        "content": content(FEATURES, Table("FeatureProperties", {})),
        "associated_files": [associated_file(LABELS_FILE, AXIS_LABELS)],
    }
    # Without this, MediaPipe would return the logits as confidences.
    options = {"activation": SOFTMAX, "min_parser_version": "1.0.0"}
    inner = flatbuffer(Table("ImageSegmenterOptions", options), b"V001")
    custom = {"name": "SEGMENTER_METADATA", "data": np.frombuffer(inner, np.uint8)}
    graph = {
        "input_tensor_metadata": [Table("TensorMetadata", input_tensor)],
        "output_tensor_metadata": [Table("TensorMetadata", output_tensor)],
        "custom_metadata": [Table("CustomMetadata", custom)],
    }
    model = {
        "name": f"segmentation, {len(logits['classes'])} classes",
        "subgraph_metadata": [Table("SubGraphMetadata", graph)],
        "associated_files": [associated_file(CONTRACT_FILE, DESCRIPTIONS)],
        "min_parser_version": "1.5.0",  # the first version of the schema with custom metadata
    }
    return flatbuffer(Table("ModelMetadata", model), b"M001")


def floats(*values: float) -> np.ndarray:
    """A float32 vector; a single number applies to all channels."""
    return np.array(values, np.float32)


def content(kind: np.uint8, properties: Table) -> Table:
    """The Content table of a tensor: `kind` is the union's type, `properties` its value."""
    return Table("Content", {"content_properties_type": kind, "content_properties": properties})


def associated_file(name: str, kind: np.int8) -> Table:
    """Refers to a file in the zip archive behind the model."""
    return Table("AssociatedFile", {"name": name, "type": kind})


def flatbuffer(root: Table, identifier: bytes) -> bytes:
    """Returns a table, with all tables in it, as a complete flatbuffer.

    Args:
        identifier: 4 bytes that name the schema.
    """
    builder = SharingBuilder()
    builder.Finish(write(builder, root), identifier)
    return bytes(builder.Output())


def write(builder: SharingBuilder, value: str | np.ndarray | list[Table] | Table) -> int:
    """Writes a string, a vector of numbers, a vector of tables, or a table; returns its offset.

    The content of a vector or table is written before it, because flatbuffers cannot be nested
    while they are built.
    """
    if isinstance(value, str):
        return builder.CreateSharedString(value)
    if isinstance(value, np.ndarray):
        return builder.CreateNumpyVector(value)
    if isinstance(value, list):
        elements = [write(builder, element) for element in value]
        builder.StartVector(4, len(elements), 4)
        for offset in reversed(elements):
            builder.PrependUOffsetTRelative(offset)
        return builder.EndVector()
    numbers = {name: field for name, field in value.fields.items() if isinstance(field, np.generic)}
    offsets = {
        name: write(builder, field) for name, field in value.fields.items() if name not in numbers
    }
    names = FIELDS[value.kind]
    builder.StartObject(len(names))
    for name, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(names.index(name), offset, 0)
    for name, number in numbers.items():
        builder.PrependSlot(FLAGS[type(number)], names.index(name), int(number), 0)
    return builder.EndObject()
