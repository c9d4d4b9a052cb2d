"""Several workers that train one model: they begin from one state, and end together.

TensorFlow finds out by heartbeats of its own threads, within about ten seconds and however long a
step takes, that another worker is gone. Then every operation over all workers fails.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator

import numpy as np

from pipeline.base.console import UserError, continuation
from pipeline.base.lazy import tf
from pipeline.base.stage import Stage

CHUNK = 8_000_000  # numbers of 8 bytes that are sent to the other workers at a time


def spans_workers(strategy: tf.distribute.Strategy) -> bool:
    """Whether a strategy is that of several processes, see `hardware.pick_strategy`."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def from_first_worker(content: bytes | None, strategy: tf.distribute.Strategy) -> bytes | None:
    """What the first worker has, on every worker.

    All workers call it, in the same place of their program. It relies on this: the initial value
    of a variable of MultiWorkerMirroredStrategy is that of the first worker.

    Args:
        content: counts on the first worker only; None: there is nothing.
        strategy: one that spans workers.
    """

    def sent(numbers: np.ndarray) -> np.ndarray:
        with strategy.scope():
            return tf.Variable(numbers, dtype=tf.int64, trainable=False).numpy()

    size = -1 if content is None else len(content)
    size = int(sent(np.array([size], np.int64))[0])
    if size < 0:
        return None
    padded = (content or b"")[:size].ljust(-(-size // 8) * 8, b"\0")
    numbers = np.frombuffer(padded, np.int64)
    chunks = [sent(numbers[k : k + CHUNK]) for k in range(0, len(numbers), CHUNK)]
    return b"".join(chunk.tobytes() for chunk in chunks)[:size]


def check_same_run(stage: Stage, strategy: tf.distribute.Strategy) -> None:
    """Compares the run of this worker with that of the first one.

    Packages may differ.

    Raises:
        UserError: settings, data set or code differ.
    """
    first = from_first_worker(json.dumps(stage.identity.as_dict()).encode(), strategy)
    reasons = stage.differences(json.loads(first or b"{}"))
    if texts := [reason.text for reason in reasons if reason.kind != "package"]:
        raise UserError(
            f"this worker does not train what the first one trains ({texts[0]} there); start all "
            "workers with the same command, code and data set"
        )


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Turns the error of TensorFlow when another worker is gone into one line.

    Raises:
        UserError: another worker is gone.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if "TF_CONFIG" not in os.environ or not is_about_workers(str(error)):
            raise
        raise UserError(
            "another worker ended or can no longer be reached; look at what it printed last, then "
            f"start all workers again, here with: {continuation()}"
        ) from None


def is_about_workers(text: str) -> bool:
    """Whether the text of an error of TensorFlow is about another worker."""
    return any(word in text for word in ("ollective", "heartbeat", "oordination", "/job:"))
