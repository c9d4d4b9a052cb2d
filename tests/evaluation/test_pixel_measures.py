"""Confusion matrix, precision, recall, Dice and the tail against scikit-learn and by hand."""

import numpy as np
import pytest

from pipeline.data.classes import IGNORED
from pipeline.evaluation.boundary import boundary_counts
from pipeline.evaluation.pixel_measures import TAIL, count, fields, together
from pipeline.inference.iou import class_counts, iou_per_class, mean_iou

NAMES = ("sky", "road", "car", "never")


class Predicting:
    """A model whose class maps are its images' first channel."""

    batch = 3

    def class_maps(self, images):
        return images[..., 0].astype(np.int64)


@pytest.fixture(scope="module")
def split():
    """Images and masks of 20 pictures: three classes, a fourth that nowhere occurs, IGNORED."""
    random = np.random.default_rng(0)
    masks = random.integers(0, 3, (20, 4, 6)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    wrong = random.random(masks.shape) < random.uniform(0, 0.6, (20, 1, 1))
    predicted = np.where(wrong, random.integers(0, 3, masks.shape), masks).astype(np.uint8)
    masks[random.random(masks.shape) < 0.05] = IGNORED
    return predicted[..., None].repeat(3, -1), masks


def labelled(split):
    images, masks = split
    return masks[masks != IGNORED], images[..., 0][masks != IGNORED]


def test_counts_are_those_of_every_image_and_batch(split):
    images, masks = split
    advanced = []
    counted = count(Predicting(), images, masks, 4, advanced.append)
    assert advanced == [3] * 6 + [2]
    np.testing.assert_array_equal(counted.per_image, class_counts(masks, images[..., 0], 4))
    assert counted.per_image.dtype == np.int32
    boundary = boundary_counts(masks, images[..., 0], 4).sum(axis=0)
    np.testing.assert_array_equal(counted.boundary, boundary)
    parts = [count(Predicting(), images[rows], masks[rows], 4) for rows in (slice(7), slice(7, 20))]
    for whole, joined in zip(counted, together(parts)):
        np.testing.assert_array_equal(whole, joined)


def test_measures_are_those_of_scikit_learn(split):
    from sklearn import metrics  # takes seconds

    images, masks = split
    counted = count(Predicting(), images, masks, 4)
    measured, (truth, predicted) = fields(counted, NAMES), labelled(split)
    expected = metrics.confusion_matrix(truth, predicted, labels=range(4))
    np.testing.assert_array_equal(measured["confusion"], expected)
    scores = metrics.precision_recall_fscore_support(truth, predicted, labels=range(3))
    for key, values in zip(("precision", "recall", "dice"), scores):
        of_class = measured[key]
        assert [of_class[name] for name in NAMES[:3]] == pytest.approx(values, abs=1e-5)
        assert of_class["never"] is None
    assert measured["mean_dice"] == pytest.approx(scores[2].mean(), abs=1e-5)


def test_class_that_is_only_predicted_has_a_precision_and_no_recall(split):
    images, masks = split
    masks = np.where(masks == 2, 1, masks)  # no car in any mask
    measured = fields(count(Predicting(), images, masks, 4), NAMES)
    assert measured["precision"]["car"] == measured["dice"]["car"] == 0
    assert measured["recall"]["car"] is None


def test_tail_is_a_percentile_over_the_pictures(split):
    images, masks = split
    counted = count(Predicting(), images, masks, 4)
    scores = [
        mean_iou(iou_per_class(class_counts(masks[k : k + 1], images[k : k + 1, ..., 0], 4)[0]))
        for k in range(len(masks))
    ]
    tail = fields(counted, NAMES)["mean_iou_tail"]
    assert tail == pytest.approx(np.percentile(scores, TAIL), abs=1e-5)
    assert np.mean(np.array(scores) < tail) <= TAIL / 100
