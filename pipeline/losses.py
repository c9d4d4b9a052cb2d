"""What training minimises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.classes import IGNORED, Classes
from pipeline.packages import tf

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


def distillation_loss(teacher_logits: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy against the teacher's class probabilities; a scalar.

    Distillation: Hinton, Vinyals and Dean 2015. Both float32 (batch, height, width, classes).
    """
    return tf.reduce_mean(
        tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(teacher_logits), logits)
    )
