"""What it costs to enlarge the image before the network instead of inside it.

    python tests/benchmarks/enlarged_outside.py
    python tests/benchmarks/enlarged_outside.py --model pruned --write DIR
    python evaluation.py --npu --model DIR/not.tflite

Converts the default's trained network without its two resizings to int8: a file for pictures of
the inner size (160 pixels for 128), on which an NPU leaves no operator to the CPU. Both files then
see the same validation images, the second through Pillow's resizing of the picture and of its
logits. Prints mean IoU and, in one interleaved run on one thread, times of the files alone and
with the resizing around them. --write leaves both files, and one of the same weights that does not
enlarge (not.tflite, untrained for that size: for what an NPU would take).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.base.lazy import tf
from pipeline.data.dataset import load_split
from pipeline.inference import iou
from pipeline.inference.keras_files import load_model
from pipeline.inference.litert import set_image
from pipeline.inference.timing import time_in_turns
from pipeline.quantization.convert import calibration_sample, convert
from pipeline.training import networks

BILINEAR = Image.Resampling.BILINEAR


def resized(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture or logits (height, width, channels) at another size."""
    if picture.dtype == np.uint8:
        return np.asarray(Image.fromarray(picture).resize((width, height), BILINEAR))
    planes = [Image.fromarray(plane) for plane in np.moveaxis(picture.astype(np.float32), -1, 0)]
    return np.stack([np.asarray(plane.resize((width, height), BILINEAR)) for plane in planes], -1)


def opened(content: bytes) -> tuple[Interpreter, int]:
    """An interpreter on one thread, and the index of its output."""
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    return interpreter, interpreter.get_output_details()[0]["index"]


def main() -> None:
    """Compares the two ways."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models-dir", type=Path, default=ROOT / "models")
    parser.add_argument("--model", choices=("original", "pruned"), default="original")
    parser.add_argument("--write", type=Path, metavar="DIR", help="where files for --npu are left")
    arguments = parser.parse_args()
    model = load_model(arguments.models_dir, arguments.model)
    images, masks = load_split(arguments.models_dir, "validation")
    height, width = images.shape[1:3]
    inner, classes = model.get_layer("enlarge").output_shape[1:3], model.output_shape[-1]
    core = networks.compact_unet(inner, classes)
    core.set_weights(model.get_weights())
    _, sample = calibration_sample(arguments.models_dir, 200, 7)
    large = tf.image.resize(sample, inner).numpy()
    files = {"inside": convert(model, "int8", sample), "outside": convert(core, "int8", large)}
    inside, inside_out = opened(files["inside"])
    outside, outside_out = opened(files["outside"])
    if arguments.write:
        plain = networks.compact_unet((height, width), classes)
        plain.set_weights(model.get_weights())
        arguments.write.mkdir(parents=True, exist_ok=True)
        for name, content in (*files.items(), ("not", convert(plain, "int8", sample))):
            (arguments.write / f"{name}.tflite").write_bytes(content)

    def run_inside(image: np.ndarray) -> np.ndarray:
        set_image(inside, image)
        inside.invoke()
        return inside.get_tensor(inside_out)[0]

    def run_outside(image: np.ndarray) -> np.ndarray:
        set_image(outside, resized(image, *inner))
        outside.invoke()
        return resized(outside.get_tensor(outside_out)[0], height, width)

    for name, run in (("inside", run_inside), ("outside", run_outside)):
        counts = np.zeros((3, classes), np.int64)
        for image, mask in zip(images, masks):
            prediction = run(image).argmax(-1)
            counts += iou.class_counts(mask[None], prediction[None], classes)[0]
        mean = iou.mean_iou(iou.iou_per_class(counts))
        print(f"{name:8} {mean:.4f} mean IoU on {len(images)} validation images", flush=True)
    picture = images[0]
    calls = {
        "inside, file alone": inside.invoke,
        "outside, file alone": outside.invoke,
        "inside, picture to logits": lambda: run_inside(picture),
        "outside, picture to logits": lambda: run_outside(picture),
    }
    for name, (in_a_row, _) in time_in_turns(calls, 300).items():
        low, high = np.median(in_a_row), np.percentile(in_a_row, 90)
        print(f"{name:28} {low:.2f} ms (p90 {high:.2f})")


if __name__ == "__main__":
    main()
