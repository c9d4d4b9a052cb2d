"""Augmentation, and the batches of an epoch in their seeded order."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from pipeline.base.console import UserError
from pipeline.base.lazy import tf
from pipeline.data.classes import IGNORED
from pipeline.training.mirroring import USUAL, Mirror

ROTATION = 12.0  # degrees, largest rotation in either direction
SMALLEST_CROP = 0.65  # side of the smallest crop over the side of the image
COLOUR_CHANGE = 0.25  # largest change of brightness, contrast and saturation, as a fraction
DRAWS = 12  # random numbers per example, see `augment`


def augment(
    images: tf.Tensor,
    masks: tf.Tensor,
    draws: tf.Tensor,
    ignored: bool = False,
    mirror: Mirror = USUAL,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Randomly crops, scales, rotates, flips and recolours a batch.

    It is a pure function of its random numbers: the same numbers give the same batch on any number
    of machines. One affine transformation moves an image and its mask. Pixels from beyond the edges
    are mirrored or, if masks may hold IGNORED, black in the image and IGNORED in the mask.

    Args:
        images: uint8 (batch, height, width, 3).
        masks: uint8 (batch, height, width).
        draws: float32 (batch, DRAWS), uniform in 0..1.
        ignored: whether masks may hold IGNORED.
        mirror: whether examples are flipped, and which classes then change places.

    Returns:
        float32 images in 0..1 and int32 masks, of the same shapes.
    """
    height, width = (tf.cast(tf.shape(images)[axis], tf.float32) for axis in (1, 2))
    signed = 2 * draws - 1
    scale = SMALLEST_CROP + (1 - SMALLEST_CROP) * draws[:, 0]
    aspect = tf.exp(0.15 * signed[:, 1])
    flipped = draws[:, 2] < (0.5 if mirror.flips else 0.0)
    flip = tf.where(flipped, -1.0, 1.0)
    angle = signed[:, 3] * ROTATION * np.pi / 180
    shift_x = signed[:, 4] * (1 - scale) * width / 2
    shift_y = signed[:, 5] * (1 - scale) * height / 2
    a, b = flip * scale * aspect * tf.cos(angle), -scale / aspect * tf.sin(angle)
    c, d = flip * scale * aspect * tf.sin(angle), scale / aspect * tf.cos(angle)
    # The transformation maps output pixels to input pixels, about the centre of the image.
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
    if mirror.classes:
        others = range(len(mirror.classes), IGNORED + 1)  # IGNORED stays, too
        masks = tf.where(
            flipped[:, None, None], tf.gather([*mirror.classes, *others], masks), masks
        )
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


@functools.cache
def traced_augment() -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
    """`augment`, which TensorFlow traces once for a size of batches and not in every epoch."""
    return cast(Callable[..., tuple[tf.Tensor, tf.Tensor]], tf.function(augment, autograph=False))


def steps_per_epoch(images: int, batch_size: int) -> int:
    """The number of whole batches in an epoch.

    Raises:
        UserError: there are fewer images than a batch has.
    """
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
    mirror: Mirror = USUAL,
) -> tf.data.Dataset:
    """The augmented batches of one epoch, for one worker.

    Order and augmentation depend on seed and epoch alone, so a resumed run continues as if it had
    not been stopped. Images that do not fill the last batch are left out of this epoch.

    Args:
        images: of a split, uint8 (n, height, width, 3), as an array or as `dataset.Rows`.
        masks: of the same split, uint8 (n, height, width), as an array or as `dataset.Rows`.
        batch_size: images per step, over all devices of all workers.
        seed: at least 0.
        epoch: counted from 0.
        worker: number of this worker, from 0.
        workers: how many there are.
        devices: of each worker.
        ignored: whether masks may hold IGNORED.

    Returns:
        Pairs of images and masks as `augment` returns them; one pair per step and device, each of
        batch_size / (workers * devices) images.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(images))
    draws = random.random((len(images), DRAWS), np.float32)
    steps = len(images) // batch_size
    per_device = batch_size // (workers * devices)
    positions = np.arange(steps * batch_size).reshape(steps, workers, -1)
    own_positions = positions[:, worker].reshape(-1, per_device)

    def gather(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return images[rows], masks[rows]

    def load(rows: tf.Tensor, row_draws: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        batch, truth = tf.numpy_function(gather, [rows], (tf.uint8, tf.uint8))
        batch.set_shape((rows.shape[0], *images.shape[1:]))
        truth.set_shape((rows.shape[0], *masks.shape[1:]))
        return traced_augment()(batch, truth, row_draws, ignored, mirror)

    options = tf.data.Options()
    # There is nothing to tune here. The tuning thread sleeps for 10 ms, 20 ms, 40 ms ... up to a
    # minute, and the end of an epoch may wait for it: epochs of 45 s took 82 s, which is 10 ms +
    # 20 ms + ... + 41 s.
    options.autotune.enabled = False
    pieces = tf.data.Dataset.from_tensor_slices((order[own_positions], draws[own_positions]))
    return pieces.map(load).prefetch(2).with_options(options)
