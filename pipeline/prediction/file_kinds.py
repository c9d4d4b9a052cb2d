"""What kind of model a file is, by its content: its suffix may say another kind, or none."""

from __future__ import annotations

import zipfile
from pathlib import Path

import h5py

from pipeline.base import commands
from pipeline.base.artifacts import remedy
from pipeline.base.console import UserError
from pipeline.inference.tflite_files import IDENTIFIER

H5, TFLITE = "h5", "tflite"
HDF5 = b"\x89HDF\r\n\x1a\n"  # how such a file begins
ZIP = b"PK\x03\x04"
TO_TFLITE = (
    "import tensorflow as tf; converter = tf.lite.TFLiteConverter.from_{source}; "
    "open({target!r}, 'wb').write(converter.convert())"
)


def kind_of(path: Path) -> str:
    """H5 or TFLITE.

    Raises:
        UserError: there is no file, or it is a model of a kind that is not read here. The message
            has the command that converts it.
    """
    if not path.exists():
        raise UserError(f"{path} is missing; {remedy(path)}")
    if path.is_dir():
        raise UserError(folder_fault(path))
    with path.open("rb") as file:
        beginning = file.read(8)
    if beginning[4:] == IDENTIFIER:
        return TFLITE
    if beginning == HDF5:
        if fault := fault_of_h5(path):
            raise UserError(f"{path} {fault}")
        return H5
    if beginning.startswith(ZIP):
        raise UserError(zip_fault(path))
    return H5 if path.suffix.lower() in (".h5", ".hdf5", ".keras") else TFLITE  # damaged


def fault_of_h5(path: Path) -> str:
    """Why an HDF5 file is no whole Keras model, and what is needed; "" if it may be one."""
    try:
        with h5py.File(path) as file:
            whole, weights = "model_config" in file.attrs, "layer_names" in file.attrs
            weights = weights or "layers" in file  # as Keras 3 writes them
    except Exception:  # h5py raises errors of many kinds for a damaged file: the reader says so
        return ""
    if whole:
        return ""
    what = "holds the weights of a network only" if weights else "is an HDF5 file without a network"
    return f"{what}; save the network with them, where it was made: model.save('model.h5')"


def folder_fault(path: Path) -> str:
    """Why a folder cannot be read as a model, with what converts it."""
    if not (path / "saved_model.pb").is_file():
        return f"{path} is a folder, not a model file; {remedy(path)}"
    target = path.with_name(f"{path.resolve().name}.tflite")
    code = TO_TFLITE.format(source=f"saved_model({str(path)!r})", target=str(target))
    return (
        f"{path} is a SavedModel of TensorFlow, which is not read here; convert it to {target} "
        f"with: {commands.line(commands.python(), '-c', code)}"
    )


def zip_fault(path: Path) -> str:
    """Why a zip archive cannot be read as a model, with what converts it."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile):
        names = set()
    if "config.json" not in names:
        return f"{path} is a zip archive without a model; unpack it, and name the file in it"
    target = path.with_suffix(".tflite")
    load = f"keras_model(keras.models.load_model({str(path)!r}, compile=False))"
    code = f"import keras; {TO_TFLITE.format(source=load, target=str(target))}"
    return (
        f"{path} is a .keras file of Keras 3, which is not read here; convert it to {target} "
        f"with: {commands.line(commands.python(), '-c', code)}"
    )
