"""The one metric, against scikit-learn and by hand, and the interval around it."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from pipeline.metrics import bootstrap_mean_iou, confusion_matrix, interval, iou_per_class


@pytest.mark.parametrize("classes", [3, 5])
def test_metric_agrees_with_scikit_learn(classes):
    random = np.random.default_rng(1)
    masks, predictions = random.integers(0, classes, (2, 6, 17, 13))
    masks = masks.astype(np.uint8)  # as they are stored
    confusion = confusion_matrix(masks, predictions, classes)
    assert confusion.shape == (6, classes, classes)
    labels = list(range(classes))
    for mask, prediction, matrix in zip(masks, predictions, confusion):
        expected = sklearn_metrics.confusion_matrix(mask.ravel(), prediction.ravel(), labels=labels)
        np.testing.assert_array_equal(matrix, expected)
    whole = sklearn_metrics.jaccard_score(masks.ravel(), predictions.ravel(), average=None)
    np.testing.assert_allclose(iou_per_class(confusion.sum(axis=0)), whole)


def test_metric_by_hand():
    mask = np.array([[[0, 0, 1], [0, 1, 1]]])
    prediction = np.array([[[0, 1, 1], [0, 1, 0]]])
    confusion = confusion_matrix(mask, prediction, 3)
    np.testing.assert_array_equal(confusion, [[[2, 1, 0], [1, 2, 0], [0, 0, 0]]])
    # pet: 2 shared of 4; background: 2 of 4; border: neither there nor predicted
    np.testing.assert_allclose(iou_per_class(confusion[0]), [0.5, 0.5, 1.0])


def test_iou_of_an_imagined_class_is_zero():
    truth, guess = np.zeros((1, 4, 4), np.uint8), np.zeros((1, 4, 4), np.int64)
    guess[0, 0, 0] = 2
    found = iou_per_class(confusion_matrix(truth, guess, 3)[0])
    assert found.tolist() == [15 / 16, 1, 0]


def test_bootstrap_brackets_the_estimate_and_repeats():
    random = np.random.default_rng(2)
    masks = random.integers(0, 3, (60, 16, 16))
    easy = random.uniform(0.5, 0.9, (60, 1, 1))  # some images are harder than others
    guesses = random.integers(0, 3, masks.shape)
    predictions = np.where(random.random(masks.shape) < easy, masks, guesses)
    confusion = confusion_matrix(masks, predictions, 3)
    low, high = interval(bootstrap_mean_iou(confusion, 7))
    assert low < iou_per_class(confusion.sum(axis=0)).mean() < high
    assert high - low < 0.1
    assert [low, high] == interval(bootstrap_mean_iou(confusion, 7))
    assert [low, high] != interval(bootstrap_mean_iou(confusion, 8))


def test_resamples_are_the_same_for_every_model():
    """Without that, the interval of a difference would hold the spread of the images twice."""
    random = np.random.default_rng(3)
    worse = random.integers(50, 200, (60, 1, 1)) * np.eye(3, dtype=int) + 30
    better = worse + np.eye(3, dtype=int)
    differences = bootstrap_mean_iou(better, 7) - bootstrap_mean_iou(worse, 7)
    assert differences.std() < 0.1 * bootstrap_mean_iou(worse, 7).std()
    assert (differences > 0).all()
