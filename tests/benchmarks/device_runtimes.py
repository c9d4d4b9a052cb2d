"""Whether MediaPipe and TFLite Micro see in the .tflite files of a run what LiteRT sees here.

    python -m venv device && device/bin/pip install -r tests/requirements_slow.txt
    DEVICE_PYTHON=device/bin/python python tests/benchmarks/device_runtimes.py
    DEVICE_PYTHON=... python tests/benchmarks/device_runtimes.py --models-dir models/demo --drawn 30

For each file, on validation pictures: pixels whose class differs in MediaPipe's ImageSegmenter;
for the int8 file also in TFLite Micro, mean IoU of both, and its activation memory beside ours.
--drawn compares, on large drawn animals, MediaPipe's own shrinking of a picture to the model's size
with Pillow's, by which training pictures are shrunk.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from pipeline.base.artifacts import artifact_path
from pipeline.base.cli import SEED
from pipeline.data.dataset import load_classes, load_split
from pipeline.data.fitting import fit_image
from pipeline.data.formats import synthetic
from pipeline.evaluation import memory_plan
from pipeline.inference import iou
from pipeline.inference.models import open_model
from tests.helpers.other_runtimes import run_mediapipe, run_tflite_micro

DRAWN_SIDE = 200  # of --drawn; pictures are drawn at twice the size


def mean_iou(masks: np.ndarray, classes: np.ndarray, number: int) -> float:
    """Mean IoU of class maps; both uint8 (pictures, height, width)."""
    counts = iou.class_counts(masks, classes, number).sum(axis=0)
    return iou.mean_iou(iou.iou_per_class(counts))


def compare_shrinking(path: Path, size: tuple[int, int], number: int) -> None:
    """Mean IoU of MediaPipe on large drawn animals, shrunk by itself and by Pillow.

    Args:
        path: of a file that was trained on drawn animals. size: height and width that it takes.
    """
    large, small, masks = [], [], []
    for animal in range(number):
        drawing = synthetic.draw_animal((SEED, len(synthetic.COUNTS), animal), DRAWN_SIDE, 3)
        picture, mask = (Image.open(io.BytesIO(content)) for content in drawing)
        large.append(np.asarray(picture))
        small.append(np.asarray(fit_image(picture, size, "stretch")))
        masks.append(np.asarray(fit_image(mask, size, "stretch", Image.Resampling.NEAREST)))
    shrink = [np.linspace(0, 2 * DRAWN_SIDE - 1, side).round().astype(int) for side in size]
    by_itself = run_mediapipe(path, np.stack(large))[0][:, shrink[0]][:, :, shrink[1]]
    by_pillow = run_mediapipe(path, np.stack(small))[0]
    found = [mean_iou(np.stack(masks), classes, 3) for classes in (by_itself, by_pillow)]
    print(
        f"{path.stem}: {number} drawn pictures of {2 * DRAWN_SIDE} pixels: mean IoU {found[0]:.3f} "
        f"shrunk by MediaPipe, {found[1]:.3f} shrunk by Pillow first"
    )


def main() -> None:
    """Compares the files of a models folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models-dir", type=Path, default=ROOT / "models")
    parser.add_argument("--pictures", type=int, default=50)
    parser.add_argument("--drawn", type=int, default=0)
    arguments = parser.parse_args()
    models_dir = arguments.models_dir
    images, masks = (part[: arguments.pictures] for part in load_split(models_dir, "validation"))
    number = len(load_classes(models_dir))
    with tempfile.TemporaryDirectory() as folder:
        for name in ("int8", "float16", "float32", "dynamic"):
            path = Path(folder) / f"{name}.tflite"
            path.write_bytes(artifact_path(models_dir, name).read_bytes())
            ours = open_model(path).class_maps(images)
            seen, _, told = run_mediapipe(path, images)
            turned = np.count_nonzero(seen != ours)
            print(f"{name}: MediaPipe: {turned} of {ours.size:,} pixels differ; {told['labels']}")
            if name == "int8" and arguments.drawn:
                compare_shrinking(path, images.shape[1:3], arguments.drawn)
            if name == "int8":
                logits, taken = run_tflite_micro(path, images)
                micro = logits.argmax(axis=-1)
                planned = memory_plan.plan(path.read_bytes()).activation_bytes
                print(
                    f"{name}: TFLite Micro: {np.mean(micro != ours):.4%} of pixels differ, mean "
                    f"IoU {mean_iou(masks, micro, number):.4f} (LiteRT "
                    f"{mean_iou(masks, ours, number):.4f}), activations {taken:,} bytes "
                    f"(planned {planned:,})"
                )


if __name__ == "__main__":
    main()
