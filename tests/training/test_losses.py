"""The losses, compared with NumPy, Keras and scikit-learn."""

import json

import numpy as np
import pytest

from pipeline.base.lazy import keras, tf
from pipeline.data.classes import IGNORED
from pipeline.training import losses
from pipeline.training.mirroring import Mirror


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


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 0.0]])
def test_ignored_pixels_count_for_nothing(weights):
    """The loss of an image with ignored pixels is that of the labelled pixels alone."""
    random = np.random.default_rng(0)
    masks = random.integers(0, 3, (2, 8, 8)).astype(np.int32)
    masks[:, :, 5:] = IGNORED
    logits = random.normal(0, 2, (2, 8, 8, 3)).astype(np.float32)
    expected = float(losses.segmentation_loss(masks[:, :, :5], logits[:, :, :5], weights))
    loss = float(losses.segmentation_loss(masks, logits, weights))
    assert loss == pytest.approx(expected, rel=1e-5)
    assert float(losses.segmentation_loss(np.full_like(masks, IGNORED), logits, weights)) == 0


def test_class_weights_in_cross_entropy_against_keras():
    random = np.random.default_rng(0)
    masks, weights = random.integers(0, 3, (2, 8, 8)).astype(np.int32), [0.5, 2.0, 1.0]
    logits = random.normal(0, 2, (2, 8, 8, 3)).astype(np.float32)
    per_pixel = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")
    pixel_weights = np.array(weights)[masks]
    expected = np.sum(per_pixel(masks, logits).numpy() * pixel_weights) / pixel_weights.sum()
    unweighted = float(losses.segmentation_loss(masks, logits))
    jaccard = unweighted - float(tf.reduce_mean(per_pixel(masks, logits)))
    weighted = float(losses.segmentation_loss(masks, logits, weights))
    assert weighted - jaccard == pytest.approx(expected, rel=1e-4)


def test_balanced_weights_are_those_of_scikit_learn():
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.random.default_rng(0).choice(4, 5000, p=(0.7, 0.2, 0.09, 0.01))
    shares = list(np.bincount(labels) / len(labels))
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    np.testing.assert_allclose(losses.balanced_weights(shares), expected, atol=1e-4)
    assert losses.balanced_weights([*shares, 0.0])[-1] == 0, "a class without pixels"


def test_loss_of_a_perfect_prediction_is_near_zero():
    masks = np.random.default_rng(0).integers(0, 3, (2, 32, 32))
    assert float(losses.segmentation_loss(masks, 50 * tf.one_hot(masks, 3))) < 1e-3


def test_soft_cross_entropy_against_numpy():
    """It is smallest, by the definition of cross-entropy, where the student agrees."""
    teacher, student = np.random.default_rng(0).normal(0, 2, (2, 3, 8, 8, 3)).astype(np.float32)
    expected = -np.mean((softmax(teacher) * np.log(softmax(student))).sum(axis=-1))
    loss = float(losses.soft_cross_entropy(softmax(teacher), student))
    assert loss == pytest.approx(expected, rel=1e-5)
    assert float(losses.soft_cross_entropy(softmax(teacher), teacher)) < loss


def test_probabilities_are_averaged_over_an_image_and_its_mirror_image():
    """For a model of single pixels that changes nothing; for one of positions it does."""
    images = np.random.default_rng(0).random((2, 4, 6, 3)).astype(np.float32)
    alone = losses.mirrored_probabilities(lambda batch, training: 3 * batch, images)
    np.testing.assert_allclose(alone, softmax(3 * images), atol=1e-6)
    columns = np.broadcast_to(np.arange(6.0)[None, None, :, None] * [1, 0, 0], images.shape)
    columns = columns.astype(np.float32)
    mean = losses.mirrored_probabilities(lambda batch, training: columns, images)
    expected = (softmax(columns) + softmax(columns[:, :, ::-1])) / 2
    np.testing.assert_allclose(mean, expected, atol=1e-6)


def test_probabilities_of_classes_that_change_places_change_back():
    """A model that tells the left half of a picture from the right one, however it is turned."""
    images = np.zeros((1, 2, 6, 3), np.float32)
    sides = np.zeros((1, 2, 6, 3), np.float32)
    sides[:, :, :3, 0] = sides[:, :, 3:, 1] = 5  # class 0 on the left, 1 on the right

    def model(batch, training):
        return sides

    right = losses.mirrored_probabilities(model, images, Mirror(classes=(1, 0, 2)))
    np.testing.assert_allclose(right, softmax(sides), atol=1e-6)
    wrong = losses.mirrored_probabilities(model, images)
    np.testing.assert_allclose(wrong, (softmax(sides) + softmax(sides[:, :, ::-1])) / 2, atol=1e-6)
    alone = losses.mirrored_probabilities(model, images, Mirror(flips=False))
    np.testing.assert_allclose(alone, softmax(sides), atol=1e-6)


def test_later_stages_train_for_the_objective_that_a_record_holds():
    objective = losses.Objective([1.0, 2.0, 0.5], mirror=Mirror(False, (1, 0, 2)))
    metrics = json.loads(json.dumps(objective.as_metrics()))
    assert losses.recorded_objective(metrics) == objective
    assert losses.recorded_objective({}) == losses.Objective()  # an older record


def test_objective_is_the_loss_from_the_masks_and_with_a_teacher_the_sum_of_both():
    masks = np.random.default_rng(0).integers(0, 3, (2, 4, 6))
    images, logits = np.random.default_rng(1).normal(0, 1, (2, 2, 4, 6, 3)).astype(np.float32)
    from_masks = losses.segmentation_loss(masks, logits, [0.5, 2.0, 1.0])
    objective = losses.Objective([0.5, 2.0, 1.0])
    assert float(objective(images, masks, logits)) == float(from_masks)
    taught = losses.Objective([0.5, 2.0, 1.0], lambda batch, training: 2 * batch, 3.0)
    from_teacher = losses.soft_cross_entropy(softmax(2 * images), logits)
    expected = float(from_masks) + 3 * float(from_teacher)
    assert float(taught(images, masks, logits)) == pytest.approx(expected)
