"""The devices and machines that a training runs on, and its precision."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys

from pipeline.base import commands
from pipeline.base.console import say
from pipeline.base.lazy import tf
from pipeline.base.system import cores

NVIDIA_SECONDS = 10  # that nvidia-smi may take to list the GPUs


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --precision."""
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="auto: bfloat16 on GPUs that have it, else float32 (default)",
    )


def pick_strategy() -> tf.distribute.Strategy:
    """The strategy for all machines in TF_CONFIG, else all GPUs of this one, else one device."""
    if "TF_CONFIG" in os.environ:
        say("waiting for all workers that TF_CONFIG names")
        return tf.distribute.MultiWorkerMirroredStrategy()
    if len(tf.config.list_physical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def resolve_precision(setting: str) -> str:
    """The name of the Keras mixed-precision policy for a value of `--precision`.

    "auto" means bfloat16 if this machine has GPUs and all of them support it (compute capability 8
    or above), else float32.

    Args:
        setting: "auto", "float32" or "bfloat16".

    Returns:
        "float32" or "mixed_bfloat16".
    """
    if setting != "auto":
        return {"bfloat16": "mixed_bfloat16"}.get(setting, setting)
    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    supported = all(detail.get("compute_capability", (0, 0)) >= (8, 0) for detail in details)
    return "mixed_bfloat16" if gpus and supported else "float32"


def say_where(strategy: tf.distribute.Strategy) -> None:
    """Prints on what a training runs, and how to get a GPU used that TensorFlow does not see."""
    gpus = tf.config.list_physical_devices("GPU")
    copies = strategy.num_replicas_in_sync
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus[:copies]]
    names = [detail.get("device_name", "GPU of unknown name") for detail in details]
    own = ", ".join(names) or f"{cores()} CPU core{'s' * (cores() > 1)}"
    others = copies - max(1, len(names))
    more = f", and {others} devices of other machines" if others > 0 else ""
    say(f"training on {own}{more}")
    if not gpus and (way := way_to_unseen_gpu()):
        say(f"note: nvidia-smi lists a GPU that TensorFlow does not see; {way}")


def way_to_unseen_gpu() -> str:
    """How to let TensorFlow use a GPU of this machine that it does not see; "" without one.

    Windows: TensorFlow has had no GPU support there, outside WSL 2, since version 2.11
    (https://www.tensorflow.org/install/pip).
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):  # hidden on purpose
        return ""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        listing = subprocess.run(
            [program, "-L"], capture_output=True, timeout=NVIDIA_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):  # it is there, and the driver is not
        return ""
    if b"GPU" not in listing.stdout:
        return ""
    if sys.platform == "win32":
        return "under Windows it uses one inside WSL 2 only"
    requirements = commands.here("requirements-gpu.txt")
    install = commands.line(commands.python(), "-m", "pip", "install", "-r", requirements)
    return f"its CUDA libraries are installed by: {install}"
