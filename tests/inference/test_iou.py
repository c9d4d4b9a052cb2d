"""The one metric, against scikit-learn and by hand, and the interval around it."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from pipeline.data.classes import IGNORED
from pipeline.evaluation.bootstrap import bootstrap_mean_iou, constant_baseline, interval
from pipeline.inference import iou
from pipeline.inference.iou import class_counts, iou_per_class, mean_iou


@pytest.mark.parametrize("classes", [2, 3, 150])
@pytest.mark.parametrize("ignored", [0.0, 0.3])
def test_metric_agrees_with_scikit_learn(classes, ignored):
    random = np.random.default_rng(1)
    masks, predictions = random.integers(0, classes, (2, 6, 37, 23))
    masks = masks.astype(np.uint8)  # as they are stored
    masks[random.random(masks.shape) < ignored] = IGNORED
    counts = class_counts(masks, predictions, classes)
    assert counts.shape == (6, 3, classes)
    for mask, prediction, found in zip(masks, predictions, counts):
        known, labels = mask != IGNORED, list(range(classes))
        expected = sklearn_metrics.confusion_matrix(mask[known], prediction[known], labels=labels)
        np.testing.assert_array_equal(
            found, [expected.diagonal(), expected.sum(1), expected.sum(0)]
        )
    known = masks != IGNORED
    whole = sklearn_metrics.jaccard_score(masks[known], predictions[known], average=None)
    np.testing.assert_allclose(iou_per_class(counts.sum(axis=0)), whole)
    assert mean_iou(iou_per_class(counts.sum(axis=0))) == pytest.approx(whole.mean())


def test_metric_by_hand():
    mask = np.array([[[0, 0, 1, IGNORED], [0, 1, 1, IGNORED]]], np.uint8)
    prediction = np.array([[[0, 1, 1, 2], [0, 1, 0, 0]]])
    counts = class_counts(mask, prediction, 3)
    np.testing.assert_array_equal(counts, [[[2, 2, 0], [3, 3, 0], [3, 3, 0]]])
    # Of class 0, 2 are shared of 4; of class 1 as well; class 2 was predicted where nobody asks.
    np.testing.assert_array_equal(iou_per_class(counts[0]), [0.5, 0.5, np.nan])


def test_class_that_is_nowhere_counts_for_nothing():
    """Masks without a border pixel had 0.93 where the classes that exist had 0.90."""
    assert mean_iou(np.array([0.9, 0.9, np.nan])) == pytest.approx(0.9)
    assert mean_iou(np.array([[0.5, np.nan], [0.25, 0.75]])).tolist() == [0.5, 0.5]


def test_iou_of_an_imagined_class_is_zero():
    truth, guess = np.zeros((1, 4, 4), np.uint8), np.zeros((1, 4, 4), np.int64)
    guess[0, 0, 0] = 2
    found = iou_per_class(class_counts(truth, guess, 3)[0])
    np.testing.assert_array_equal(found, [15 / 16, np.nan, 0])
    assert mean_iou(found) == 15 / 32


def test_baseline_is_what_a_model_would_get_that_gives_one_class():
    random = np.random.default_rng(4)
    masks = random.choice(np.array([0, 1, 3, IGNORED], np.uint8), (5, 9, 9), p=(0.2, 0.5, 0.1, 0.2))
    truth = class_counts(masks, np.zeros(masks.shape, int), 4)[:, 1].sum(axis=0)
    best, least = constant_baseline(truth)
    found = [
        mean_iou(iou_per_class(class_counts(masks, np.full(masks.shape, k), 4).sum(axis=0)))
        for k in range(4)
    ]
    assert best == 1 and least == pytest.approx(max(found)) and found[1] == max(found)


def scores(worse):
    """Counts (n, 3, classes) of images that share so many of their 300 pixels a class."""
    return np.stack([worse, np.full_like(worse, 300), np.full_like(worse, 300)], axis=1)


def test_bootstrap_brackets_the_estimate_and_repeats(monkeypatch):
    random = np.random.default_rng(2)
    masks = random.integers(0, 3, (60, 16, 16))
    easy = random.uniform(0.5, 0.9, (60, 1, 1))  # some images are harder than others
    guesses = random.integers(0, 3, masks.shape)
    predictions = np.where(random.random(masks.shape) < easy, masks, guesses)
    counts = class_counts(masks, predictions, 3)
    low, high = interval(bootstrap_mean_iou(counts, 7))
    assert low < mean_iou(iou_per_class(counts.sum(axis=0))) < high
    assert high - low < 0.1
    assert [low, high] != interval(bootstrap_mean_iou(counts, 8))
    monkeypatch.setattr(iou, "DRAWN_AT_ONCE", 60 * 7)
    assert [low, high] == interval(bootstrap_mean_iou(counts, 7)), "memory for less at once"


def test_resamples_are_the_same_for_every_model():
    """Without that, the interval of a difference would hold the spread of the images twice."""
    worse = np.random.default_rng(3).integers(50, 200, (60, 3))
    differences = bootstrap_mean_iou(scores(worse + 1), 7) - bootstrap_mean_iou(scores(worse), 7)
    assert differences.std() < 0.1 * bootstrap_mean_iou(scores(worse), 7).std()
    assert (differences > 0).all()
