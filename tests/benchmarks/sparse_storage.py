"""What the converter's sparse storage of zeros (EXPERIMENTAL_SPARSITY) does to size and time.

    python tests/benchmarks/sparse_storage.py --models-dir models

Converts the pruned model with and without it; the files take turns on one thread. Writes nothing.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pipeline  # first: it sets what TensorFlow reads at import
import evaluation
import quantization
import training
from compare_files import time_files

import tensorflow as tf

SETTINGS = {"float32": {"optimizations": []},
            "float16": {"optimizations": [tf.lite.Optimize.DEFAULT], "float16": True},
            "int8": {"optimizations": [tf.lite.Optimize.DEFAULT], "calibrated": True}}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models-dir", type=Path, default=pipeline.MODELS_DIR)
    parser.add_argument("--runs", type=int, default=200, help="of each file (default: %(default)s)")
    arguments = parser.parse_args()
    model = training.load_model(arguments.models_dir, "pruned")
    _, calibration = quantization.calibration_sample(arguments.models_dir, 50, pipeline.SEED)
    paths, medians = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for variant, options in SETTINGS.items():
            for kind, more in (("dense", []), ("sparse", [tf.lite.Optimize.EXPERIMENTAL_SPARSITY])):
                quantization.VARIANTS["tried"] = options | {"optimizations": options["optimizations"] + more}
                paths[f"{variant} {kind}"] = path = Path(folder) / f"{variant}_{kind}.tflite"
                path.write_bytes(quantization.convert(model, "tried", calibration))
        for name, path in paths.items():
            try:
                times = time_files({"dense": paths[f"{name.split()[0]} dense"], "this": path}, 1, arguments.runs)
                medians[name] = f"{np.median(times['this'][0]):.2f}"
            except (pipeline.UserError, RuntimeError, ValueError) as error:
                medians[name] = f"does not run: {str(error).splitlines()[0]}"
        pipeline.say("| file | MB | gzip, MB | median ms |\n| --- | ---: | ---: | ---: |")
        for name, path in paths.items():
            size, packed = path.stat().st_size / 1e6, evaluation.gzip_bytes(path) / 1e6
            pipeline.say(f"| {name} | {size:.2f} | {packed:.2f} | {medians[name]} |")


if __name__ == "__main__":
    pipeline.run(main)
