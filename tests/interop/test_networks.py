"""Networks as people write them, in tests/interop/networks: each goes through all five stages."""

from __future__ import annotations

import gc
import importlib
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

import evaluation
import pruning
import quantization
import training
from pipeline.base.artifacts import artifact_path, read_record
from pipeline.base.console import UserError
from pipeline.base.lazy import keras, layers
from pipeline.data.dataset import load_split
from pipeline.evaluation import latency, memory
from pipeline.inference.keras_files import load_model
from pipeline.inference.litert import TfliteModel, load_interpreter
from pipeline.inference.models import open_model
from pipeline.pruning import channels, magnitude
from pipeline.report import sidecars
from pipeline.training import networks
from pipeline.training.checkpoints import TrainingState
from tests.helpers.made_up_evaluation import made_up_times

FOLDER = Path(__file__).parent / "networks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
TRAINING = ("--epochs", "4", "--taught-epochs", "0", "--batch-size", "4", "--learning-rate", "0.01")
PRUNING = ("--channels", "0.2", "--sparsity", "0.5", "--epochs", "2", "--batch-size", "4")
FEW = ("--calibration-images", "20")
RESUMED = ("tensorflow_tutorial", "unet_dropout")
SAME = 1e-4  # of the largest logit: what two forms of one network may differ by
LEAST_AGREEMENT = 0.97  # fraction of pixels to which int8 gives the class that float32 does

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def collected_once():
    """Every conversion collects garbage, and what TensorFlow's import made is not looked at again.

    That took a twentieth of the time of these tests.
    """
    assert keras.backend  # is imported now
    gc.freeze()
    yield
    gc.unfreeze()


def module_of(name):
    return importlib.import_module(f"tests.interop.networks.{name}")


def trained(name, models_dir, monkeypatch, *more):
    """Trains a network by its script, called in this process."""
    monkeypatch.setitem(networks.NETWORKS, name, module_of(name).build)
    keras.backend.clear_session()  # so that layers are numbered as in a process of their own
    flags = ("--models-dir", str(models_dir), "--architecture", name, *TRAINING)
    training.main([*flags, *more])


@pytest.mark.parametrize("name", NAMES)
def test_network_goes_through_all_stages(name, data_copy, monkeypatch, capsys):
    where = ["--models-dir", str(data_copy)]
    monkeypatch.setattr(magnitude, "SMALLEST_KERNEL", 2000)
    # What does not depend on the network, or needs no more of it, is not done or done less often.
    monkeypatch.setattr(channels, "ROUND_BATCHES", 2)
    monkeypatch.setattr(sidecars, "drawn", lambda *_: False)
    trained(name, data_copy, monkeypatch)
    floating = getattr(module_of(name), "FLOAT_IN_INT8", None)
    note = f"{floating} would compute in float in the int8 file"
    assert (note in capsys.readouterr().out) == bool(floating)

    # Channels, then zeros.
    pruning.main([*where, *PRUNING])
    metrics = read_record(data_copy, "pruned")["metrics"]
    assert metrics["channels_removed"] > 0.05
    assert metrics["differs_from_masked"] < SAME
    assert metrics["sparsity"] == pytest.approx(0.5, abs=magnitude.TOLERANCE)
    original, pruned = (load_model(data_copy, kind) for kind in ("original", "pruned"))
    assert pruned.count_params() < original.count_params()

    # The files compute what the network does.
    quantization.main([*where, *FEW, *(("--max-drop", "1") if floating else ())])
    images = load_split(data_copy, "train")[0][:]
    expected = pruned.predict(images / np.float32(255), verbose=0)
    content = artifact_path(data_copy, "pruned_float32").read_bytes()
    difference = np.abs(open_model(content).logits(images) - expected).max()
    assert difference < SAME * np.abs(expected).max()
    int8 = load_interpreter(artifact_path(data_copy, "int8"))
    agreement = np.mean(TfliteModel(int8).class_maps(images) == expected.argmax(-1))
    assert agreement > LEAST_AGREEMENT
    assert read_record(data_copy, "int8")["metrics"].get("float_operators", []) == (
        [floating] if floating else []
    )

    # Accuracy of every model; the times are made up, as to measure them takes ten processes.
    times = made_up_times(2.0)
    monkeypatch.setattr(
        latency, "measure_latency", lambda _, names, *__: dict.fromkeys(names, times)
    )
    monkeypatch.setattr(memory, "measure_memory", lambda _, names, __: dict.fromkeys(names, 10**7))
    assert evaluation.main(where) == 0


@pytest.mark.parametrize("name", RESUMED)
def test_training_that_was_stopped_ends_with_the_same_bits(name, small_data, tmp_path, monkeypatch):
    weights = []
    save = TrainingState.save

    def save_and_stop(self, *arguments):
        save(self, *arguments)
        raise KeyboardInterrupt

    for kind in ("whole", "stopped"):
        models_dir = shutil.copytree(small_data, tmp_path / kind)
        short = ("--epochs", "2")
        if kind == "stopped":
            monkeypatch.setattr(TrainingState, "save", save_and_stop)
            with pytest.raises(KeyboardInterrupt):
                trained(name, models_dir, monkeypatch, *short)
            monkeypatch.setattr(TrainingState, "save", save)
        trained(name, models_dir, monkeypatch, *short, *(("--resume",) * (kind == "stopped")))
        weights.append(arrays_of(models_dir / "original_model.h5"))
    whole, resumed = weights
    assert len(whole) == len(resumed) > 10
    for first, second in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(first, second)


def arrays_of(path):
    """The weights in an .h5 file, in the order of the file."""
    arrays = []
    with h5py.File(path) as file:
        file["model_weights"].visititems(
            lambda _, item: arrays.append(item[()]) if isinstance(item, h5py.Dataset) else None
        )
    return arrays


def ending_in(make_last, dtype="float32"):
    """The function of a network of a convolution and the layers that `make_last` makes."""

    def function(size, classes):
        x = image = layers.Input((*size, 3), dtype=dtype)
        for layer in (layers.Rescaling(1.0), layers.Conv2D(16, 3, padding="same"), *make_last()):
            x = layer(x)
        return keras.Model(image, x)

    return function


# What no later stage can use, and what is said of it.
REFUSED = {
    "bicubic": (
        ending_in(lambda: [layers.Conv2D(3, 1), layers.Resizing(32, 32, "bicubic", name="smooth")]),
        r"smooth cannot be converted to a \.tflite file \(ResizeBicubic\)",
    ),
    "of bytes": (ending_in(lambda: [layers.Conv2D(3, 1)], dtype="uint8"), "has the type uint8"),
    "one channel": (
        ending_in(lambda: [layers.Conv2D(1, 1)]),
        "one channel tells two classes apart",
    ),
    "half the size": (ending_in(lambda: [layers.Conv2D(3, 1, 2)]), r"to \(16, 16, 3\), not"),
    "own function": (
        ending_in(lambda: [layers.Lambda(lambda x: x)]),
        "Lambda, which could not be read",
    ),
    "nothing": (lambda size, classes: None, "returns nothing; its last line must be"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_network_that_cannot_be_used_is_refused_before_the_first_epoch(
    kind, data_copy, monkeypatch
):
    function, words = REFUSED[kind]
    monkeypatch.setitem(networks.NETWORKS, "compact", function)
    monkeypatch.setattr(training.loop, "fit", lambda *_, **__: pytest.fail("it was trained"))
    with pytest.raises(UserError, match=words):
        training.main(["--models-dir", str(data_copy), *TRAINING])
    assert not (data_copy / "original_model.h5").exists()
