"""The contract inside a .tflite file: what goes in, what comes out, and what it means.

Told three times, each to its own reader: as TFLite metadata to runtimes (`metadata`), and in an
ordinary zip behind the model as `labels.txt` and `contract.json`, to people and their programs:

    unzip -p int8_quantized_model.tflite labels.txt
    json.loads(zipfile.ZipFile("int8_quantized_model.tflite").read("contract.json"))

A .tflite file says itself where it ends, and a zip is read from its end, so that a file can be
both: the convention of TFLite's own metadata tools.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from pipeline.base.artifacts import DAMAGED, remedy
from pipeline.base.console import UserError
from pipeline.inference.tflite_files import SharingBuilder, compacted
from pipeline.inference.tflite_metadata import BUFFER, CONTRACT_FILE, LABELS_FILE, metadata

FORMAT = 1  # of contract.json: goes up when a field changes its meaning or goes
TYPES = {code: kind.lower() for kind, code in vars(schema.TensorType).items() if kind[0] != "_"}
# By the type of the input: what becomes of an 8-bit pixel on its way in.
PIXELS = {
    "uint8": "an 8-bit pixel goes in as it is",
    "int8": "an 8-bit pixel goes in less 128",
    "float32": "an 8-bit pixel goes in divided by 255",
}
MEANING = "argmax over the last axis: index of the class; softmax over it: probabilities"


def describe(content: bytes, classes: Sequence[str]) -> dict[str, Any]:
    """What goes into a .tflite file and comes out of it, as its own tables say.

    Args:
        content: a file from images (1, height, width, 3) to logits (1, height, width, classes).
            Pixels go in as `litert.set_image` gives them; `file_checks` has made sure that an
            int8 file's scale and zero point agree with that.
        classes: their names, in the order of the logits.

    Returns:
        What becomes contract.json. `scale` and `zero_point` are null where values are floats.
        Real values of the input, which are `(value - zero_point) * scale` where it is quantised,
        are `(pixel - mean) / std` of an 8-bit pixel and lie in `range`.

    Raises:
        UserError: the file tells more or fewer classes apart than are named, or a name has more
            than one line.
    """
    graph = schema.Model.GetRootAs(content, 0).Subgraphs(0)
    image, logits = tensor(graph.Tensors(graph.Inputs(0))), tensor(graph.Tensors(graph.Outputs(0)))
    if logits["shape"][-1] != len(classes):
        raise UserError(
            f"the file tells {logits['shape'][-1]} classes apart, {len(classes)} are named "
            f"({', '.join(classes)}); name as many as it was trained for"
        )
    if broken := [name for name in classes if len(name.splitlines()) != 1]:
        raise UserError(
            f"the class name {broken[0]!r} is not one line, as {LABELS_FILE} needs; rename it"
        )
    mean, std = 0.0, 255.0
    if image["scale"] is not None:
        darkest = np.iinfo(image["type"]).min  # what a black pixel goes in as
        mean, std = float(image["zero_point"] - darkest), round(1 / image["scale"], 4)
    return {
        "format": FORMAT,
        "input": {
            **image,
            "layout": "NHWC",
            "colours": "RGB",
            "pixel": PIXELS[image["type"]],
            "raw_pixels": image["type"] == "uint8",
            "mean": mean,
            "std": std,
            "range": [round((pixel - mean) / std, 6) for pixel in (0, 255)],
        },
        "output": {**logits, "layout": "NHWC", "classes": list(classes), "meaning": MEANING},
    }


def tensor(table: schema.Tensor) -> dict[str, Any]:
    """Name, shape and type of a tensor, and what its integers stand for."""
    found = {
        "name": table.Name().decode(),
        "shape": [int(length) for length in table.ShapeAsNumpy()],
        "type": TYPES[table.Type()],
        "scale": None,
        "zero_point": None,
    }
    quantised = table.Quantization()
    if quantised is not None and quantised.ScaleLength():
        # As short as float32 is exact: 0.003921569, not 0.003921568859368563.
        found["scale"] = float(str(np.float32(quantised.Scale(0))))
        found["zero_point"] = quantised.ZeroPoint(0)
    return found


def sign(content: bytes, classes: Sequence[str]) -> bytes:
    """The same .tflite file with its contract inside.

    It computes what it did, and stays compact. The bytes depend on nothing but the arguments, and
    signing what is signed changes nothing.

    Args:
        content: as `describe` takes it, signed already or not.
        classes: names, in the order of the logits.

    Raises:
        UserError: as `describe`.
    """
    contract = describe(content, classes)
    model = schema.ModelT.InitFromPackedBuf(compacted(content), 0)
    model.metadata = model.metadata or []
    entries = [entry for entry in model.metadata if entry.name == BUFFER.encode()]
    if not entries:
        entry = schema.MetadataT()
        entry.name, entry.buffer = BUFFER, len(model.buffers)
        model.metadata.append(entry)
        model.buffers.append(schema.BufferT())
        entries = [entry]
    model.buffers[entries[0].buffer].data = np.frombuffer(metadata(contract), np.uint8)
    builder = SharingBuilder()
    builder.Finish(model.Pack(builder), b"TFL3")
    files = {
        LABELS_FILE: "".join(f"{name}\n" for name in classes),
        CONTRACT_FILE: json.dumps(contract, indent=1, ensure_ascii=False) + "\n",
    }
    return with_zip(bytes(builder.Output()), files)


def with_zip(content: bytes, files: dict[str, str]) -> bytes:
    """Bytes with text files behind them as a zip, always the same for the same texts.

    Places in it are counted from the first byte of all, so that no reader of zips wonders what
    comes before. Nothing is compressed: MediaPipe reads the texts where they lie.
    """
    whole = io.BytesIO(content)
    whole.seek(0, io.SEEK_END)
    with zipfile.ZipFile(whole, "w") as archive:
        for name, text in files.items():
            entry = zipfile.ZipInfo(name)  # of 1 January 1980, the zip format's first day
            entry.create_system, entry.external_attr = 3, 0o100644 << 16  # Unix: rw-r--r--
            archive.writestr(entry, text)
    return whole.getvalue()


def read(path: Path) -> dict[str, Any]:
    """The contract inside a .tflite file, as `describe` made it.

    Raises:
        UserError: the file is missing, has no contract, or one of another format.
    """
    if not path.exists():
        raise UserError(f"{path} is missing; {remedy(path)}")
    try:
        with zipfile.ZipFile(path) as archive:
            contract = json.loads(archive.read(CONTRACT_FILE))
        found = contract["format"]
    except (*DAMAGED, RuntimeError, TypeError):  # a damaged zip may claim to be encrypted
        raise UserError(f"{path} has no contract inside; {remedy(path)}") from None
    if found != FORMAT:
        raise UserError(f"{path} has a contract of format {found}, not {FORMAT}; {remedy(path)}")
    return contract
