"""Stage 3 as a user runs it: the saved file has the zeros and channels that were asked for, or
nothing is written; what cannot be done is refused before anything is trained.
"""

import csv
import shutil

import numpy as np
import pytest
from PIL import Image

import pruning
import quantization
from pipeline.base.artifacts import artifact_path, read_record
from pipeline.base.console import UserError
from pipeline.base.files import sha256
from pipeline.base.identity import NOT_RESUMED
from pipeline.base.lazy import keras, layers
from pipeline.data.dataset import load_split
from pipeline.inference.iou import split_iou
from pipeline.inference.keras_files import (
    KerasModel,
    is_convolution,
    load_model,
    save_model,
)
from pipeline.pruning import channel_removal, channels, magnitude
from pipeline.training import loop
from pipeline.variants import VARIANTS
from tests.helpers.runs import CLASSES, SIZE
from tests.helpers.small_network import PRUNED_LAYERS

SHORT = ("--epochs", "1", "--batch-size", "8")


def share_of_zeros(layer):
    return np.mean(layer.kernel.numpy() == 0)


def hashes(models_dir, pattern):
    return {path.name: sha256(path) for path in models_dir.glob(pattern)}


@pytest.fixture(scope="module")
def pruned(finished_run):
    return load_model(finished_run, "pruned")


# --- zeros --------------------------------------------------------------------------------


def test_saved_file_has_the_zeros_asked_for_where_the_original_has_its_smallest_weights(
    pruned, finished_run
):
    """0.7 over all kernels; in each as many as a threshold for all of them cuts."""
    original = magnitude.kernels(load_model(finished_run, "original"))
    kernels = {name: share_of_zeros(pruned.get_layer(name)) for name in magnitude.kernels(pruned)}
    assert set(kernels) == PRUNED_LAYERS
    every = np.concatenate([np.abs(kernel.numpy()).ravel() for kernel in original.values()])
    threshold = np.quantile(every, 0.7)
    below = {name: np.mean(np.abs(k.numpy()) < threshold) for name, k in original.items()}
    assert kernels == pytest.approx(below, abs=0.005)
    assert max(kernels.values()) - min(kernels.values()) > 0.1
    assert np.concatenate(
        [pruned.get_layer(name).kernel.numpy().ravel() == 0 for name in kernels]
    ).mean() == pytest.approx(0.7, abs=0.001)


def test_pruned_file_is_a_plain_network_that_was_trained_on(pruned, finished_run):
    original = load_model(finished_run, "original")
    assert [layer.name for layer in pruned.layers] == [layer.name for layer in original.layers]
    assert pruned.count_params() == original.count_params()
    stems = [model.get_layer("stem").kernel.numpy() for model in (pruned, original)]
    assert (stems[0] != stems[1]).any()


def test_record_says_the_sparsity_of_each_layer(pruned, finished_run):
    metrics = read_record(finished_run, "pruned")["metrics"]
    assert metrics["sparsity"] == pytest.approx(0.7, abs=0.005)
    assert set(metrics["layers"]) == set(magnitude.kernels(pruned))
    for name, about in metrics["layers"].items():
        assert about["sparsity"] == pytest.approx(share_of_zeros(pruned.get_layer(name)), abs=1e-4)
        assert about["weights"] == pruned.get_layer(name).kernel.shape.num_elements()


def test_recorded_accuracy_is_that_of_the_pruned_weights(pruned, finished_run):
    """And not of an epoch in which sparsity was still rising."""
    metrics = read_record(finished_run, "pruned")["metrics"]
    iou = split_iou(KerasModel(pruned), *load_split(finished_run, "validation"))
    assert iou.mean() == pytest.approx(metrics["validation_mean_iou"], abs=1e-5)


def test_run_that_misses_the_sparsity_writes_nothing(run_copy, monkeypatch):
    before = hashes(run_copy, "pruned_model*")
    row = {"epoch": 1, "mean_iou": 0.5, "loss": 1.0}
    row |= {f"iou_{name}": 0.5 for name in CLASSES}
    # Trains nothing: no zeros come to be.
    trained = loop.Trained([row], NOT_RESUMED)
    monkeypatch.setattr(pruning.loop, "fit", lambda *_: trained)
    words = r"achieved sparsity 0\.\d+ misses the 0\.600 asked for; nothing was written"
    with pytest.raises(UserError, match=words):
        pruning.main(["--models-dir", str(run_copy), "--sparsity", "0.6", *SHORT])
    assert hashes(run_copy, "pruned_model*") == before


def test_sensitivity_is_a_table_and_a_picture_and_prunes_nothing(run_copy, capsys):
    before = hashes(run_copy, "*model*") | hashes(run_copy, ".*")
    pruning.main(["--models-dir", str(run_copy), "--sensitivity"])
    assert hashes(run_copy, "*model*") | hashes(run_copy, ".*") == before
    assert {"pruned_model.h5", "pruned_model.h5.json"} <= set(before)
    with (run_copy / "pruned_sensitivity.csv").open() as file:
        rows = list(csv.DictReader(file))
    original = load_model(run_copy, "original")
    assert [row["layer"] for row in rows] == list(magnitude.kernels(original, 0))
    worst = max(rows, key=lambda row: float(row["90%"]))["layer"]
    assert f"most sensitive: {worst} (" in capsys.readouterr().out
    with Image.open(run_copy / "pruned_sensitivity.png") as picture:
        assert min(picture.size) > 200


def put_original(models_dir, model):
    """Makes a model the original of a models folder, as if training had made it."""
    record, path = read_record(models_dir, "original"), artifact_path(models_dir, "original")
    save_model(model, path)
    record.rewrite(sha256=sha256(path))


@pytest.mark.slow
def test_layers_called_like_our_encoder_are_fine_tuned_like_any_other(run_copy):
    """VGG's are called block1_conv1; in training they had the full learning rate, too."""

    def weights_after_pruning(prefix):
        keras.utils.set_random_seed(0)
        x = image = layers.Input((SIZE, SIZE, 3))
        for number in range(3):
            settings = {"padding": "same", "activation": "relu", "name": f"{prefix}{number}_conv1"}
            x = layers.Conv2D(48, 3, **settings)(x)
        put_original(run_copy, keras.Model(image, layers.Conv2D(len(CLASSES), 1, name="score")(x)))
        pruning.main(["--models-dir", str(run_copy), *SHORT])
        return load_model(run_copy, "pruned").get_weights()

    for ours, theirs in zip(weights_after_pruning("block"), weights_after_pruning("part")):
        assert (ours == theirs).all()


# --- channels -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def without_channels(finished_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("without_channels")
    models_dir = shutil.copytree(finished_run, folder / "models")
    asked = ["--channels", "0.5", "--sparsity", "0.4", "--epochs", "2", "--batch-size", "4"]
    pruning.main(["--models-dir", str(models_dir), *asked])
    return models_dir


@pytest.mark.slow
def test_channels_and_zeros_together(without_channels):
    pruned = load_model(without_channels, "pruned")
    original = load_model(without_channels, "original")
    metrics = read_record(without_channels, "pruned")["metrics"]
    assert metrics["channels_removed"] == pytest.approx(0.5, abs=0.02)
    assert metrics["parameters"] == pruned.count_params() < 0.6 * original.count_params()
    assert metrics["differs_from_masked"] < channel_removal.SAME_OUTPUT
    chosen = magnitude.kernels(pruned)
    assert metrics["layers"] and set(metrics["layers"]) == set(chosen)
    flat = np.concatenate([kernel.numpy().ravel() for kernel in chosen.values()])
    assert np.mean(flat == 0) == pytest.approx(0.4, abs=0.005)
    with (without_channels / "pruned_channels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sum(int(row["channels"]) for row in rows) > sum(int(row["kept"]) for row in rows)
    for row in rows:
        assert pruned.get_layer(row["made by"].split(" + ")[0]).filters == int(row["kept"])
    assert not channels.plan_path(without_channels).exists()


@pytest.mark.slow
def test_network_with_fewer_channels_goes_through_the_later_stages(without_channels, monkeypatch):
    monkeypatch.setattr(quantization, "VARIANTS", {"int8": VARIANTS["int8"]})  # the most demanding
    quantization.main(["--models-dir", str(without_channels), "--calibration-images", "8"])
    record = read_record(without_channels, "int8")
    assert record["metrics"]["agreement"] > 0.9


@pytest.fixture
def chosen_at_once(monkeypatch):
    """Channels are chosen by their numbers: `without_channels` tests the real choice."""

    def choose(model, groups, share, batches, objective):
        return [np.arange(8, group.channels) for group in groups]

    monkeypatch.setattr(channels, "choose_channels", choose)


def test_smaller_network_that_computes_something_else_is_refused(
    run_copy, chosen_at_once, monkeypatch
):
    before = sha256(run_copy / "pruned_model.h5")
    right = channel_removal.remove_channels

    def wrong(model, groups, kept):
        small = right(model, groups, kept)
        small.get_layer("stem").kernel.assign(small.get_layer("stem").kernel * 2)
        return small

    monkeypatch.setattr(channel_removal, "remove_channels", wrong)
    with pytest.raises(UserError, match="the smaller network differs from the masked one"):
        pruning.main(["--models-dir", str(run_copy), "--channels", "0.3", *SHORT])
    assert sha256(run_copy / "pruned_model.h5") == before


def test_resumed_run_keeps_the_channels_that_it_began_with(run_copy, chosen_at_once, monkeypatch):
    """Importance is a sum of floats: computed again, it might choose others, and the saved weights
    would not fit.
    """
    where = ["--models-dir", str(run_copy), "--channels", "0.3", "--sparsity", "0"]
    flags = [*where, "--epochs", "2", "--batch-size", "8"]
    seen = []

    def filters(model):
        return [layer.filters for layer in model.layers if is_convolution(layer)]

    def killed(stage, model, *_):
        seen.append(filters(model))
        raise KeyboardInterrupt

    monkeypatch.setattr(pruning.loop, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        pruning.main(flags)
    monkeypatch.setattr(channels, "choose_channels", lambda *_: pytest.fail("chose anew"))
    with pytest.raises(KeyboardInterrupt):
        pruning.main([*flags, "--resume"])
    assert seen[1] == seen[0] != filters(load_model(run_copy, "original"))


def test_kernels_that_get_small_by_the_loss_of_channels_get_their_zeros_all_the_same(
    run_copy, monkeypatch
):
    """It was refused after the channels had been chosen, which takes minutes."""
    large = magnitude.kernels(load_model(run_copy, "original"))
    wrapped = []

    def choose(model, groups, *_):
        return [np.arange(8) for _ in groups]

    def killed(stage, model, *_):
        wrapped.extend(layer.layer.name for layer in model.layers if hasattr(layer, "layer"))
        raise KeyboardInterrupt

    monkeypatch.setattr(channels, "choose_channels", choose)
    monkeypatch.setattr(pruning.loop, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        pruning.main(["--models-dir", str(run_copy), "--channels", "0.3", *SHORT])
    assert wrapped == list(large)


# --- what cannot be done --------------------------------------------------------------------


@pytest.fixture
def narrow_run(run_copy, monkeypatch):
    """An original of one's own, too small for either kind of pruning; to train it is a failure."""
    image = layers.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(9, 3, padding="same", activation="relu")(image)
    model = keras.Model(image, layers.Conv2D(len(CLASSES), 1)(x), name="narrow")
    put_original(run_copy, model)
    monkeypatch.setattr(pruning.loop, "fit", lambda *_, **__: pytest.fail("trained"))
    monkeypatch.setattr(channels, "choose_channels", lambda *_: pytest.fail("chose channels"))
    return run_copy


def test_more_channels_than_can_be_removed_are_refused_before_any_training(narrow_run):
    flags = ["--models-dir", str(narrow_run), "--channels", "0.9", "--sparsity", "0"]
    with pytest.raises(UserError, match=r"at most 89% of the channels .* use --channels 0\.88"):
        pruning.main(flags)


def test_too_few_steps_are_refused_before_channels_are_chosen(run_copy, monkeypatch):
    monkeypatch.setattr(channels, "choose_channels", lambda *_: pytest.fail("chose channels"))
    flags = ["--models-dir", str(run_copy), "--channels", "0.3", "--epochs", "1"]
    with pytest.raises(UserError, match="1 steps are too few for pruning"):
        pruning.main([*flags, "--batch-size", "36"])


def test_network_of_small_kernels_is_refused_before_any_training(narrow_run):
    flags = ["--models-dir", str(narrow_run), "--channels", "0.5", "--sparsity", "0.6"]
    words = r"no kernel of narrow has 9,000 weights.* Use --sparsity 0, or lower SMALLEST_KERNEL"
    with pytest.raises(UserError, match=words):
        pruning.main(flags)


def test_network_is_copied_if_neither_zeros_nor_channels_are_asked_for(narrow_run, capsys):
    """Without any training, also where there would be nothing to set zeros in; and the curves of
    the fine-tuning before, of another model, are gone."""
    tables = sorted(path.name for path in narrow_run.glob("*_training.csv"))
    assert tables == ["original_training.csv", "pruned_training.csv"]
    pruning.main(["--models-dir", str(narrow_run), "--sparsity", "0"])
    assert not list(narrow_run.glob("pruned_training.*"))
    assert "pruning was skipped, it is the original network" in capsys.readouterr().out
    ours, theirs = (load_model(narrow_run, name).get_weights() for name in ("pruned", "original"))
    assert all((one == other).all() for one, other in zip(ours, theirs, strict=True))
    metrics = read_record(narrow_run, "pruned")["metrics"]
    original = read_record(narrow_run, "original")["metrics"]
    assert metrics["sparsity"] == 0 and metrics["layers"] == {}
    assert metrics["validation_mean_iou"] == original["validation_mean_iou"]


def test_too_few_steps_for_pruning_are_refused_before_any_training(run_copy, monkeypatch):
    monkeypatch.setattr(pruning.loop, "fit", lambda *_, **__: pytest.fail("trained"))
    flags = ["--models-dir", str(run_copy), "--epochs", "1", "--batch-size", "36"]
    with pytest.raises(UserError, match="1 steps are too few for pruning; use more --epochs"):
        pruning.main(flags)
