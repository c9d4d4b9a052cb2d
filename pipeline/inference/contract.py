"""The contract inside a .tflite file: its input, its output, and what their values mean.

It is stored three times, for three kinds of readers: as TFLite metadata for runtimes (see
tflite_metadata.py), and as `labels.txt` and `contract.json` in a zip archive behind the model, for
people and their programs:

    unzip -p int8_quantized_model.tflite labels.txt
    json.loads(zipfile.ZipFile("int8_quantized_model.tflite").read("contract.json"))

`input.picture` and `input.photos` are the rule by which a photograph becomes the network's input,
as in training. `picture` has fit ("stretch", "pad" or "crop"), resampling, and fill, the value of
the bars of "pad"; `meaning` says the whole rule in words. `photos` is there if training pictures
were deeper than 8 bits or had a fourth band: what counts as white, and whether that band is alpha.
Every reader of this project does as they say, wherever the file lies. A file without `picture` was
made by an earlier version, or by others: see prediction/photo_rules.py. `output.colours` are those
in which the classes are drawn.

A .tflite file states where it ends, and a zip archive is read from its end, so one file can be
both. TFLite's own metadata tools have the same convention.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.archives import ZIP_ERRORS
from pipeline.base.artifacts import read_record, remedy
from pipeline.base.console import UserError
from pipeline.data.classes import Colour
from pipeline.data.dataset import load_classes, load_photo_rules
from pipeline.data.fitting import FITS, FitRule
from pipeline.data.photographs import rules_from
from pipeline.inference.tflite_files import Tensor, packed, read_graph, schema, tables
from pipeline.inference.tflite_metadata import BUFFER, CONTRACT_FILE, LABELS_FILE, metadata

FORMAT = 1  # version of contract.json: raised when a field changes its meaning or is removed
# By the type of the input: how an 8-bit pixel becomes an input value.
PIXELS = {
    "uint8": "an 8-bit pixel goes in as it is",
    "int8": "an 8-bit pixel goes in less 128",
    "float32": "an 8-bit pixel goes in divided by 255",
}
LARGEST_CONTRACT = 1 << 20  # bytes; a larger file of this name is none
MEANING = "argmax over the last axis: index of the class; softmax over it: probabilities"
FIT_TEXTS = {
    "stretch": "resize it to {size}, whatever its aspect ratio",
    "pad": "resize it to fit into {size} with its aspect ratio kept, put it in the middle, and "
    "fill the two bars with the value {fill}",
    "crop": "cut out its middle with the aspect ratio of {size}, as large as there is, and resize "
    "that to {size}",
}


def of_data_set(models_dir: Path) -> dict[str, Any]:
    """What a contract says of the data set of a models folder: the arguments of `add_contract`.

    Raises:
        UserError: the data set is missing.
    """
    classes = load_classes(models_dir)
    return {
        "classes": classes.names,
        "photos": load_photo_rules(models_dir),
        "fit": read_record(models_dir, "dataset").get("fit", FITS[0]),  # before there was a choice
        "colours": classes.colours,
    }


def describe(
    content: bytes,
    classes: Sequence[str],
    photos: Mapping[str, Any] | None = None,
    fit: str | None = None,
    colours: Sequence[Colour] | None = None,
) -> dict[str, Any]:
    """Describes input and output of a .tflite file, from its own tables.

    Args:
        content: a file that maps images (1, height, width, 3) to logits (1, height, width,
            classes). How pixels become input values is taken from `litert.set_image`;
            quantization/verify.py has checked that scale and zero point of an int8 file agree.
        classes: names of the classes, in the order of the logits.
        photos: how photographs that are deeper than 8 bits, or have a fourth band, become 8-bit
            RGB: what `photographs.rules_from` takes. None or {}: the training pictures had none.
        fit: how pictures were fitted to the network's size, one of `fitting.FITS`; None if that is
            not known, and then the contract does not say it.
        colours: of the classes, for drawing; None for those of `classes.make_classes`.

    Returns:
        The content of contract.json. `scale` and `zero_point` are None for floating-point
        tensors. The real value of an input is `(pixel - mean) / std` of an 8-bit pixel and lies in
        `range`; for a quantised input it equals `(value - zero_point) * scale`.

    Raises:
        UserError: the number of names is not the file's number of classes, or a name is not
            exactly one line.
    """
    graph = read_graph(content)
    image, logits = describe_tensor(graph.inputs[0]), describe_tensor(graph.outputs[0])
    if logits["shape"][-1] != len(classes):
        raise UserError(
            f"the file tells {logits['shape'][-1]} classes apart, {len(classes)} are named "
            f"({', '.join(classes)}); name as many as it was trained for"
        )
    if not_one_line := [name for name in classes if len(name.splitlines()) != 1]:
        raise UserError(
            f"the class name {not_one_line[0]!r} is not one line, as {LABELS_FILE} needs; rename it"
        )
    mean, std = 0.0, 255.0
    if image["scale"] is not None:
        darkest = np.iinfo(image["type"]).min  # the input value of a black pixel
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
            **({"picture": describe_picture(image["shape"], fit, photos or {})} if fit else {}),
            **({"photos": dict(photos)} if photos else {}),
        },
        "output": {
            **logits,
            "layout": "NHWC",
            "classes": list(classes),
            **({"colours": [list(colour) for colour in colours]} if colours else {}),
            "meaning": MEANING,
        },
    }


def describe_picture(
    shape: Sequence[int], fit: str, photos: Mapping[str, Any]
) -> dict[str, str | int]:
    """How a photograph comes to the size of a network, for programs and, as `meaning`, for people.

    Args:
        shape: of the input, (1, height, width, 3).
        fit, photos: as for `describe`.
    """
    rule, whites = FitRule(fit), rules_from(dict(photos))
    size = f"{shape[2]} x {shape[1]} pixels (width x height)"
    fourth = "lay transparent pixels over white"
    if not whites.alpha:
        fourth = "leave out a fourth band beside red, green and blue, which is no transparency here"
    steps = (
        "turn the picture as its EXIF orientation says",
        fourth,
        f"scale values of more than 8 bits so that {whites.white} (floating-point numbers: "
        f"{whites.float_white}) becomes 255",
        FIT_TEXTS[fit].format(size=size, fill=rule.fill),
        f"{rule.resampling} resampling whose filter grows with the scale when it shrinks "
        "(antialiasing), as Pillow has it",
    )
    return {**rule._asdict(), "meaning": "; ".join(steps)}


def describe_tensor(tensor: Tensor) -> dict[str, Any]:
    """Name, shape, type, and for a quantised tensor (one scale for all values) its parameters."""
    # The shortest number that gives this float32: 0.003921569, not 0.003921568859368563.
    scale = None if tensor.scale is None else float(str(np.float32(tensor.scale)))
    description = {"name": tensor.name, "shape": list(tensor.shape), "type": tensor.type}
    return {**description, "scale": scale, "zero_point": tensor.zero_point}


def add_contract(
    content: bytes,
    classes: Sequence[str],
    photos: Mapping[str, Any] | None = None,
    fit: str | None = None,
    colours: Sequence[Colour] | None = None,
) -> bytes:
    """Returns a .tflite file with its contract inside.

    The operators and weights stay the same, and the file is compacted. The bytes depend on the
    arguments only, and adding the same contract again changes nothing.

    Args:
        content: as for `describe`, with a contract or without.
        classes: names of the classes, in the order of the logits.
        photos, fit, colours: as for `describe`.

    Raises:
        UserError: as `describe`.
    """
    contract = describe(content, classes, photos, fit, colours)
    model = tables(content)
    model.metadata = model.metadata or []
    entries = [entry for entry in model.metadata if entry.name == BUFFER.encode()]
    if not entries:
        entry = schema.MetadataT()
        entry.name, entry.buffer = BUFFER, len(model.buffers)
        model.metadata.append(entry)
        model.buffers.append(schema.BufferT())
        entries = [entry]
    model.buffers[entries[0].buffer].data = np.frombuffer(metadata(contract), np.uint8)
    files = {
        LABELS_FILE: "".join(f"{name}\n" for name in classes),
        CONTRACT_FILE: json.dumps(contract, indent=1, ensure_ascii=False) + "\n",
    }
    return with_zip(packed(model), files)


def with_zip(content: bytes, files: dict[str, str]) -> bytes:
    """Returns `content` with text files behind it as a zip archive; equal texts give equal bytes.

    The archive counts its offsets from the first byte of `content`, so that no reader warns of
    extra bytes before it. Entries are stored without compression, because MediaPipe reads them in
    place.
    """
    whole = io.BytesIO(content)
    whole.seek(0, io.SEEK_END)
    with zipfile.ZipFile(whole, "w") as archive:
        for name, text in files.items():
            entry = zipfile.ZipInfo(name)  # dated 1 January 1980, the format's first day
            entry.create_system, entry.external_attr = 3, 0o100644 << 16  # Unix: rw-r--r--
            archive.writestr(entry, text)
    return whole.getvalue()


def read(path: Path) -> dict[str, Any]:
    """Reads the contract inside a .tflite file, as `describe` made it.

    Raises:
        UserError: the file is missing, has no contract, or has one of another format.
    """
    if not path.exists():
        raise UserError(f"{path} is missing; {remedy(path)}")
    contract: Any = None
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            if CONTRACT_FILE in entries and entries[CONTRACT_FILE].file_size <= LARGEST_CONTRACT:
                contract = json.loads(archive.read(CONTRACT_FILE))
    except ZIP_ERRORS:
        pass
    version = contract.get("format") if isinstance(contract, dict) else None
    if version is None or (version == FORMAT and not is_complete(contract)):
        raise UserError(f"{path} has no contract inside; {remedy(path)}")
    if version != FORMAT:
        raise UserError(f"{path} has a contract of format {version}, not {FORMAT}; {remedy(path)}")
    return contract


def is_complete(contract: dict[str, Any]) -> bool:
    """Whether a contract of the present format has the fields that this project reads."""
    image, logits = contract.get("input"), contract.get("output")
    if not isinstance(image, dict) or not isinstance(logits, dict):
        return False
    tensor_keys = {"name", "shape", "type", "scale", "zero_point"}
    if not image.keys() >= tensor_keys or not logits.keys() >= {*tensor_keys, "classes"}:
        return False
    names = logits["classes"]
    return isinstance(names, list) and all(isinstance(name, str) for name in names)
