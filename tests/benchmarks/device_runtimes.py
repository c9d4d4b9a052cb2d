"""Whether MediaPipe and TFLite Micro see in the .tflite files of a run what LiteRT sees here.

    python -m venv device && device/bin/pip install mediapipe tflite-micro
    DEVICE_PYTHON=device/bin/python python tests/benchmarks/device_runtimes.py
    DEVICE_PYTHON=... python tests/benchmarks/device_runtimes.py --models-dir models/demo

For each file, on validation pictures: pixels whose class differs in MediaPipe's ImageSegmenter;
for the int8 file also in TFLite Micro, mean IoU of both, and its activation memory beside ours.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import test_mediapipe  # noqa: E402
import test_tflite_micro  # noqa: E402

from pipeline import litert, memory_plan, metrics  # noqa: E402
from pipeline.artifacts import artifact_path  # noqa: E402
from pipeline.dataset import load_classes, load_split  # noqa: E402


def mean_iou(masks: np.ndarray, classes: np.ndarray, number: int) -> float:
    """Mean IoU of class maps; both uint8 (pictures, height, width)."""
    counts = metrics.class_counts(masks, classes, number).sum(axis=0)
    return metrics.mean_iou(metrics.iou_per_class(counts))


def main() -> None:
    """Compares the files of a models folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models-dir", type=Path, default=ROOT / "models")
    parser.add_argument("--pictures", type=int, default=50)
    arguments = parser.parse_args()
    models_dir = arguments.models_dir
    images, masks = (part[: arguments.pictures] for part in load_split(models_dir, "validation"))
    number = len(load_classes(models_dir))
    with tempfile.TemporaryDirectory() as folder:
        for name in ("int8", "float16", "float32", "dynamic"):
            path = Path(folder) / f"{name}.tflite"
            path.write_bytes(artifact_path(models_dir, name).read_bytes())
            ours = np.stack(list(litert.predict_tflite(litert.open_interpreter(path), images)))
            seen, _, told = test_mediapipe.run(path, images)
            turned = np.count_nonzero(seen != ours)
            print(f"{name}: MediaPipe: {turned} of {ours.size:,} pixels differ; {told['labels']}")
            if name == "int8":
                logits, taken = test_tflite_micro.run(path, images)
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
