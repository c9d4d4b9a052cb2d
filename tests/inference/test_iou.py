"""Mean IoU against scikit-learn and against examples computed by hand."""

import numpy as np
import pytest

from pipeline.data.classes import IGNORED
from pipeline.inference.iou import class_counts, iou_per_class, mean_iou


@pytest.mark.parametrize("classes", [2, 3, 150])
@pytest.mark.parametrize("ignored", [0.0, 0.3])
def test_counts_and_mean_iou_agree_with_scikit_learn(classes, ignored):
    from sklearn import metrics as sklearn_metrics

    random = np.random.default_rng(1)
    masks, predictions = random.integers(0, classes, (2, 6, 37, 23))
    masks = masks.astype(np.uint8)  # the type of prepared masks
    masks[random.random(masks.shape) < ignored] = IGNORED
    counts = class_counts(masks, predictions, classes)
    assert counts.shape == (6, 3, classes)
    labels = list(range(classes))
    for mask, prediction, image_counts in zip(masks, predictions, counts):
        labelled = mask != IGNORED
        confusion = sklearn_metrics.confusion_matrix(
            mask[labelled], prediction[labelled], labels=labels
        )
        np.testing.assert_array_equal(
            image_counts, [confusion.diagonal(), confusion.sum(1), confusion.sum(0)]
        )
    labelled = masks != IGNORED
    expected = sklearn_metrics.jaccard_score(masks[labelled], predictions[labelled], average=None)
    np.testing.assert_allclose(iou_per_class(counts.sum(axis=0)), expected)
    assert mean_iou(iou_per_class(counts.sum(axis=0))) == pytest.approx(expected.mean())


def test_counts_and_iou_by_hand():
    mask = np.array([[[0, 0, 1, IGNORED], [0, 1, 1, IGNORED]]], np.uint8)
    prediction = np.array([[[0, 1, 1, 2], [0, 1, 0, 0]]])
    counts = class_counts(mask, prediction, 3)
    np.testing.assert_array_equal(counts, [[[2, 2, 0], [3, 3, 0], [3, 3, 0]]])
    # Classes 0 and 1: 2 shared of a union of 4. Class 2 was predicted on an ignored pixel only.
    np.testing.assert_array_equal(iou_per_class(counts[0]), [0.5, 0.5, np.nan])


def test_class_that_does_not_occur_is_left_out_of_the_mean():
    assert mean_iou(np.array([0.9, 0.9, np.nan])) == pytest.approx(0.9)
    assert mean_iou(np.array([[0.5, np.nan], [0.25, 0.75]])).tolist() == [0.5, 0.5]


def test_class_that_is_only_predicted_has_iou_zero():
    mask, prediction = np.zeros((1, 4, 4), np.uint8), np.zeros((1, 4, 4), np.int64)
    prediction[0, 0, 0] = 2
    iou = iou_per_class(class_counts(mask, prediction, 3)[0])
    np.testing.assert_array_equal(iou, [15 / 16, np.nan, 0])
    assert mean_iou(iou) == 15 / 32
