"""Sparsity: where it is asked for, nowhere else, and still there after the file is loaded."""

import csv
import shutil

import numpy as np
import pytest
from conftest import SIZE
from PIL import Image

import pipeline
import pruning
import training
from data_preparation import load_split

import tensorflow as tf
from tf_keras import layers


def share_of_zeros(layer):
    return np.mean(layer.kernel.numpy() == 0)


@pytest.fixture(scope="module")
def pruned(finished_run):
    return training.load_model(finished_run, "pruned")


def test_each_pruned_layer_of_the_saved_file_has_the_sparsity_asked_for(pruned):
    names = pruning.kernels(pruned, pruning.SMALLEST_KERNEL)
    kernels = {name: share_of_zeros(pruned.get_layer(name)) for name in names}
    assert len(kernels) > 10
    assert kernels == pytest.approx(dict.fromkeys(kernels, 0.7), abs=0.005)


def test_first_last_depthwise_and_tiny_layers_are_whole(pruned):
    whole = [layer for layer in pruned.layers if hasattr(layer, "kernel") or hasattr(layer, "depthwise_kernel")]
    whole = [layer for layer in whole if layer.name not in pruning.kernels(pruned, pruning.SMALLEST_KERNEL)]
    assert {"stem", "logits_block"} <= {layer.name for layer in whole}
    assert sum(isinstance(layer, layers.DepthwiseConv2D) for layer in whole) == 18
    for layer in whole:
        assert np.count_nonzero(layer.get_weights()[0] == 0) == 0, layer.name


def test_most_weights_are_in_pruned_layers(pruned):
    prunable = sum(kernel.shape.num_elements() for kernel in pruning.kernels(pruned, pruning.SMALLEST_KERNEL).values())
    assert prunable > 0.75 * pruned.count_params()


def test_pruned_file_is_a_plain_network_that_was_trained_on(pruned, finished_run):
    original = training.load_model(finished_run, "original")
    assert [layer.name for layer in pruned.layers] == [layer.name for layer in original.layers]
    assert pruned.count_params() == original.count_params()
    assert (pruned.get_layer("stem").kernel.numpy() != original.get_layer("stem").kernel.numpy()).any()


def test_record_says_the_sparsity_of_each_layer(pruned, finished_run):
    metrics = pipeline.read_record(finished_run, "pruned")["metrics"]
    assert metrics["sparsity"] == pytest.approx(0.7, abs=0.005)
    for name, about in metrics["layers"].items():
        assert about["sparsity"] == pytest.approx(share_of_zeros(pruned.get_layer(name)), abs=1e-4)
        assert about["weights"] == pruned.get_layer(name).kernel.shape.num_elements()


def test_recorded_accuracy_is_that_of_the_pruned_weights(pruned, finished_run):
    """And not of an epoch in which sparsity was still rising."""
    metrics = pipeline.read_record(finished_run, "pruned")["metrics"]
    iou = training.validation_iou(pruned, *load_split(finished_run, "validation"))
    assert iou.mean() == pytest.approx(metrics["validation_mean_iou"], abs=1e-5)


def test_stage_that_misses_the_sparsity_writes_nothing(run_copy, monkeypatch):
    before = {path.name: pipeline.sha256(path) for path in run_copy.glob("pruned_model*")}
    row = {"epoch": 1, "mean_iou": 0.5, "loss": 1.0, "iou_pet": 0.5, "iou_background": 0.5, "iou_border": 0.5}
    monkeypatch.setattr(pruning, "fit", lambda *_, **__: [row])  # trains nothing: no zeros come to be
    with pytest.raises(pipeline.UserError, match=r"achieved sparsity 0\.\d+ misses the 0\.600 asked for; nothing was written"):
        pruning.main(["--models-dir", str(run_copy), "--sparsity", "0.6", "--epochs", "1", "--batch-size", "8"])
    assert {path.name: pipeline.sha256(path) for path in run_copy.glob("pruned_model*")} == before


def test_classic_network_is_pruned_and_unwrapped_too(monkeypatch):
    monkeypatch.setattr(pruning, "MASK_INTERVAL", 1)
    model = training.classic_unet(SIZE)
    names = pruning.kernels(model, pruning.SMALLEST_KERNEL)
    student = pruning.wrap(model, dict.fromkeys(names, 0.5), 4)
    callback = pruning.tfmot.sparsity.keras.UpdatePruningStep()
    callback.set_model(student)
    callback.on_train_begin()
    optimizer = training.make_optimizer(4, 1e-3, 1, average=False)
    optimizer.build(student.trainable_variables)
    step = training.make_train_step(student, optimizer, tf.distribute.get_strategy(),
                                    lambda images, masks, logits: training.segmentation_loss(masks, logits))  # fmt: skip
    random = np.random.default_rng(0)
    images, masks = random.random((2, SIZE, SIZE, 3), np.float32), random.integers(0, 3, (2, SIZE, SIZE), np.int32)
    for _ in range(4):
        step(tf.constant(images), tf.constant(masks))
    callback.on_epoch_end(None)
    plain = pruning.tfmot.sparsity.keras.strip_pruning(student)
    achieved = {name: layer["sparsity"] for name, layer in pruning.layer_sparsity(plain, names).items()}
    assert {"down64b", "bottleneckb", "up128_transposed", "up64a"} <= set(achieved)
    assert achieved == pytest.approx(dict.fromkeys(achieved, 0.5), abs=0.005)
    assert [layer.name for layer in plain.layers] == [layer.name for layer in model.layers]
    assert np.allclose(plain(images), student(images, training=False), atol=1e-5)


# --- the sensitivity scan -----------------------------------------------------------------


def test_scan_names_the_layer_that_breaks_first_and_leaves_the_model_as_it_was(finished_run):
    """A layer whose weights are all alike but for a few large ones bears zeros; one with an even spread does not."""
    model = training.load_model(finished_run, "original")
    images, masks = load_split(finished_run, "validation")
    before = model.get_weights()
    rows = pruning.scan_sensitivity(model, images, masks)
    assert [row["layer"] for row in rows] == list(pruning.kernels(model, 0))
    for was, now in zip(before, model.get_weights()):
        np.testing.assert_array_equal(was, now)
    # By hand, for one layer and level:
    row, kernel = rows[3], model.get_layer(rows[3]["layer"]).kernel
    values = kernel.numpy()
    smallest = np.argsort(np.abs(values), axis=None)[: int(0.9 * values.size)]
    cut = values.copy()
    cut.ravel()[smallest] = 0
    whole = training.validation_iou(model, images, masks).mean()
    kernel.assign(cut)
    assert row["90%"] == pytest.approx(whole - training.validation_iou(model, images, masks).mean(), abs=1e-4)


def test_each_layer_gets_the_highest_sparsity_that_it_bears():
    levels = [f"{level:.0%}" for level in pruning.SCAN_LEVELS]
    much, little = 2 * pruning.SCAN_DROP, 0.5 * pruning.SCAN_DROP
    rows = [{"layer": "robust", **dict.fromkeys(levels, little)},
            {"layer": "fragile", **dict.fromkeys(levels, much)},
            {"layer": "middling", **dict.fromkeys(levels, much), "50%": little, "60%": little},
            {"layer": "lucky", **dict.fromkeys(levels, little), "60%": much}]  # what comes after a bad level is luck
    assert pruning.choose_sparsity(rows) == {"robust": 0.9, "middling": 0.6, "lucky": 0.5}


def test_automatic_sparsity_prunes_as_the_scan_says_and_shows_it(run_copy):
    pruning.main(["--models-dir", str(run_copy), "--sparsity", "auto", "--epochs", "2", "--batch-size", "4"])
    with (run_copy / "pruned_sensitivity.csv").open() as file:
        rows = [{key: value if key == "layer" else float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    chosen = pruning.choose_sparsity(rows)
    model = training.load_model(run_copy, "pruned")
    assert chosen
    for name in pruning.kernels(model, 0):
        # One weight at least stays, and rounding to whole weights shows in the smallest kernels.
        assert share_of_zeros(model.get_layer(name)) == pytest.approx(chosen.get(name, 0.0), abs=0.01), name
    with Image.open(run_copy / "pruned_sensitivity.png") as picture:
        assert min(picture.size) > 300


# --- channels -----------------------------------------------------------------------------


def random_network(build):
    """Random weights, with running statistics and scales that are not all alike."""
    tf.keras.utils.set_random_seed(3)
    model = build(SIZE)
    random = np.random.default_rng(3)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([random.uniform(0.5, 1.5, value.shape) for value in layer.get_weights()])
    return model


@pytest.mark.parametrize("build", [training.compact_unet, training.classic_unet])
def test_smaller_network_computes_what_the_masked_one_does(build):
    model, masked = random_network(build), random_network(build)
    random = np.random.default_rng(4)
    groups = pruning.channel_groups(model)
    kept = [np.sort(random.choice(group.channels, group.channels // 2, replace=False)) for group in groups]
    small = pruning.remove_channels(model, groups, kept)
    images = random.random((2, SIZE, SIZE, 3), np.float32)
    whole = model(images).numpy()
    pruning.mask_channels(masked, groups, kept)
    expected = masked(images).numpy()
    assert np.abs(whole - expected).max() > 0.01 * np.abs(whole).max()  # the mask does something
    np.testing.assert_allclose(small(images).numpy(), expected, atol=1e-5 * np.abs(expected).max())
    assert small.count_params() < 0.4 * model.count_params()
    assert [layer.name for layer in small.layers] == [layer.name for layer in model.layers]


def test_groups_tie_what_is_added_and_leave_out_what_is_concatenated():
    compact = {group.producers[0]: group for group in pruning.channel_groups(training.compact_unet(SIZE))}
    assert compact["block2_expand"].followers == ["block2_expand_norm", "block2_depthwise", "block2_depthwise_norm"]
    assert compact["block2_expand"].consumers == ["block2_project"]
    assert compact["block1_project"].producers == ["block1_project", "block2_project"]
    assert {"block2_expand", "block3_expand", "up8_skip"} == set(compact["block1_project"].consumers)
    assert "logits_block" not in compact
    classic = {group.producers[0]: group.consumers for group in pruning.channel_groups(training.classic_unet(SIZE))}
    assert classic == {"down64a": ["down64b"], "down128a": ["down128b"], "bottlenecka": ["bottleneckb"],
                       "bottleneckb": ["up128_transposed"], "up128a": ["up128b"], "up128b": ["up64_transposed"],
                       "up64a": ["up64b"], "up64b": ["logits"]}  # fmt: skip


def test_channels_that_nothing_depends_on_go_first(small_data):
    """Half of a group's channels are read with weight zero: the criterion must find them."""
    model = random_network(training.compact_unet)
    groups = pruning.channel_groups(model)
    (place,) = (k for k, group in enumerate(groups) if group.producers[0] == "block6_expand")
    unread = np.sort(np.random.default_rng(0).choice(480, 240, replace=False))
    kernel = model.get_layer("block6_project").kernel
    values = kernel.numpy()
    values[:, :, unread] = 0
    kernel.assign(values)
    share = 240 / sum(group.channels for group in groups)
    batches = training.epoch_batches(*load_split(small_data, "train"), 8, 7, 0).repeat()
    kept = pruning.choose_channels(model, groups, share, batches)
    np.testing.assert_array_equal(kept[place], np.setdiff1d(np.arange(480), unread))
    assert sum(map(len, kept)) == sum(group.channels for group in groups) - 240


@pytest.fixture(scope="module")
def without_channels(finished_run, tmp_path_factory):
    models_dir = shutil.copytree(finished_run, tmp_path_factory.mktemp("without_channels") / "models")
    pruning.main(["--models-dir", str(models_dir), "--channels", "0.5", "--sparsity", "0.4", "--epochs", "2",
                  "--batch-size", "4"])  # fmt: skip
    return models_dir


def test_channels_and_zeros_together(without_channels):
    pruned = training.load_model(without_channels, "pruned")
    original = training.load_model(without_channels, "original")
    metrics = pipeline.read_record(without_channels, "pruned")["metrics"]
    assert metrics["channels_removed"] == pytest.approx(0.5, abs=0.02)
    assert metrics["parameters"] == pruned.count_params() < 0.6 * original.count_params()
    assert metrics["differs_from_masked"] < pruning.SAME_OUTPUT
    assert metrics["layers"]
    for name in metrics["layers"]:
        assert share_of_zeros(pruned.get_layer(name)) == pytest.approx(0.4, abs=0.005)
    with (without_channels / "pruned_channels.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert pruned.get_layer(row["made by"].split(" + ")[0]).filters == int(row["kept"])
    assert not (without_channels / ".pruned_channels.json").exists()


def test_network_with_fewer_channels_goes_through_the_later_stages(without_channels):
    import quantization

    quantization.main(["--models-dir", str(without_channels), "--calibration-images", "8"])
    record = pipeline.read_record(without_channels, "int8")
    assert record["metrics"]["agreement"] > 0.9


def test_network_that_the_groups_do_not_understand_is_refused(run_copy, monkeypatch):
    before = pipeline.sha256(run_copy / "pruned_model.h5")
    right = pruning.remove_channels

    def wrong(model, groups, kept):
        small = right(model, groups, kept)
        small.get_layer("stem").kernel.assign(small.get_layer("stem").kernel * 2)
        return small

    monkeypatch.setattr(pruning, "remove_channels", wrong)
    with pytest.raises(pipeline.UserError, match="the smaller network differs from the masked one"):
        pruning.main(["--models-dir", str(run_copy), "--channels", "0.3", "--epochs", "1", "--batch-size", "8"])
    assert pipeline.sha256(run_copy / "pruned_model.h5") == before


def test_resumed_run_keeps_the_channels_that_it_began_with(run_copy, monkeypatch):
    """Importance is a sum of floats: computed again, it might choose others, and the saved weights would not fit."""
    flags = ["--models-dir", str(run_copy), "--channels", "0.3", "--sparsity", "0", "--epochs", "2", "--batch-size", "8"]
    real, seen = pruning.fit, []

    def killed(model, *rest, **named):
        seen.append([layer.filters for layer in model.layers if pruning.is_convolution(layer)])
        raise KeyboardInterrupt

    monkeypatch.setattr(pruning, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        pruning.main(flags)
    monkeypatch.setattr(pruning, "fit", real)
    monkeypatch.setattr(pruning, "choose_channels", lambda *_: pytest.fail("chose anew"))
    pruning.main([*flags, "--resume"])
    pruned = training.load_model(run_copy, "pruned")
    assert [layer.filters for layer in pruned.layers if pruning.is_convolution(layer)] == seen[0]
