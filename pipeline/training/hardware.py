"""What a training runs on: one device, several, several machines, and in which precision."""

from __future__ import annotations

import os

from pipeline.base.lazy import tf


def pick_strategy() -> tf.distribute.Strategy:
    """All machines named in TF_CONFIG, else all GPUs of this one, else its one device."""
    if "TF_CONFIG" in os.environ:
        return tf.distribute.MultiWorkerMirroredStrategy()
    if len(tf.config.list_physical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def resolve_precision(asked: str) -> str:
    """The Keras policy: "auto" is bfloat16 on GPUs that have it, else float32.

    bfloat16 needs compute capability 8.
    """
    if asked != "auto":
        return {"bfloat16": "mixed_bfloat16"}.get(asked, asked)
    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    able = all(detail.get("compute_capability", (0, 0)) >= (8, 0) for detail in details)
    return "mixed_bfloat16" if gpus and able else "float32"
