"""Augmentation, and the order in which training sees its examples."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.base.console import UserError
from pipeline.base.lazy import tf
from pipeline.data.classes import IGNORED

ROTATION = 12.0  # degrees either way
SMALLEST_CROP = 0.65  # side of the smallest crop, as a share of the image side
COLOUR_CHANGE = 0.25  # brightness, contrast and saturation, either way
DRAWS = 12  # random numbers per example, see `augment`


def augment(
    images: tf.Tensor, masks: tf.Tensor, draws: tf.Tensor, ignored: bool = False
) -> tuple[tf.Tensor, tf.Tensor]:
    """Crops, scales, turns, flips and recolours a whole batch at once.

    A pure function of its random numbers: whoever repeats them repeats the batch, on any number
    of machines. Image and mask move by one transformation. What lies beyond the edges is mirrored
    or, where masks may have pixels of no class, black and IGNORED.

    Args:
        images: uint8 (batch, height, width, 3). masks: uint8 (batch, height, width).
        draws: float32 (batch, DRAWS), uniform in 0..1.
        ignored: whether masks may hold IGNORED.

    Returns:
        float32 images in 0..1 and int32 masks, same shapes.
    """
    height, width = (tf.cast(tf.shape(images)[axis], tf.float32) for axis in (1, 2))
    signed = 2 * draws - 1
    scale = SMALLEST_CROP + (1 - SMALLEST_CROP) * draws[:, 0]
    aspect = tf.exp(0.15 * signed[:, 1])
    flip = tf.where(draws[:, 2] < 0.5, -1.0, 1.0)
    angle = signed[:, 3] * ROTATION * np.pi / 180
    shift_x = signed[:, 4] * (1 - scale) * width / 2
    shift_y = signed[:, 5] * (1 - scale) * height / 2
    a, b = flip * scale * aspect * tf.cos(angle), -scale / aspect * tf.sin(angle)
    c, d = flip * scale * aspect * tf.sin(angle), scale / aspect * tf.cos(angle)
    # The transformation maps output pixels to input pixels around the middle.
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    across = middle_y / middle_x
    e = middle_x + shift_x - (a + b * across) * middle_x
    f = middle_y + shift_y - (c / across + d) * middle_y
    zero = tf.zeros_like(a)
    transforms = tf.stack([a, b, e, c, d, f, zero, zero], axis=1)

    def move(values: tf.Tensor, interpolation: str, fill: float) -> tf.Tensor:
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=values,
            transforms=transforms,
            output_shape=tf.shape(images)[1:3],
            fill_value=fill,
            interpolation=interpolation,
            fill_mode="CONSTANT" if ignored else "REFLECT",
        )

    masks = tf.cast(move(masks[..., None], "NEAREST", IGNORED)[..., 0], tf.int32)
    images = move(tf.cast(images, tf.float32), "BILINEAR", 0.0) / 255

    brightness, contrast, saturation = (
        1 + COLOUR_CHANGE * signed[:, k, None, None, None] for k in (6, 7, 8)
    )
    tint = 1 + 0.08 * signed[:, None, None, 9:12]
    grey = tf.reduce_mean(images, axis=3, keepdims=True)
    images = grey + (images - grey) * saturation
    mean = tf.reduce_mean(grey, axis=(1, 2), keepdims=True)
    images = ((images - mean) * contrast + mean * brightness) * tint
    return tf.clip_by_value(images, 0.0, 1.0), masks


def steps_per_epoch(images: int, batch_size: int) -> int:
    """How many whole batches an epoch has; a UserError if it has none."""
    if images < batch_size:
        raise UserError(
            f"{images} training images do not fill a batch; use --batch-size {images} or less"
        )
    return images // batch_size


def epoch_batches(
    images: Any,
    masks: Any,
    batch_size: int,
    seed: int,
    epoch: int,
    worker: int = 0,
    workers: int = 1,
    devices: int = 1,
    ignored: bool = False,
) -> tf.data.Dataset:
    """One epoch of augmented batches; of each, this worker's share in one piece per device.

    Order and augmentation depend on seed and epoch alone, so that a resumed run goes on exactly
    as if it had not stopped. What does not fill a batch is left for another epoch.

    Args:
        images, masks: a split, as arrays or as `dataset.Rows`.
        ignored: whether masks may hold IGNORED.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(images))
    draws = random.random((len(images), DRAWS), np.float32)
    steps = len(images) // batch_size
    piece = batch_size // (workers * devices)
    mine = np.arange(steps * batch_size).reshape(steps, workers, -1)[:, worker].reshape(-1, piece)

    def gather(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return images[rows], masks[rows]

    def load(rows: tf.Tensor, numbers: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        batch, truth = tf.numpy_function(gather, [rows], (tf.uint8, tf.uint8))
        batch.set_shape((rows.shape[0], *images.shape[1:]))
        truth.set_shape((rows.shape[0], *masks.shape[1:]))
        return augment(batch, truth, numbers, ignored)

    options = tf.data.Options()
    # Nothing here is to be tuned, and the thread that would do so sleeps for 10 ms, 20 ms, 40 ms
    # ... up to a minute, which the end of an epoch may have to wait for: epochs of 45 s took 82 s
    # (10 ms + 20 ms + ... + 41 s).
    options.autotune.enabled = False
    rows = tf.data.Dataset.from_tensor_slices((order[mine], draws[mine]))
    return rows.map(load).prefetch(2).with_options(options)
