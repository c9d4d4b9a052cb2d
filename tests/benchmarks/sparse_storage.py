"""What the converter's sparse storage of zeros (EXPERIMENTAL_SPARSITY) does to size and time.

    python tests/benchmarks/sparse_storage.py --models-dir models

Converts the pruned model with and without it; the files take turns on one thread. Writes nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from compare_files import time_files

from pipeline.base import console
from pipeline.base.artifacts import MODELS_DIR
from pipeline.base.cli import SEED
from pipeline.base.lazy import keras, tf
from pipeline.inference import keras_files
from pipeline.inference.tflite_files import compacted, gzip_bytes
from pipeline.quantization import convert
from pipeline.quantization.gptq import round_kernels

TYPES = ("float32", "float16", "int8")
CALIBRATION_IMAGES = 50


def converted(model: keras.Model, kind: str, sparse: bool, calibration: np.ndarray) -> bytes:
    """The model in one of TYPES, its zeros stored sparsely or like all other weights.

    With nothing asked for but sparsity, the converter stores float32 weights.
    """
    if kind == "int8":
        model = round_kernels(model, calibration)
    converter = convert.fixed_batch_converter(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT] if kind != "float32" else []
    if sparse:
        converter.optimizations += [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    if kind == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if kind == "int8":
        converter.representative_dataset = lambda: ([image[None]] for image in calibration)
        converter.target_spec.supported_ops = convert.operator_sets("int8")
        converter.inference_input_type, converter.inference_output_type = tf.uint8, tf.int8
    with console.silenced():
        return compacted(converter.convert())


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models-dir", type=Path, default=MODELS_DIR)
    parser.add_argument("--runs", type=int, default=200, help="of each file (default: %(default)s)")
    arguments = parser.parse_args()
    model = keras_files.load_model(arguments.models_dir, "pruned")
    _, calibration = convert.calibration_sample(arguments.models_dir, CALIBRATION_IMAGES, SEED)
    paths, medians = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in TYPES:
            for storage in ("dense", "sparse"):
                content = converted(model, kind, storage == "sparse", calibration)
                paths[f"{kind} {storage}"] = path = Path(folder) / f"{kind}_{storage}.tflite"
                path.write_bytes(content)
        for name, path in paths.items():
            both = {"dense": paths[f"{name.split()[0]} dense"], "this": path}
            try:
                in_a_row, _ = time_files(both, 1, arguments.runs)["this"]
                medians[name] = f"{np.median(in_a_row):.2f}"
            except (console.UserError, RuntimeError, ValueError) as error:
                medians[name] = f"does not run: {str(error).splitlines()[0]}"
        console.say("| file | MB | gzip, MB | median ms |\n| --- | ---: | ---: | ---: |")
        for name, path in paths.items():
            size, packed = path.stat().st_size / 1e6, gzip_bytes(path) / 1e6
            console.say(f"| {name} | {size:.2f} | {packed:.2f} | {medians[name]} |")


if __name__ == "__main__":
    console.run(main)
