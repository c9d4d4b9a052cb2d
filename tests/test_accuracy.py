"""Accuracy over a split: what is counted is what scikit-learn counts, image by image, in order."""

import numpy as np
import pytest
from sklearn import metrics

from pipeline import accuracy
from pipeline.artifacts import MODELS
from pipeline.dataset import load_split


@pytest.fixture(scope="module")
def split(evaluated_run):
    """Every test image, the last of them twice, so that threads get shares of unequal size."""
    images, masks = (np.asarray(part) for part in load_split(evaluated_run, "test"))
    return tuple(np.concatenate([part, part[-1:]]) for part in (images, masks))


@pytest.mark.parametrize("name", ["original", "int8", "dynamic"])
def test_counts_are_those_of_scikit_learn(evaluated_run, split, name):
    images, masks = split
    confusion = accuracy.confusion_per_image(evaluated_run, name, images, masks)
    maps = accuracy.class_maps(evaluated_run, name, images)
    assert confusion.shape == (len(images), 3, 3) and maps.shape == masks.shape
    for counts, mask, predicted in zip(confusion, masks, maps):
        expected = metrics.confusion_matrix(mask.ravel(), predicted.ravel(), labels=[0, 1, 2])
        np.testing.assert_array_equal(counts, expected)


@pytest.mark.parametrize("name", MODELS)
def test_rows_keep_the_order_of_the_images(evaluated_run, split, name, monkeypatch):
    """However the images are shared out among threads: the report picks photos by their row."""
    images, masks = split
    forwards = accuracy.confusion_per_image(evaluated_run, name, images, masks)
    assert len(np.unique(forwards, axis=0)) > len(images) // 2  # rows can be told apart
    monkeypatch.setattr(accuracy.os, "cpu_count", lambda: 4)
    backwards = accuracy.confusion_per_image(evaluated_run, name, images[::-1], masks[::-1])
    np.testing.assert_array_equal(backwards[::-1], forwards)


def test_more_threads_than_images(evaluated_run, split, monkeypatch):
    images, masks = (part[:2] for part in split)
    expected = accuracy.confusion_per_image(evaluated_run, "int8", images, masks)
    monkeypatch.setattr(accuracy.os, "cpu_count", lambda: 5)
    found = accuracy.confusion_per_image(evaluated_run, "int8", images, masks)
    np.testing.assert_array_equal(found, expected)


def test_unquantised_files_see_what_the_keras_models_see(evaluated_run, split):
    for keras_name, name in (("original", "float32"), ("pruned", "pruned_float32")):
        one, other = (
            accuracy.class_maps(evaluated_run, each, split[0]) for each in (keras_name, name)
        )
        assert (one != other).mean() < 0.001
