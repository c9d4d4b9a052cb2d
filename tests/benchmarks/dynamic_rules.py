"""Which convolutions dynamic range pays for: rules compared, and the converter's own choice.

    python tests/benchmarks/dynamic_rules.py --models-dir models

Every rule gives a file of its own; the files take turns on one thread. Writes nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from compare_files import time_files

from pipeline.base import console
from pipeline.base.artifacts import MODELS_DIR
from pipeline.base.lazy import keras, tf
from pipeline.inference import keras_files
from pipeline.inference.tflite_files import compacted, operators
from pipeline.quantization import convert, selective
from pipeline.report import findings

# What an operator's depth must be: products per sum, kernel height x width x input channels.
RULES: dict[str, Callable[[int], bool]] = {
    "every convolution but depthwise ones": lambda depth: depth > 0,
    "depth of 32 or more": lambda depth: depth >= 32,
    "depth of 64 or more (the default)": lambda depth: depth >= 64,
    "depth of 128 or more": lambda depth: depth >= 128,
    "depth of 256 or more": lambda depth: depth >= 256,
}


def by_converter(model: keras.Model) -> bytes:
    """The converter's own dynamic range."""
    converter = convert.fixed_batch_converter(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    with console.silenced():
        return compacted(converter.convert())


def by_rule(content: bytes, rule: Callable[[int], bool]) -> tuple[bytes, int]:
    """A float32 file quantised by a rule, and how many operators that are."""
    chosen = [operator for operator in operators(content) if rule(operator.depth)]
    return compacted(selective.quantise_dynamic(content, chosen)), len(chosen)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models-dir", type=Path, default=MODELS_DIR)
    parser.add_argument("--runs", type=int, default=200, help="of each file (default: %(default)s)")
    arguments = parser.parse_args()
    model = keras_files.load_model(arguments.models_dir, "pruned")
    content = convert.convert(model, "float32")
    files = {
        "float32": (content, 0),
        "the converter's dynamic range": (by_converter(model), "all"),
    }
    files |= {name: by_rule(content, rule) for name, rule in RULES.items()}
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{number}.tflite" for number, name in enumerate(files)}
        for name, path in paths.items():
            path.write_bytes(files[name][0])
        times = time_files(paths, 1, arguments.runs)
    medians = {name: np.median(in_a_row) for name, (in_a_row, _) in times.items()}
    console.say("| int8 weights in | operators | MB | median ms | against float32 |")
    console.say("| --- | ---: | ---: | ---: | ---: |")
    for name, (file, count) in files.items():
        faster = medians["float32"] / medians[name]
        size = len(file) / 1e6
        speed = findings.speed_text(faster, " times")
        console.say(f"| {name} | {count} | {size:.2f} | {medians[name]:.2f} | {speed} |")


if __name__ == "__main__":
    console.run(main)
