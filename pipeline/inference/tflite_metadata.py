"""TFLite metadata: what Android, MediaPipe and other runtimes read of a file before they run it.

A flatbuffer of its own in a buffer of the .tflite file. Its schema, M001, is public
(`metadata_schema.fbs` in MediaPipe and in TFLite Support), but the package that writes it, TFLite
Support, ends at Python 3.11. So it is written by hand: a table as a dictionary, field by field.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from flatbuffers import number_types

from pipeline.inference.tflite_files import SharingBuilder

BUFFER = "TFLITE_METADATA"  # what the metadata's entry in a .tflite file is called
LABELS_FILE = "labels.txt"
CONTRACT_FILE = "contract.json"

# Fields of the tables in the order of the schema. A union is two fields, its type and its value.
# Tables are left out that no image segmenter has, and fields behind the last that is used.
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
    # MediaPipe's own schema, V001: how it turns outputs into confidences.
    "ImageSegmenterOptions": ("activation", "min_parser_version"),
}
# Members of the schema's enumerations and unions, in the types that they are stored in.
RGB = np.int8(1)
AXIS_LABELS, DESCRIPTIONS = np.int8(2), np.int8(1)  # kinds of associated files
FEATURES, IMAGE = np.uint8(1), np.uint8(2)  # kinds of content
NORMALISATION = np.uint8(1)  # a kind of process unit
SOFTMAX = np.int8(2)

FLAGS = {
    np.int8: number_types.Int8Flags,
    np.uint8: number_types.Uint8Flags,
    np.uint32: number_types.Uint32Flags,
}


@dataclass(frozen=True)
class Table:
    """A table of the schema: numbers as NumPy scalars, and strings, arrays, lists and tables."""

    kind: str  # a key of FIELDS
    fields: dict[str, Any]


def metadata(contract: dict[str, Any]) -> bytes:
    """A .tflite file's contract, as `contract.describe` gives it, in the words of the schema."""
    image, logits = contract["input"], contract["output"]
    _, height, width, _ = image["shape"]
    size = {"width": np.uint32(width), "height": np.uint32(height)}
    colours = {"color_space": RGB, "default_size": Table("ImageSize", size)}
    options = {"mean": floats(image["mean"]), "std": floats(image["std"])}
    unit = {"options_type": NORMALISATION, "options": Table("NormalizationOptions", options)}
    # Integers where the tensor holds them, as MediaPipe's own writer has it.
    low, high = image["range"]
    if image["scale"] is not None:
        low, high = np.iinfo(image["type"]).min, np.iinfo(image["type"]).max
    taken = {
        "name": "image",
        "description": image["pixel"],
        "content": content(IMAGE, Table("ImageProperties", colours)),
        "process_units": [Table("ProcessUnit", unit)],
        "stats": Table("Stats", {"min": floats(low), "max": floats(high)}),
    }
    given = {
        "name": "logits",
        "description": logits["meaning"],
        "content": content(FEATURES, Table("FeatureProperties", {})),
        "associated_files": [associated_file(LABELS_FILE, AXIS_LABELS)],
    }
    # Without this MediaPipe would hand out logits as confidences.
    options = {"activation": SOFTMAX, "min_parser_version": "1.0.0"}
    inner = flatbuffer(Table("ImageSegmenterOptions", options), b"V001")
    custom = {"name": "SEGMENTER_METADATA", "data": np.frombuffer(inner, np.uint8)}
    graph = {
        "input_tensor_metadata": [Table("TensorMetadata", taken)],
        "output_tensor_metadata": [Table("TensorMetadata", given)],
        "custom_metadata": [Table("CustomMetadata", custom)],
    }
    model = {
        "name": f"segmentation, {len(logits['classes'])} classes",
        "subgraph_metadata": [Table("SubGraphMetadata", graph)],
        "associated_files": [associated_file(CONTRACT_FILE, DESCRIPTIONS)],
        "min_parser_version": "1.5.0",  # of the schema, which has had custom metadata since
    }
    return flatbuffer(Table("ModelMetadata", model), b"M001")


def floats(*values: float) -> np.ndarray:
    """Numbers as the schema has them; one stands for all channels."""
    return np.array(values, np.float32)


def content(kind: np.uint8, properties: Table) -> Table:
    """What a tensor holds."""
    return Table("Content", {"content_properties_type": kind, "content_properties": properties})


def associated_file(name: str, kind: np.int8) -> Table:
    """A file in the zip behind the model."""
    return Table("AssociatedFile", {"name": name, "type": kind})


def flatbuffer(root: Table, identifier: bytes) -> bytes:
    """A table and all that it holds as a flatbuffer of its own."""
    builder = SharingBuilder()
    builder.Finish(place_of(builder, root), identifier)
    return bytes(builder.Output())


def place_of(builder: SharingBuilder, value: str | np.ndarray | list[Any] | Table) -> int:
    """Writes a string, a vector of numbers or of tables, or a table, and returns its place.

    What a vector or a table points at is written before it, because the format nests nothing.
    """
    if isinstance(value, str):
        return builder.CreateSharedString(value)
    if isinstance(value, np.ndarray):
        return builder.CreateNumpyVector(value)
    if isinstance(value, list):
        places = [place_of(builder, each) for each in value]
        builder.StartVector(4, len(places), 4)
        for place in reversed(places):
            builder.PrependUOffsetTRelative(place)
        return builder.EndVector()
    numbers = {name: each for name, each in value.fields.items() if isinstance(each, np.generic)}
    places = {
        name: place_of(builder, each) for name, each in value.fields.items() if name not in numbers
    }
    slots = FIELDS[value.kind]
    builder.StartObject(len(slots))
    for name, place in places.items():
        builder.PrependUOffsetTRelativeSlot(slots.index(name), place, 0)
    for name, number in numbers.items():
        builder.PrependSlot(FLAGS[type(number)], slots.index(name), int(number), 0)
    return builder.EndObject()
