"""Bootstrap intervals and the constant baseline against what they stand for."""

import numpy as np
import pytest

from pipeline.data.classes import IGNORED
from pipeline.evaluation import bootstrap
from pipeline.evaluation.bootstrap import bootstrap_mean_iou, constant_baseline, interval
from pipeline.inference.iou import class_counts, iou_per_class, mean_iou


def test_constant_baseline_is_the_best_mean_iou_of_one_class_everywhere():
    random = np.random.default_rng(4)
    masks = random.choice(np.array([0, 1, 3, IGNORED], np.uint8), (5, 9, 9), p=(0.2, 0.5, 0.1, 0.2))
    truth = class_counts(masks, np.zeros(masks.shape, int), 4)[:, 1].sum(axis=0)
    best, baseline = constant_baseline(truth)
    scores = [
        mean_iou(iou_per_class(class_counts(masks, np.full(masks.shape, k), 4).sum(axis=0)))
        for k in range(4)
    ]
    assert best == 1 and baseline == pytest.approx(max(scores)) and scores[1] == max(scores)


def counts_of(shared):
    """Counts (n, 3, classes) of images of 300 pixels per class, so many of them predicted right."""
    return np.stack([shared, np.full_like(shared, 300), np.full_like(shared, 300)], axis=1)


def interval_of(counts, seed):
    return interval(bootstrap_mean_iou({"model": counts}, seed)["model"])


def test_interval_holds_the_estimate_and_depends_on_the_seed_alone(monkeypatch):
    random = np.random.default_rng(2)
    masks = random.integers(0, 3, (60, 16, 16))
    correct = random.uniform(0.5, 0.9, (60, 1, 1))  # probability of a correct pixel, by image
    guesses = random.integers(0, 3, masks.shape)
    predictions = np.where(random.random(masks.shape) < correct, masks, guesses)
    counts = class_counts(masks, predictions, 3)
    low, high = interval_of(counts, 7)
    assert low < mean_iou(iou_per_class(counts.sum(axis=0))) < high
    assert high - low < 0.1
    assert [low, high] != interval_of(counts, 8)
    monkeypatch.setattr(bootstrap, "BLOCK_DRAWS", 60 * 7)
    assert [low, high] == interval_of(counts, 7), "depends on the block size"


def test_resamples_are_drawn_once_for_all_models(monkeypatch):
    """So the interval of a difference does not contain the variance of the images."""
    shared = np.random.default_rng(3).integers(50, 200, (60, 3))
    counts = {"one": counts_of(shared), "other": counts_of(shared + 1)}
    samples = bootstrap_mean_iou(counts, 7)
    differences = samples["other"] - samples["one"]
    assert differences.std() < 0.1 * samples["one"].std()
    assert (differences > 0).all()
    # As if each model was resampled alone.
    for name, of_model in counts.items():
        alone = bootstrap_mean_iou({name: of_model}, 7)[name]
        np.testing.assert_array_equal(samples[name], alone)

    class Recording(np.random.Generator):
        def multinomial(self, n, pvals, size):
            draws.append(size)
            return super().multinomial(n, pvals, size)

    draws = []
    monkeypatch.setattr(
        bootstrap.np.random, "default_rng", lambda seed: Recording(np.random.PCG64(seed))
    )
    again = bootstrap_mean_iou(counts, 7)
    assert sum(draws) == bootstrap.BOOTSTRAP_SAMPLES
    np.testing.assert_array_equal(again["one"], samples["one"])
