"""The table of the .tflite files that this pipeline makes: one entry per file.

An entry determines the file's name, how it is converted and checked, its row in every table and
chart, its finding in the report, and whether the limits of `evaluation.py` apply to it. A new
conversion is one more line, for example int16 activations with int8 weights:

    "int16": Variant("int16_quantized_model.tflite", weights="int8", activations="int16"),
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """A .tflite file: the Keras model that it is made from, and the types of its numbers."""

    file: str  # its name in the models folder
    weights: str = "float32"  # "float32", "float16" or "int8"
    # "float32", "int8" or "int16". int8 weights with float32 activations are dynamic-range
    # quantisation: activations are quantised to int8 while the file runs.
    activations: str = "float32"
    # The Keras model that it is made from, compared with, and stale without: "original" or
    # "pruned". With `--qat`, "int8" is made from a copy of it that is fine-tuned first.
    source: str = "pruned"

    @property
    def quantised(self) -> bool:
        """Whether its numbers are smaller than float32. The other files are the baselines."""
        return self.weights != "float32"

    @property
    def calibrated(self) -> bool:
        """Whether activations have fixed ranges, which are set by calibration images."""
        return self.activations != "float32"


VARIANTS = {
    "float32": Variant("float32_model.tflite", source="original"),
    "pruned_float32": Variant("pruned_float32_model.tflite"),
    "dynamic": Variant("dynamic_quantized_model.tflite", weights="int8"),
    "int8": Variant("int8_quantized_model.tflite", weights="int8", activations="int8"),
    "float16": Variant("float16_quantized_model.tflite", weights="float16"),
}


def quantised() -> list[str]:
    """Names of the quantised variants, in the order of the table."""
    return [name for name, variant in VARIANTS.items() if variant.quantised]


def float32_of(name: str) -> str | None:
    """Name of the float32 file of the same Keras model, as a baseline; None if there is none."""
    source = VARIANTS[name].source
    names = (name for name, variant in VARIANTS.items() if not variant.quantised)
    return next((name for name in names if VARIANTS[name].source == source), None)
