"""The losses of training and distillation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.base.lazy import tf
from pipeline.data.classes import IGNORED, Classes

JACCARD_WEIGHT = 1.0  # of the soft Jaccard term, relative to cross-entropy

Loss = Callable[..., Any]  # (masks, logits) -> scalar


def make_loss(classes: Classes, weights: list[float] | None = None) -> Loss:
    """Return the segmentation loss for a data set.

    Args:
        classes: the classes of the masks, and whether masks may hold IGNORED.
        weights: of each class in cross-entropy, see `balanced_weights`; None: all 1.

    Returns:
        A function of int32 masks (batch, height, width) and float32 logits (batch, height, width,
        classes) to a float32 scalar, see `segmentation_loss` and `weighted_loss`.
    """

    def loss(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        if weights is None and not classes.ignored:
            return segmentation_loss(masks, logits)
        return weighted_loss(masks, logits, weights or [1.0] * len(classes))

    return loss


def segmentation_loss(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy, averaged over pixels, plus the soft Jaccard distance, averaged over classes.

    The Jaccard term follows the mean IoU, by which models are compared, and gives thin and small
    classes the weight of large ones (Rahman and Wang, *Optimizing Intersection-Over-Union in Deep
    Neural Networks for Image Segmentation*, 2016).

    Args:
        masks: int32 (batch, height, width), class of each pixel.
        logits: float32 (batch, height, width, classes).

    Returns:
        A float32 scalar.
    """
    cross_entropy = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(masks, logits))
    truth = tf.one_hot(masks, logits.shape[-1])
    probabilities = tf.nn.softmax(logits)
    intersection = tf.reduce_sum(truth * probabilities, axis=(0, 1, 2))
    union = tf.reduce_sum(truth + probabilities, axis=(0, 1, 2)) - intersection
    return cross_entropy + JACCARD_WEIGHT * tf.reduce_mean(1 - (intersection + 1) / (union + 1))


def weighted_loss(masks: tf.Tensor, logits: tf.Tensor, weights: list[float]) -> tf.Tensor:
    """`segmentation_loss` for masks with IGNORED pixels, and for weighted classes.

    IGNORED pixels count for nothing. Cross-entropy is the weighted mean over the other pixels; the
    weight of a pixel is that of its class. Without any labelled pixel the loss is 0.

    Args:
        masks: int32 (batch, height, width), class of each pixel, or IGNORED.
        logits: float32 (batch, height, width, classes).
        weights: of each class, at least 0.

    Returns:
        A float32 scalar.
    """
    labelled = tf.cast(tf.not_equal(masks, IGNORED), tf.float32)
    masks = tf.where(tf.equal(masks, IGNORED), 0, masks)
    entropies = tf.nn.sparse_softmax_cross_entropy_with_logits(masks, logits)
    weight = labelled * tf.gather(tf.constant(weights, tf.float32), masks)
    cross_entropy = tf.math.divide_no_nan(tf.reduce_sum(weight * entropies), tf.reduce_sum(weight))
    truth = tf.one_hot(masks, logits.shape[-1]) * labelled[..., None]
    probabilities = tf.nn.softmax(logits) * labelled[..., None]
    intersection = tf.reduce_sum(truth * probabilities, axis=(0, 1, 2))
    union = tf.reduce_sum(truth + probabilities, axis=(0, 1, 2)) - intersection
    return cross_entropy + JACCARD_WEIGHT * tf.reduce_mean(1 - (intersection + 1) / (union + 1))


def balanced_weights(shares: list[float]) -> list[float]:
    """Class weights in inverse proportion to the share of pixels of each class.

    As `class_weight="balanced"` of scikit-learn. The mean weight over all pixels is 1.

    Args:
        shares: share of pixels of each class, 0 to 1.

    Returns:
        A weight per class, rounded to 4 places; 0 for a class without pixels.
    """
    present = np.count_nonzero(shares)
    return [round(1 / (present * share), 4) if share else 0.0 for share in shares]


def distillation_loss(truth: Loss, teacher: Any, weight: float = 1.0) -> Callable[..., Any]:
    """Return a loss from the masks and from the predictions of a teacher, for `loop.fit`.

    Args:
        truth: the loss from the masks.
        teacher: model from float32 images to logits. It predicts each augmented image anew.
        weight: of the term from the teacher.

    Returns:
        A function of float32 images (batch, height, width, 3) in 0..1, int32 masks (batch, height,
        width) and float32 logits (batch, height, width, classes) to a scalar.
    """

    def loss(images: tf.Tensor, masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        from_teacher = soft_cross_entropy(mirrored_probabilities(teacher, images), logits)
        return truth(masks, logits) + weight * from_teacher

    return loss


def mirrored_probabilities(model: Any, images: tf.Tensor) -> tf.Tensor:
    """Class probabilities of a model, averaged over each image and its mirror image.

    Args:
        model: from float32 images to logits.
        images: float32 (batch, height, width, 3) in 0..1.

    Returns:
        float32 (batch, height, width, classes).
    """
    mirrored = tf.reverse(model(tf.reverse(images, [2]), training=False), [2])
    return (tf.nn.softmax(model(images, training=False)) + tf.nn.softmax(mirrored)) / 2


def soft_cross_entropy(probabilities: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of logits against the class probabilities of a teacher, averaged over pixels.

    Knowledge distillation: Hinton, Vinyals and Dean, *Distilling the Knowledge in a Neural
    Network*, 2015.

    Args:
        probabilities, logits: float32 (batch, height, width, classes).

    Returns:
        A float32 scalar.
    """
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(probabilities, logits))
