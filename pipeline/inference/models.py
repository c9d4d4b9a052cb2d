"""Models opened from files of either kind, behind one face."""

from __future__ import annotations

from pathlib import Path

from pipeline.inference.iou import Model
from pipeline.inference.keras_files import KerasModel, read_model
from pipeline.inference.litert import TfliteModel, load_interpreter, open_interpreter


def open_model(source: Path | bytes, threads: int = 1, made_here: bool = False) -> Model:
    """Opens an .h5 or .tflite file, or the content of a .tflite file that this process made.

    Args:
        threads: of LiteRT; those of TensorFlow are set once in a process.
        made_here: see `litert.open_interpreter`.

    Raises:
        UserError: the file is missing, damaged, or no model.
    """
    if isinstance(source, bytes):
        return TfliteModel(load_interpreter(source, threads))
    if source.suffix == ".h5":
        return KerasModel(read_model(source))
    return TfliteModel(open_interpreter(source, threads, made_here))
