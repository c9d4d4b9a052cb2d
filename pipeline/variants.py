"""The .tflite files that this pipeline makes: one entry of one table each.

What follows from an entry: the file's name, how it is converted and checked, its row in every
table and chart, its sentence in the report, and whether the limits of `evaluation.py` bind it.
int16 activations with int8 weights, for example, are one more line:

    "int16": Variant("int16_quantized_model.tflite", weights="int8", activations="int16"),
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """A .tflite file: where it comes from and in which types it computes."""

    file: str  # in the models folder
    weights: str = "float32"  # "float32", "float16" or "int8"
    # "float32", "int8" or "int16". int8 weights under float32 activations are dynamic range:
    # activations become int8 while the file runs.
    activations: str = "float32"
    source: str = "pruned"  # the Keras model that it is made of

    @property
    def quantised(self) -> bool:
        """Whether quantization.py makes it; evaluation.py makes the others, its baselines."""
        return self.weights != "float32"

    @property
    def calibrated(self) -> bool:
        """Whether its activations have fixed ranges, which calibration images set."""
        return self.activations != "float32"


VARIANTS = {
    "float32": Variant("float32_model.tflite", source="original"),
    "pruned_float32": Variant("pruned_float32_model.tflite"),
    "dynamic": Variant("dynamic_quantized_model.tflite", weights="int8"),
    "int8": Variant("int8_quantized_model.tflite", weights="int8", activations="int8"),
    "float16": Variant("float16_quantized_model.tflite", weights="float16"),
}


def quantised() -> list[str]:
    """The variants that are made to ship, in the order of the table."""
    return [name for name, variant in VARIANTS.items() if variant.quantised]
