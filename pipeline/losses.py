"""What training minimises."""

from __future__ import annotations

from pipeline.packages import tf

JACCARD_WEIGHT = 1.0  # of the soft Jaccard term, beside cross-entropy


def segmentation_loss(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy plus the soft Jaccard distance, averaged over classes; a scalar.

    Cross-entropy counts pixels; the Jaccard term follows the mean IoU that we are judged by
    and keeps the thin border from being outvoted (Rahman and Wang 2016).

    Args:
        masks: int32 (batch, height, width). logits: float32 (batch, height, width, classes).
    """
    cross_entropy = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(masks, logits))
    truth = tf.one_hot(masks, logits.shape[-1])
    probabilities = tf.nn.softmax(logits)
    shared = tf.reduce_sum(truth * probabilities, axis=(0, 1, 2))
    either = tf.reduce_sum(truth + probabilities, axis=(0, 1, 2)) - shared
    return cross_entropy + JACCARD_WEIGHT * tf.reduce_mean(1 - (shared + 1) / (either + 1))


def distillation_loss(teacher_logits: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy against the teacher's class probabilities; a scalar.

    Distillation: Hinton, Vinyals and Dean 2015. Both float32 (batch, height, width, classes).
    """
    return tf.reduce_mean(
        tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(teacher_logits), logits)
    )
