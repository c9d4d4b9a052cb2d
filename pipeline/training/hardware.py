"""The devices and machines that a training runs on, and its precision."""

from __future__ import annotations

import os

from pipeline.base.console import say
from pipeline.base.lazy import tf


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
