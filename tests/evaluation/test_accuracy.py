"""Counts over a split agree with scikit-learn, image by image and in order."""

import numpy as np
import pytest

from pipeline.base.artifacts import MODELS, artifact_path
from pipeline.data.dataset import load_split
from pipeline.evaluation import accuracy
from pipeline.evaluation.bootstrap import bootstrap_mean_iou
from pipeline.inference.models import open_model


@pytest.fixture(scope="module")
def split(evaluated_run):
    """All test images, the last one twice, so that threads get parts of unequal size."""
    images, masks = (np.asarray(part) for part in load_split(evaluated_run, "test"))
    return tuple(np.concatenate([part, part[-1:]]) for part in (images, masks))


@pytest.mark.parametrize("name", ["original", "int8", "dynamic"])
def test_counts_are_those_of_scikit_learn(evaluated_run, split, name):
    from sklearn import metrics

    images, masks = split
    counts = accuracy.measure(evaluated_run, name, images, masks, 3).per_image
    maps = open_model(artifact_path(evaluated_run, name)).class_maps(images)
    assert counts.shape == (len(images), 3, 3) and maps.shape == masks.shape
    for image_counts, mask, prediction in zip(counts, masks, maps):
        confusion = metrics.confusion_matrix(mask.ravel(), prediction.ravel(), labels=[0, 1, 2])
        expected = [confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)]
        np.testing.assert_array_equal(image_counts, expected)


@pytest.mark.parametrize("name", MODELS)
def test_rows_keep_the_order_of_the_images(evaluated_run, split, name, monkeypatch):
    """For any number of threads; the report picks photos by their row."""
    images, masks = split
    forwards = accuracy.measure(evaluated_run, name, images, masks, 3).per_image
    assert len(np.unique(forwards, axis=0)) > len(images) // 2  # rows can be told apart
    monkeypatch.setattr(accuracy, "cores", lambda: 4)
    backwards = accuracy.measure(evaluated_run, name, images[::-1], masks[::-1], 3).per_image
    np.testing.assert_array_equal(backwards[::-1], forwards)


def test_more_threads_than_images(evaluated_run, split, monkeypatch):
    images, masks = (part[:2] for part in split)
    expected = accuracy.measure(evaluated_run, "int8", images, masks, 3)
    monkeypatch.setattr(accuracy, "cores", lambda: 5)
    found = accuracy.measure(evaluated_run, "int8", images, masks, 3)
    for counts, others in zip(found, expected):
        np.testing.assert_array_equal(counts, others)


@pytest.mark.parametrize(
    ("keras_name", "name"), [("original", "float32"), ("pruned", "pruned_float32")]
)
def test_unquantised_files_predict_what_the_keras_models_predict(
    evaluated_run, split, keras_name, name
):
    keras_maps, maps = (
        open_model(artifact_path(evaluated_run, model)).class_maps(split[0])
        for model in (keras_name, name)
    )
    assert (keras_maps != maps).mean() < 0.001


def test_fields_with_a_class_that_does_not_occur():
    """Two images of 10 pixels with two classes; a third class neither occurs nor is predicted."""
    original = np.array([[[4, 4, 0], [5, 5, 0], [5, 5, 0]]] * 2)
    worse = np.array([[[3, 4, 0], [5, 5, 0], [4, 6, 0]]] * 2)
    counts = {"original": original, "worse": worse}
    samples = bootstrap_mean_iou(counts, 7)
    fields = accuracy.fields("worse", counts, samples, ("cat", "dog", "cow"))
    assert fields["iou"] == {"cat": 0.5, "dog": round(4 / 7, 5), "cow": None}
    assert fields["mean_iou"] == round((0.5 + 4 / 7) / 2, 5)
    assert fields["mean_iou_drop"] == round(4 / 6 - (0.5 + 4 / 7) / 2, 5)
    assert fields["iou_drop"]["cow"] is None and fields["pixel_accuracy"] == 0.7
