"""MediaPipe and TFLite Micro, each run in a process of its own by `optional.device_python`."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.evaluation import memory_plan
from tests.helpers.optional import device_python

# Arguments: a file, pictures (.npy), where class maps and confidences go (.npz). Prints the labels
# and, read by MediaPipe's own generated code, the metadata.
MEDIAPIPE_PROGRAM = """
import json, sys
import mediapipe as mp
import numpy as np
from mediapipe.tasks.metadata import metadata_schema_py_generated as schema
from mediapipe.tasks.metadata import schema_py_generated as tflite
file, pictures, outputs = sys.argv[1:]
options = mp.tasks.vision.ImageSegmenterOptions(
    mp.tasks.BaseOptions(file), output_category_mask=True
)
masks, confidences = [], []
with mp.tasks.vision.ImageSegmenter.create_from_options(options) as segmenter:
    labels = segmenter.labels
    for picture in np.load(pictures):
        found = segmenter.segment(mp.Image(mp.ImageFormat.SRGB, picture))
        # Copies, because a view points at memory that goes with `found`.
        masks.append(found.category_mask.numpy_view()[..., 0].copy())
        planes = [plane.numpy_view()[..., 0] for plane in found.confidence_masks]
        confidences.append(np.stack(planes, -1))
np.savez(outputs, masks=np.stack(masks), confidences=np.stack(confidences))
model = tflite.ModelT.InitFromObj(tflite.Model.GetRootAsModel(open(file, "rb").read(), 0))
(entry,) = [entry for entry in model.metadata if entry.name == b"TFLITE_METADATA"]
content = bytes(model.buffers[entry.buffer].data)
about = schema.ModelMetadataT.InitFromObj(schema.ModelMetadata.GetRootAsModelMetadata(content, 0))
graph = about.subgraphMetadata[0]
image, logits = graph.inputTensorMetadata[0], graph.outputTensorMetadata[0]
size = image.content.contentProperties.defaultSize
print(json.dumps({
    "labels": labels,
    "files": [logits.associatedFiles[0].name.decode(), about.associatedFiles[0].name.decode()],
    "size": [size.width, size.height],
    "mean": float(image.processUnits[0].options.mean[0]),
    "std": float(image.processUnits[0].options.std[0]),
    "pixel": image.description.decode(),
}))
"""
BOOKKEEPING = 4_000_000  # bytes of arena beyond the activations: more than enough on any host
# Arguments: a file, bytes of arena, inputs (.npy), where outputs go (.npy). The keyword of
# from_file is spelled as the package spells it. Allocations go to stderr.
TFLITE_MICRO_PROGRAM = """
import sys
import numpy as np
from tflite_micro.python.tflite_micro import runtime
file, arena, inputs, outputs = sys.argv[1:]
recording = runtime.InterpreterConfig.kAllocationRecording
interpreter = runtime.Interpreter.from_file(
    file, arena_size=int(arena), intrepreter_config=recording
)
found = []
for image in np.load(inputs):
    interpreter.set_input(image[None], 0)
    interpreter.invoke()
    found.append(interpreter.get_output(0)[0])
np.save(outputs, np.stack(found))
interpreter.print_allocations()
"""


def run_mediapipe(
    path: Path, pictures: np.ndarray
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """What MediaPipe's ImageSegmenter makes of pictures, and what it reads of the metadata.

    Args:
        path: a signed .tflite file; two files of NumPy are written beside it.
        pictures: uint8 (pictures, height, width, 3), of any size.

    Returns:
        Classes, uint8 (pictures, height, width); confidences, float32 (pictures, height, width,
        classes); and labels, names of files, size and scale of pixels as MediaPipe reads them.
    """
    inputs, outputs = path.with_suffix(".npy"), path.with_suffix(".npz")
    np.save(inputs, pictures)
    command = [device_python(), "-c", MEDIAPIPE_PROGRAM, *map(str, (path, inputs, outputs))]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-2000:]
    arrays = np.load(outputs)
    return arrays["masks"], arrays["confidences"], json.loads(process.stdout)


def run_tflite_micro(path: Path, inputs: np.ndarray) -> tuple[np.ndarray, int]:
    """The outputs of TFLite Micro for a batch of inputs, and the bytes that activations took.

    Args:
        path: a .tflite file; two files of NumPy are written beside it.
        inputs: (pictures, height, width, 3) in the type that the file takes.
    """
    arena = memory_plan.plan(path.read_bytes()).activation_bytes + BOOKKEEPING
    files = path.with_suffix(".in.npy"), path.with_suffix(".out.npy")
    np.save(files[0], inputs)
    arguments = [device_python(), "-c", TFLITE_MICRO_PROGRAM, path, arena, *files]
    process = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-2000:]
    # The head of the arena holds what an inference overwrites, the tail what stays.
    head = re.search(r"Arena allocation head (\d+) bytes", process.stdout + process.stderr)
    assert head is not None, process.stdout[-2000:] + process.stderr[-2000:]
    return np.load(files[1]), int(head[1])
