"""What training minimises, against NumPy."""

import numpy as np
import pytest

from pipeline import losses
from pipeline.packages import tf


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("classes", [3, 5])
def test_segmentation_loss_against_numpy(classes):
    random = np.random.default_rng(0)
    masks = random.integers(0, classes, (3, 8, 8))
    logits = random.normal(0, 2, (3, 8, 8, classes)).astype(np.float32)
    probabilities = softmax(logits)
    cross_entropy = -np.mean(np.log(np.take_along_axis(probabilities, masks[..., None], -1)))
    jaccard = []
    for value in range(classes):
        truth, guess = masks == value, probabilities[..., value]
        shared = (truth * guess).sum()
        jaccard.append(1 - (shared + 1) / (truth.sum() + guess.sum() - shared + 1))
    expected = cross_entropy + losses.JACCARD_WEIGHT * np.mean(jaccard)
    assert float(losses.segmentation_loss(masks, logits)) == pytest.approx(expected, rel=1e-5)


def test_perfect_prediction_costs_nothing():
    masks = np.random.default_rng(0).integers(0, 3, (2, 32, 32))
    assert float(losses.segmentation_loss(masks, 50 * tf.one_hot(masks, 3))) < 1e-3


def test_distillation_loss_against_numpy():
    """It is least, by the definition of cross-entropy, where the student agrees."""
    teacher, student = np.random.default_rng(0).normal(0, 2, (2, 3, 8, 8, 3)).astype(np.float32)
    expected = -np.mean((softmax(teacher) * np.log(softmax(student))).sum(axis=-1))
    found = float(losses.distillation_loss(teacher, student))
    assert found == pytest.approx(expected, rel=1e-5)
    assert float(losses.distillation_loss(teacher, teacher)) < found
