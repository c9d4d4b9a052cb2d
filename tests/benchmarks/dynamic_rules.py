"""Which convolutions dynamic range pays for: rules compared, and the converter's own choice beside them.

    python tests/benchmarks/dynamic_rules.py --models-dir models

Every rule gives a file of its own; the files take turns on one thread. Writes nothing.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pipeline  # first: it sets what TensorFlow reads at import
import quantization
import training
from compare_files import time_files

import tensorflow as tf

# What an operator's depth must be: products per sum, kernel height x width x input channels.
RULES: dict[str, Callable[[int], bool]] = {
    "every convolution but depthwise ones": lambda depth: depth > 0,
    "depth of 32 or more": lambda depth: depth >= 32,
    "depth of 64 or more (the default)": lambda depth: depth >= 64,
    "depth of 128 or more": lambda depth: depth >= 128,
    "depth of 256 or more": lambda depth: depth >= 256,
}


def by_rule(content: bytes, rule: Callable[[int], bool]) -> tuple[bytes, int]:
    """A float32 file quantised by a rule, and how many operators that are."""
    chosen = [operator for operator in quantization.operators(content) if rule(operator.depth)]
    return quantization.quantise_dynamic(content, chosen), len(chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models-dir", type=Path, default=pipeline.MODELS_DIR)
    parser.add_argument("--runs", type=int, default=200, help="of each file (default: %(default)s)")
    arguments = parser.parse_args()
    model = training.load_model(arguments.models_dir, "pruned")
    content = quantization.convert(model, "float32")
    quantization.VARIANTS["converter"] = {"optimizations": [tf.lite.Optimize.DEFAULT]}
    files = {"float32": (content, 0), "the converter's dynamic range": (quantization.convert(model, "converter"), None)}
    files |= {name: by_rule(content, rule) for name, rule in RULES.items()}
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{number}.tflite" for number, name in enumerate(files)}
        for name, path in paths.items():
            path.write_bytes(files[name][0])
        medians = {name: np.median(times) for name, (times, _) in time_files(paths, 1, arguments.runs).items()}
    pipeline.say("| int8 weights in | operators | MB | median ms | times faster than float32 |")
    pipeline.say("| --- | ---: | ---: | ---: | ---: |")
    for name, (file, count) in files.items():
        pipeline.say(f"| {name} | {'all' if count is None else count} | {len(file) / 1e6:.2f} | {medians[name]:.2f} | "
                     f"{medians['float32'] / medians[name]:.2f} |")  # fmt: skip


if __name__ == "__main__":
    pipeline.run(main)
