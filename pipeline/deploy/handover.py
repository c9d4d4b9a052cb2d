"""Handover: a folder with the int8 file and everything needed to run it on a device.

int8_quantized_model.tflite          the model
contract.json, labels.txt            its input, its output, the names of the classes
picture.rgb, picture.logits          a test picture as raw bytes, and the output that it must give
model.h, model.cc                    the model as C source, for microcontrollers
run_on_device.py                     checks the test picture, times the model, predicts on photos
pipeline/data/                       modules that it reads, fits and draws photos with, as here
SHA256SUMS                           what this pipeline wrote: only that is ever replaced
"""

from __future__ import annotations

import argparse
import json
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base import ownership
from pipeline.base.artifacts import artifact_path, stale_reason
from pipeline.base.console import UserError, say
from pipeline.data import (
    class_maps,
    classes,
    decoding,
    fitting,
    marked_pictures,
    photographs,
)
from pipeline.data.dataset import load_split
from pipeline.evaluation.memory_plan import plan
from pipeline.inference import contract
from pipeline.inference.models import open_model

ALIGNMENT = 16  # bytes: TFLite Micro requires it of a model in a microcontroller's memory
PROGRAM = Path(__file__).with_name("run_on_device.py")
# Modules that it imports; they import no other of ours but each other.
PROGRAM_NEEDS = (class_maps, classes, decoding, fitting, marked_pictures, photographs)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --export."""
    parser.add_argument(
        "--export",
        type=Path,
        metavar="DIR",
        help="at the end, write a folder to hand over: int8 file, contract, test picture, C source",
    )


def write_folder(models_dir: Path, folder: Path) -> None:
    """Writes the int8 file of a models folder, and everything needed to run it, into `folder`.

    Args:
        models_dir: the models folder.
        folder: is created if it does not exist.

    Raises:
        UserError: there is no int8 file, it is stale, the folder cannot be written, or something
            of the user's lies there.
    """
    path = artifact_path(models_dir, "int8")
    if reason := stale_reason(models_dir, "int8"):
        raise UserError(reason)
    # A file of an earlier version gets the contract of today; the others have it already.
    data = contract.of_data_set(models_dir)
    content = contract.add_contract(path.read_bytes(), **data)
    terms = {"file": path.name, **contract.describe(content, **data)}
    picture = load_split(models_dir, "validation")[0][0]
    logits = open_model(path).scores(picture)
    header, source = c_header(content, terms), c_source(content)
    files = {
        path.name: content,
        "contract.json": (json.dumps(terms, indent=1) + "\n").encode("utf-8"),
        "labels.txt": "".join(f"{name}\n" for name in data["classes"]).encode("utf-8"),
        "picture.rgb": picture.tobytes(),
        "picture.logits": np.ascontiguousarray(logits).tobytes(),
        "model.h": header.encode("utf-8"),
        "model.cc": source.encode("utf-8"),
        PROGRAM.name: PROGRAM.read_bytes(),
    }
    for module in PROGRAM_NEEDS:
        files[f"{module.__name__.replace('.', '/')}.py"] = Path(str(module.__file__)).read_bytes()
    ownership.write_folder(folder, files)
    size = sum(map(len, files.values()))
    say(f"wrote {folder}: {len(files)} files, {size / 1e6:.1f} MB; test it on the device with:")
    say("  pip install ai-edge-litert numpy pillow && python run_on_device.py")


def c_header(content: bytes, terms: dict[str, Any]) -> str:
    """The C header: declarations of the model, and constants for shapes, scales and classes.

    Args:
        content: the .tflite file.
        terms: its contract, as `contract.describe` gives it.
    """
    image, logits = terms["input"], terms["output"]
    picture = image["picture"]
    rule = textwrap.fill(picture["meaning"], 97, initial_indent="// ", subsequent_indent="// ")
    if picture["fit"] == "pad":
        rule += f"\n#define MODEL_FILL {picture['fill']}"
    _, height, width, channels = image["shape"]
    names = ", ".join(json.dumps(name) for name in logits["classes"])
    return f"""// Made by quantization.py --export. Picture: RGB, rows from the top.
#ifndef SEGMENTATION_MODEL_H_
#define SEGMENTATION_MODEL_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

extern const uint8_t kModel[]; // aligned to {ALIGNMENT} bytes
extern const size_t kModelSize;

#ifdef __cplusplus
}}
#endif

#define MODEL_HEIGHT {height}
#define MODEL_WIDTH {width}
#define MODEL_CHANNELS {channels}
// How a picture becomes the input:
{rule}
#define MODEL_FIT "{picture["fit"]}"
#define MODEL_INPUT_SCALE {image["scale"]!r}f
#define MODEL_INPUT_ZERO_POINT ({image["zero_point"]})
#define MODEL_OUTPUT_SCALE {logits["scale"]!r}f
#define MODEL_OUTPUT_ZERO_POINT ({logits["zero_point"]})
#define MODEL_CLASSES {len(logits["classes"])}
#define MODEL_CLASS_NAMES {{{names}}}
// Bytes of TFLite Micro's arena for activations; its bookkeeping comes on top.
#define MODEL_ACTIVATION_BYTES {plan(content).activation_bytes}

#endif // SEGMENTATION_MODEL_H_
"""


def c_source(content: bytes) -> str:
    """The model as an array, in a source that compiles as C and as C++."""
    numbers = textwrap.fill(", ".join(map(str, content)), 100)
    return f"""#include "model.h"

#ifdef __cplusplus
alignas({ALIGNMENT})
#else
_Alignas({ALIGNMENT})
#endif
const uint8_t kModel[] = {{
{numbers}
}};
const size_t kModelSize = sizeof(kModel);
"""
