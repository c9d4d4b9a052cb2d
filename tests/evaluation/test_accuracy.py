"""Accuracy over a split: what is counted is what scikit-learn counts, image by image, in order."""

import numpy as np
import pytest

from pipeline.base.artifacts import MODELS
from pipeline.data.dataset import load_split
from pipeline.evaluation import accuracy


@pytest.fixture(scope="module")
def split(evaluated_run):
    """Every test image, the last of them twice, so that threads get shares of unequal size."""
    images, masks = (np.asarray(part) for part in load_split(evaluated_run, "test"))
    return tuple(np.concatenate([part, part[-1:]]) for part in (images, masks))


@pytest.mark.parametrize("name", ["original", "int8", "dynamic"])
def test_counts_are_those_of_scikit_learn(evaluated_run, split, name):
    from sklearn import metrics

    images, masks = split
    found = accuracy.counts_per_image(evaluated_run, name, images, masks, 3)
    maps = accuracy.class_maps(evaluated_run, name, images)
    assert found.shape == (len(images), 3, 3) and maps.shape == masks.shape
    for counts, mask, predicted in zip(found, masks, maps):
        matrix = metrics.confusion_matrix(mask.ravel(), predicted.ravel(), labels=[0, 1, 2])
        expected = [matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)]
        np.testing.assert_array_equal(counts, expected)


@pytest.mark.parametrize("name", MODELS)
def test_rows_keep_the_order_of_the_images(evaluated_run, split, name, monkeypatch):
    """However the images are shared out among threads: the report picks photos by their row."""
    images, masks = split
    forwards = accuracy.counts_per_image(evaluated_run, name, images, masks, 3)
    assert len(np.unique(forwards, axis=0)) > len(images) // 2  # rows can be told apart
    monkeypatch.setattr(accuracy, "cores", lambda: 4)
    backwards = accuracy.counts_per_image(evaluated_run, name, images[::-1], masks[::-1], 3)
    np.testing.assert_array_equal(backwards[::-1], forwards)


def test_more_threads_than_images(evaluated_run, split, monkeypatch):
    images, masks = (part[:2] for part in split)
    expected = accuracy.counts_per_image(evaluated_run, "int8", images, masks, 3)
    monkeypatch.setattr(accuracy, "cores", lambda: 5)
    found = accuracy.counts_per_image(evaluated_run, "int8", images, masks, 3)
    np.testing.assert_array_equal(found, expected)


def test_unquantised_files_see_what_the_keras_models_see(evaluated_run, split):
    for keras_name, name in (("original", "float32"), ("pruned", "pruned_float32")):
        one, other = (
            accuracy.class_maps(evaluated_run, each, split[0]) for each in (keras_name, name)
        )
        assert (one != other).mean() < 0.001


def test_fields_of_a_class_that_is_nowhere():
    """Two pictures of 10 pixels, two classes in them, a third that nobody has seen."""
    original = np.array([[[4, 4, 0], [5, 5, 0], [5, 5, 0]]] * 2)
    worse = np.array([[[3, 4, 0], [5, 5, 0], [4, 6, 0]]] * 2)
    found = accuracy.fields(worse, original, ("cat", "dog", "cow"), 7)
    assert found["iou"] == {"cat": 0.5, "dog": round(4 / 7, 5), "cow": None}
    assert found["mean_iou"] == round((0.5 + 4 / 7) / 2, 5)
    assert found["mean_iou_drop"] == round(4 / 6 - (0.5 + 4 / 7) / 2, 5)
    assert found["iou_drop"]["cow"] is None and found["pixel_accuracy"] == 0.7
