"""The objective of a training: the loss from masks, and the one from a teacher."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.base.lazy import tf
from pipeline.data.classes import IGNORED
from pipeline.training.mirroring import USUAL, Mirror, recorded

JACCARD_WEIGHT = 1.0  # of the soft Jaccard term, relative to cross-entropy

Loss = Callable[[Any, Any, Any], Any]  # (images, masks, logits) -> scalar, see `Objective`


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --class-weights."""
    parser.add_argument(
        "--class-weights",
        choices=("none", "balanced"),
        default="none",
        help="balanced: weight pixels inversely to the share of their class (default: none)",
    )


@dataclass(frozen=True)
class Objective:
    """What a training minimises: the loss from the masks and, with a teacher, one from the teacher.

    It is called with float32 images (batch, height, width, 3) in 0..1, int32 masks (batch, height,
    width) and float32 logits (batch, height, width, classes), and returns a float32 scalar.
    """

    class_weights: Sequence[float] | None = None  # see `segmentation_loss`
    # From float32 images to logits. It predicts each augmented image anew.
    teacher: Callable[..., Any] | None = None
    teacher_weight: float = 1.0  # of the term from the teacher
    mirror: Mirror = USUAL  # of the augmentation; the teacher sees mirror images as it does

    def __call__(self, images: tf.Tensor, masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """The value to minimise, a float32 scalar."""
        from_masks = segmentation_loss(masks, logits, self.class_weights)
        if self.teacher is None:
            return from_masks
        probabilities = mirrored_probabilities(self.teacher, images, self.mirror)
        from_teacher = soft_cross_entropy(probabilities, logits)
        return from_masks + self.teacher_weight * from_teacher

    def as_metrics(self) -> dict[str, Any]:
        """For the record of a model; later stages read it with `recorded_objective`."""
        return {"class_weights": self.class_weights, "mirror": self.mirror.as_metrics()}


def recorded_objective(metrics: Mapping[str, Any]) -> Objective:
    """The objective that a model was trained for, without a teacher, from its record's metrics."""
    return Objective(metrics.get("class_weights"), mirror=recorded(metrics))


def segmentation_loss(
    masks: tf.Tensor, logits: tf.Tensor, class_weights: Sequence[float] | None = None
) -> tf.Tensor:
    """Cross-entropy, averaged over pixels, plus the soft Jaccard distance, averaged over classes.

    The Jaccard term follows the mean IoU, by which models are compared, and gives thin and small
    classes the weight of large ones (Rahman and Wang, *Optimizing Intersection-Over-Union in Deep
    Neural Networks for Image Segmentation*, 2016).

    IGNORED pixels count for nothing. Cross-entropy is the weighted mean over the other pixels; the
    weight of a pixel is that of its class. Without any labelled pixel the loss is 0.

    Args:
        masks: int32 (batch, height, width), class of each pixel, or IGNORED.
        logits: float32 (batch, height, width, classes).
        class_weights: at least 0, see `balanced_weights`; None: all 1.

    Returns:
        A float32 scalar.
    """
    labelled = tf.cast(tf.not_equal(masks, IGNORED), tf.float32)
    masks = tf.where(tf.equal(masks, IGNORED), 0, masks)
    weights = labelled
    if class_weights is not None:
        weights *= tf.gather(tf.constant(class_weights, tf.float32), masks)
    entropies = tf.nn.sparse_softmax_cross_entropy_with_logits(masks, logits)
    cross_entropy = tf.math.divide_no_nan(
        tf.reduce_sum(weights * entropies), tf.reduce_sum(weights)
    )
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


def mirrored_probabilities(
    model: Any,
    images: tf.Tensor,
    mirror: Mirror = USUAL,
) -> tf.Tensor:
    """Class probabilities of a model, averaged over each image and its mirror image.

    Args:
        model: from float32 images to logits.
        images: float32 (batch, height, width, 3) in 0..1.
        mirror: without flips, only the image itself counts; classes that change places in the
            mirror image change back.

    Returns:
        float32 (batch, height, width, classes).
    """
    if not mirror.flips:
        return tf.nn.softmax(model(images, training=False))
    mirrored = tf.reverse(model(tf.reverse(images, [2]), training=False), [2])
    if mirror.classes:
        mirrored = tf.gather(mirrored, mirror.classes, axis=-1)
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
