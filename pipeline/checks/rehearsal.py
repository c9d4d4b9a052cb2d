"""The later stages in small, on an untrained network, before the first epoch.

The network is saved and read back, converted to float32 and int8 and run, wrapped for zeros and for
simulated int8, and cut by a block of channels. What no later stage can do is refused here; what one
of them cannot do is a note. For the default network at 128 x 128 pixels this takes 16 s on one core
of an AMD EPYC.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base import fingerprints
from pipeline.base.artifacts import write_json
from pipeline.base.console import UserError, say, silenced
from pipeline.base.lazy import keras, layers, tf
from pipeline.base.system import is_first_worker
from pipeline.inference.keras_files import KerasModel, save_model
from pipeline.inference.models import open_model
from pipeline.pruning import channel_removal, magnitude
from pipeline.pruning.channels import BLOCK
from pipeline.pruning.dependency_graph import channel_groups, shortened
from pipeline.quantization.calibration import activation_ranges
from pipeline.quantization.convert import calibrated_file, convert, quantise
from pipeline.quantization.gptq import rounded_kernels
from pipeline.quantization.verify import float_layers
from pipeline.training.keras_private import calls

KEPT_FILE = "network_check.json"  # in the models folder: the network that passed, and its notes
SEED = 7  # of the random pictures
PICTURES = 2
LONGEST_REASON = 120  # characters of an exception's text in a note
# Largest difference of two networks that compute the same, as a fraction of the largest logit.
SAME_OUTPUT = 1e-3
LEAST_SIGNAL = 1.0  # mean square of the logits over that of their error in int8, at least


def rehearse_once(model: keras.Model, models_dir: Path) -> list[str]:
    """`rehearse`, unless the same network passed it with the same code and packages before.

    Args:
        models_dir: where the result is kept.
    """
    path, key = models_dir / KEPT_FILE, key_of(model)
    with contextlib.suppress(OSError, ValueError, AttributeError):  # missing, or damaged
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept.get("network") == key and all(isinstance(note, str) for note in kept["notes"]):
            return list(kept["notes"])
    say(f"taking {model.name} in small through the later stages (once)")
    with silenced():
        notes = rehearse(model)
    if is_first_worker():
        with contextlib.suppress(OSError):  # a full disk; it is checked again next time
            write_json(path, {"network": key, "notes": notes})
    return notes


def key_of(model: keras.Model) -> str:
    """A digest of a network's layers and of the code and packages that it is rehearsed with."""
    code = fingerprints.of_stage(Path(__file__), counted=("checks",))
    text = json.dumps([model.to_json(), *code], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def rehearse(model: keras.Model) -> list[str]:
    """Take a copy of an untrained network, with random weights, through the later stages.

    Args:
        model: from `building.build_network`; left as it is.

    Returns:
        What one of the stages cannot do, for the user.

    Raises:
        UserError: no later stage could read the network's file, or no .tflite file can be made.
    """
    network, images = copy_in_float32(model), random_images(model)
    logits = KerasModel(network).logits(images)
    check_file(network, images, logits)
    content = check_conversion(network, images, logits)
    notes = [
        *attempt("quantization.py", lambda: int8_notes(network, images, logits, content)),
        *attempt("pruning.py", lambda: zeros_notes(network, images, logits)),
        *attempt("pruning.py --channels", lambda: channel_notes(network, images)),
    ]
    return notes


def copy_in_float32(model: keras.Model) -> keras.Model:
    """A network of the same layers that computes in float32, with random weights.

    Statistics of normalisation are those of random pictures, so that no layer has an output of
    nearly nothing.
    """

    def renewed(layer: layers.Layer) -> layers.Layer:
        settings = layer.get_config()
        if isinstance(layer, layers.BatchNormalization):
            settings |= {"momentum": 0.0, "synchronized": False}
        if "dtype" in settings and type(layer).__name__ != "TFOpLambda":
            settings["dtype"] = "float32"
        return type(layer).from_config(settings)

    network = keras.models.clone_model(model, clone_function=renewed)
    network(random_images(model) / np.float32(255), training=True)
    return network


def random_images(model: keras.Model) -> np.ndarray:
    """A few pictures of the network's size, uint8 (PICTURES, height, width, 3)."""
    random = np.random.default_rng(SEED)
    coarse = random.integers(0, 256, (PICTURES, 4, 4, 3), np.uint8)
    height, width = model.input_shape[1:3]
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    noise = random.integers(0, 32, (PICTURES, height, width, 3))
    return (coarse[:, rows][:, :, columns] // 8 * 7 + noise).clip(0, 255).astype(np.uint8)


def attempt(stage: str, step: Callable[[], list[str]]) -> list[str]:
    """The notes of a step; what it raises is a note, too, as other stages may well work."""
    try:
        return step()
    except Exception as error:  # whatever TensorFlow raises for a layer that it does not know
        reason = " ".join(str(error).split())[:LONGEST_REASON]
        return [f"{stage} will not work: {reason or type(error).__name__}"]


def differs(first: np.ndarray, second: np.ndarray) -> float:
    """The largest difference of two arrays of logits, as a fraction of the largest logit."""
    largest = max(float(np.abs(second).max()), 1e-12)
    return float(np.abs(first - second).max()) / largest


def check_file(network: keras.Model, images: np.ndarray, logits: np.ndarray) -> None:
    """Raises UserError if the network's file cannot be read back, or reads as another network."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.h5"
        try:
            save_model(network, path)
            read = open_model(path).logits(images)
        except (UserError, ValueError, TypeError) as error:
            reason = str(error).split("; make it")[0].replace(str(path), "its file")
            raise UserError(
                f"{network.name} cannot be saved and read back: {first_line(reason)}"
            ) from None
    if differs(read, logits) > SAME_OUTPUT:
        raise UserError(
            f"{network.name} computes something else after it was saved and read back; use other "
            "layers"
        )


def first_line(text: str) -> str:
    """The first line of a text, shortened."""
    return (text.splitlines() or [""])[0][:LONGEST_REASON]


def check_conversion(network: keras.Model, images: np.ndarray, logits: np.ndarray) -> bytes:
    """Converts a network to float32.

    Returns:
        The file that int8 is made from, which computes in float32 and has ranges; so one conversion
        is enough for both.

    Raises:
        UserError: no .tflite file of the network can be made, or it computes something else.
    """
    try:
        content = calibrated_file(network, images / np.float32(255))
    except Exception:  # the converter's own kinds; a float32 file may be possible all the same
        content = plain_file(network)
    difference = differs(open_model(content).logits(images), logits)
    if difference > SAME_OUTPUT:
        raise UserError(
            f"the .tflite file of {network.name} differs by {difference:.1e} of the largest logit "
            "from the network; use other layers"
        )
    return content


def plain_file(network: keras.Model) -> bytes:
    """The float32 file of a network; raises UserError, with its layers, if there can be none."""
    try:
        return convert(network, "float32")
    except Exception as error:  # the converter's own kinds
        raise UserError(
            f"{culprits(network)} cannot be converted to a .tflite file"
            f"{unknown_operations(str(error))}; use other layers, as bilinear or nearest resizing"
        ) from None


def culprits(network: keras.Model) -> str:
    """The layers that cannot be converted by themselves; the network if each of them can.

    The converter's message names operations of TensorFlow, and no layers.
    """
    names = []
    for call in calls(network):
        if isinstance(call.layer, layers.InputLayer) or len(call.inputs) != 1:
            continue
        image = layers.Input(call.inputs[0].shape[1:])

        def alone(value: Any, read: Any = call.inputs[0], image: Any = image) -> Any:
            return image if value is read else value

        args, kwargs = tf.nest.map_structure(alone, (call.args, call.kwargs))
        try:
            convert(keras.Model(image, call.layer(*args, **kwargs)), "float32")
        except Exception:  # as in `plain_file`
            names.append(call.layer.name)
    return shortened(names) if names else network.name


def unknown_operations(text: str) -> str:
    """The operations that a message of the converter complains of, in brackets."""
    kinds = sorted(set(re.findall(r"'tf\.(\w+)' op is neither", text)))
    return f" ({', '.join(kinds)})" if kinds else ""


def int8_notes(
    network: keras.Model, images: np.ndarray, logits: np.ndarray, content: bytes
) -> list[str]:
    """What the int8 file and the training for it cannot do.

    Args:
        content: from `check_conversion`.
    """
    pixels = images / np.float32(255)
    rounded_kernels(network, pixels[:1])  # only to see that it can be done
    file, notes = quantise(content, activation_ranges(content, pixels)), []
    error = float(np.mean((open_model(file).logits(images) - logits) ** 2))
    if floating := float_layers(file):
        notes.append(
            f"{shortened(floating)} would compute in float in the int8 file, which quantization.py "
            "refuses; use other layers, or let these stay float there: --max-drop 1"
        )
    elif float(np.var(logits)) < LEAST_SIGNAL * error:
        notes.append(
            f"int8 of {network.name} is mostly noise with random weights; it may be refused"
        )
    return notes + attempt("quantization.py --qat", lambda: qat_notes(network, pixels, file))


def qat_notes(network: keras.Model, pixels: np.ndarray, file: bytes) -> list[str]:
    """What the training with simulated int8 cannot do.

    Args:
        pixels: images, float32 (n, height, width, 3) in 0..1.
        file: the int8 file.
    """
    from pipeline.quantization import qat  # needs Keras at once

    qat.simulate_int8(network, file)(pixels, training=False)
    return []


def zeros_notes(network: keras.Model, images: np.ndarray, logits: np.ndarray) -> list[str]:
    """What the pruning of weights cannot do."""
    sparsity = dict.fromkeys(magnitude.kernels(network), 0.5)
    wrapped = magnitude.wrap(network, sparsity, 2) if sparsity else network
    if differs(KerasModel(wrapped).logits(images), logits) > SAME_OUTPUT:
        return [f"pruning.py changes what {network.name} computes before a weight is zero"]
    return []


def channel_notes(network: keras.Model, images: np.ndarray) -> list[str]:
    """What the removal of channels cannot do: a block of each group goes that has more than one."""
    groups = channel_groups(network)
    kept = [np.arange(BLOCK * (group.channels > BLOCK), group.channels) for group in groups]
    small = channel_removal.remove_channels(network, groups, kept)
    channel_removal.mask_channels(network, groups, kept)  # last: it changes the network
    channel_removal.check_smaller(small, network, images)
    return []
