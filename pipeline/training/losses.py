"""What training minimises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.base.lazy import tf
from pipeline.data.classes import IGNORED, Classes

JACCARD_WEIGHT = 1.0  # of the soft Jaccard term, beside cross-entropy

Loss = Callable[..., Any]  # (masks, logits) -> scalar


def make_loss(classes: Classes, weights: list[float] | None = None) -> Loss:
    """The loss for a data set, from int32 masks and float32 logits (see `segmentation_loss`).

    Args:
        weights: of each class in cross-entropy, as `balanced_weights` gives them; None: 1.
    """

    def loss(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        if weights is None and not classes.ignored:
            return segmentation_loss(masks, logits)
        return weighted_loss(masks, logits, weights or [1.0] * len(classes))

    return loss


def segmentation_loss(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy plus the soft Jaccard distance, averaged over classes; a scalar.

    Cross-entropy counts pixels; the Jaccard term follows the mean IoU that we are judged by
    and keeps thin and small classes from being outvoted (Rahman and Wang 2016).

    Args:
        masks: int32 (batch, height, width). logits: float32 (batch, height, width, classes).
    """
    cross_entropy = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(masks, logits))
    truth = tf.one_hot(masks, logits.shape[-1])
    probabilities = tf.nn.softmax(logits)
    shared = tf.reduce_sum(truth * probabilities, axis=(0, 1, 2))
    either = tf.reduce_sum(truth + probabilities, axis=(0, 1, 2)) - shared
    return cross_entropy + JACCARD_WEIGHT * tf.reduce_mean(1 - (shared + 1) / (either + 1))


def weighted_loss(masks: tf.Tensor, logits: tf.Tensor, weights: list[float]) -> tf.Tensor:
    """The same where pixels may be IGNORED, which count for nothing, and classes have weights.

    Cross-entropy is the mean over known pixels, each counting as much as its class weighs.
    """
    known = tf.cast(tf.not_equal(masks, IGNORED), tf.float32)
    masks = tf.where(tf.equal(masks, IGNORED), 0, masks)
    each = tf.nn.sparse_softmax_cross_entropy_with_logits(masks, logits)
    weight = known * tf.gather(tf.constant(weights, tf.float32), masks)
    cross_entropy = tf.math.divide_no_nan(tf.reduce_sum(weight * each), tf.reduce_sum(weight))
    truth = tf.one_hot(masks, logits.shape[-1]) * known[..., None]
    probabilities = tf.nn.softmax(logits) * known[..., None]
    shared = tf.reduce_sum(truth * probabilities, axis=(0, 1, 2))
    either = tf.reduce_sum(truth + probabilities, axis=(0, 1, 2)) - shared
    return cross_entropy + JACCARD_WEIGHT * tf.reduce_mean(1 - (shared + 1) / (either + 1))


def balanced_weights(shares: list[float]) -> list[float]:
    """Weights in inverse proportion to the classes' shares of pixels; 1 on average over pixels.

    (As scikit-learn's class_weight="balanced".) A class without a pixel has weight 0.
    """
    present = np.count_nonzero(shares)
    return [round(1 / (present * share), 4) if share else 0.0 for share in shares]


def taught_loss(truth: Loss, teacher: Any, weight: float = 1.0) -> Callable[..., Any]:
    """A loss that learns from a teacher as well as from the masks, for `fitting.fit`.

    Args:
        truth: what the masks ask for.
        teacher: a model from images to logits, asked anew about every augmented image.
        weight: of what the teacher says.
    """

    def loss(images: tf.Tensor, masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        imitation = distillation_loss(mirrored_probabilities(teacher, images), logits)
        return truth(masks, logits) + weight * imitation

    return loss


def mirrored_probabilities(model: Any, images: tf.Tensor) -> tf.Tensor:
    """A model's class probabilities, averaged over the images and their mirror images.

    Both are float32: images (batch, height, width, 3), probabilities with a class for a channel.
    """
    mirrored = tf.reverse(model(tf.reverse(images, [2]), training=False), [2])
    return (tf.nn.softmax(model(images, training=False)) + tf.nn.softmax(mirrored)) / 2


def distillation_loss(probabilities: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy against a teacher's class probabilities; a scalar.

    Distillation: Hinton, Vinyals and Dean 2015. Both float32 (batch, height, width, classes).
    """
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(probabilities, logits))
