"""What differs between two evaluations: paired intervals, causes, other pictures, photos."""

import copy
import json

import numpy as np
import pytest

from pipeline.base.console import UserError
from pipeline.evaluation import comparison
from pipeline.evaluation.bootstrap import BOOTSTRAP_SAMPLES
from pipeline.evaluation.finished import Finished, Kept

CLASSES = ("pet", "background", "border")


def some_counts(seed, images=80):
    """Pixel counts (n, 3, classes) whose correct pixels differ from image to image."""
    random = np.random.default_rng(seed)
    truth = random.integers(200, 400, (images, 3))
    shared = (truth * random.uniform(0.5, 0.95, (images, 3))).astype(int)
    return np.stack([shared, truth, truth + random.integers(-50, 50, truth.shape)], axis=1)


def changed_counts(counts, gain):
    """The same images, of whose pixels a few more are correct, on average `gain` by class."""
    random, other = np.random.default_rng(5), counts.copy()
    other[:, 0] += (random.normal(gain, 8, other[:, 0].shape)).astype(int)
    other[:, 0] = other[:, 0].clip(0, np.minimum(other[:, 1], other[:, 2]))
    return other


@pytest.fixture
def then(numbers):
    """An evaluation whose models all have the same counts."""
    numbers["dataset"]["test_pictures"] = "ef" * 32
    numbers["stages"] |= {
        row["name"]: {"settings": {"seed": 7}, "sha256": row["name"], "metrics": {}}
        for row in numbers["models"]
    }
    counts = some_counts(1)
    return Finished(numbers, {row["name"]: counts for row in numbers["models"]})


def with_other(then, name, counts):
    """The evaluation after one model became another file with these counts."""
    numbers = copy.deepcopy(then.numbers)
    numbers["stages"][name]["sha256"] = "other"
    return Finished(numbers, then.counts | {name: counts})


def iou_of(total):
    """IoU by class from summed counts, written anew here."""
    shared, truth, predicted = total.astype(float)
    return shared / (truth + predicted - shared)


def test_intervals_agree_with_a_bootstrap_written_here(then):
    """Images drawn by their numbers, in a loop, with another generator."""
    old = then.counts["int8"]
    new = changed_counts(old, -2)
    (row,) = comparison.compare(then, with_other(then, "int8", new))["models"]
    random = np.random.RandomState(3)
    apart = []
    for _ in range(4000):
        drawn = random.randint(0, len(old), len(old))
        apart.append(iou_of(new[drawn].sum(axis=0)) - iou_of(old[drawn].sum(axis=0)))
    apart = np.array(apart)
    spread = apart.mean(axis=1).std()
    # The standard error of a percentile 2.5 of so many samples is about 2.7 spreads / sqrt(n).
    error = 4 * 2.7 * spread * (1 / BOOTSTRAP_SAMPLES + 1 / 4000) ** 0.5
    expected = np.percentile(apart.mean(axis=1), (2.5, 97.5))
    assert row["interval"] == pytest.approx(expected, abs=error)
    assert error < 0.15 * (row["interval"][1] - row["interval"][0])
    for k, name in enumerate(CLASSES):
        expected = np.percentile(apart[:, k], (2.5, 97.5))
        error = 4 * 2.7 * apart[:, k].std() * (1 / BOOTSTRAP_SAMPLES + 1 / 4000) ** 0.5
        assert row["iou_intervals"][name] == pytest.approx(expected, abs=error)


def test_interval_is_paired(then):
    """The interval of a constant gain is far narrower than that of either evaluation."""
    new = then.counts["int8"].copy()
    new[:, 0] = np.minimum(new[:, 0] + 2, new[:, 1:].min(axis=1))
    (row,) = comparison.compare(then, with_other(then, "int8", new))["models"]
    low, high = row["interval"]
    assert 0 < low < high and high - low < 0.1 * 0.05  # 0.05: of one evaluation alone, about


def test_class_that_no_picture_has_costs_no_interval(then):
    """Its IoU is undefined in every resample, or in some."""
    for rows in (slice(None), slice(1, None)):
        counts = {name: array.copy() for name, array in then.counts.items()}
        for array in counts.values():
            array[rows, :, 2] = 0
        before = Finished(then.numbers, counts)
        new = changed_counts(counts["int8"], 3)
        new[rows, :, 2] = 0
        (row,) = comparison.compare(before, with_other(before, "int8", new))["models"]
        assert np.isfinite(row["interval"]).all()
        border = row["iou_intervals"]["border"]
        assert border is None if rows == slice(None) else np.isfinite(border).all()


def test_only_models_that_changed_have_a_row(then):
    other = with_other(then, "int8", changed_counts(then.counts["int8"], 3))
    changes = comparison.compare(then, other)
    assert [row["name"] for row in changes["models"]] == ["int8"]
    assert set(changes["same"]) == then.counts.keys() - {"int8"}
    nothing = comparison.compare(then, then)
    assert nothing["models"] == [] and nothing["photos"] is None and not nothing["data"]
    assert nothing["settings"] == [] and not any(nothing["code"].values())


def test_same_file_that_is_counted_otherwise_has_a_row(then):
    """As after an edit of the metric."""
    counted = Finished(then.numbers, then.counts | {"int8": changed_counts(some_counts(1), 5)})
    assert [row["name"] for row in comparison.compare(then, counted)["models"]] == ["int8"]


@pytest.mark.parametrize("what", ["pictures", "fingerprint", "split", "number", "classes"])
def test_other_test_pictures_have_no_interval_and_no_photos(then, what):
    other = with_other(then, "int8", changed_counts(then.counts["int8"], 3))
    about, counts = other.numbers["dataset"], other.counts
    if what == "pictures":
        about["test_pictures"] = "0" * 64
    elif what == "fingerprint":  # of before test_pictures was noted
        del then.numbers["dataset"]["test_pictures"]
        about["fingerprint"] = "0" * 64
    elif what == "split":
        about["split"] = "validation"
    elif what == "number":
        counts = {name: array[:-1] for name, array in counts.items()}
    else:
        about["class_names"] = ["pet", "background", "edge"]
    changes = comparison.compare(then, Finished(other.numbers, counts))
    assert not changes["same_pictures"] and changes["photos"] is None
    row = next(row for row in changes["models"] if row["name"] == "int8")
    assert row["interval"] is None and row["iou_intervals"] is None


def test_training_pictures_may_change_and_test_pictures_stay(then):
    other = with_other(then, "int8", changed_counts(then.counts["int8"], 3))
    other.numbers["dataset"]["fingerprint"] = "0" * 64
    changes = comparison.compare(then, other)
    assert changes["data"] and changes["same_pictures"] and changes["models"][0]["interval"]


def test_causes_are_settings_code_and_packages(then):
    other = copy.deepcopy(then.numbers)
    then.numbers["stages"]["pruned"]["settings"] = {"sparsity": 0.6, "seed": 7}
    other["stages"]["pruned"]["settings"] = {"sparsity": 0.8, "seed": 7, "new_flag": None}
    for name in ("dynamic", "int8"):
        other["stages"][name]["settings"] = {"seed": 8, "max_drop": 0.01}
    then.numbers["code"] = {"training": {"a.py": "1", "b.py": "1"}, "evaluation": {"c.py": "1"}}
    other["code"] = {"training": {"a.py": "2", "d.py": "1"}, "evaluation": {"c.py": "1"}}
    other["environment"]["versions"] = {"numpy": "3", "scipy": "1"}
    changes = comparison.compare(then, Finished(other, then.counts))
    assert changes["settings"] == [
        ["pruning.py", "sparsity", 0.6, 0.8],
        ["quantization.py", "max_drop", None, 0.01],
        ["quantization.py", "seed", 7, 8],
    ]
    assert changes["code"] == {"edited": ["a.py"], "new": ["d.py"], "gone": ["b.py"]}
    assert changes["code_known"]
    del then.numbers["code"]
    assert not comparison.compare(then, Finished(other, then.counts))["code_known"]
    assert changes["packages"] == [["numpy", "2", "3"]]


def test_photos_are_those_whose_mean_iou_changed_most(then):
    new = then.counts["pruned"].copy()
    for row, lost in ((11, 90), (3, 60), (40, 30)):
        new[row, 0] -= lost
    photos = comparison.compare(then, with_other(then, "pruned", new))["photos"]
    assert photos["model"] == "pruned"
    assert [row for row, *_ in photos["rows"]] == [11, 3, 40]
    for row, before, now in photos["rows"]:
        assert before == pytest.approx(iou_of(then.counts["pruned"][row]).mean(), abs=1e-5)
        assert now == pytest.approx(iou_of(new[row]).mean(), abs=1e-5)


def test_comparison_can_be_kept_as_json(then):
    changes = comparison.compare(then, with_other(then, "int8", some_counts(2)))
    assert json.loads(json.dumps(changes)) == changes


def test_evaluation_of_another_version_is_a_note(then, capsys):
    strange = Finished({"models": [{"name": "int8"}]}, {})
    assert comparison.since(Kept(strange), then.numbers, then.counts) is None
    assert capsys.readouterr().out.startswith("note: this evaluation could not be compared with")
    assert comparison.since(Kept(), then.numbers, then.counts) is None
    assert capsys.readouterr().out == ""


def test_pictures_of_another_size_are_not_timed(then, tmp_path, monkeypatch):
    other = with_other(then, "int8", some_counts(2))
    other.numbers["dataset"]["image_size"] = [64, 64]
    monkeypatch.setattr(comparison.finished, "here", lambda _: other)
    monkeypatch.setattr(comparison, "measure_files", lambda *_: pytest.fail("timed"))
    changes = comparison.against(tmp_path / "there", then, tmp_path)
    assert changes["not_timed"] == "the pictures are of another size"
    assert changes["against"] == str(tmp_path / "there")


def test_other_evaluation_of_another_version_is_refused_with_the_command(
    then, tmp_path, monkeypatch
):
    monkeypatch.setattr(comparison.finished, "here", lambda _: then)
    strange = Finished({"models": [{"name": "int8"}], "dataset": {}}, {})
    with pytest.raises(UserError, match=r"another version.*evaluation\.py --models-dir .*there"):
        comparison.against(tmp_path / "there", strange, tmp_path)
