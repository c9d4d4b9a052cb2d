"""Sparsity: where it is asked for, nowhere else, and still there after the file is loaded."""

import numpy as np
import pytest
from conftest import SIZE

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
    kernels = {layer.name: share_of_zeros(layer) for layer in pruned.layers if pruning.is_prunable(layer)}
    assert len(kernels) > 10
    assert kernels == pytest.approx(dict.fromkeys(kernels, 0.7), abs=0.005)


def test_first_last_depthwise_and_tiny_layers_are_whole(pruned):
    whole = [layer for layer in pruned.layers if hasattr(layer, "kernel") or hasattr(layer, "depthwise_kernel")]
    whole = [layer for layer in whole if not pruning.is_prunable(layer)]
    assert {"stem", "logits_2x2"} <= {layer.name for layer in whole}
    assert sum(isinstance(layer, layers.DepthwiseConv2D) for layer in whole) == 20
    for layer in whole:
        assert np.count_nonzero(layer.get_weights()[0] == 0) == 0, layer.name


def test_most_weights_are_in_pruned_layers(pruned):
    prunable = sum(layer.kernel.shape.num_elements() for layer in pruned.layers if pruning.is_prunable(layer))
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
    student = pruning.wrap(model, 0.5, 4)
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
    achieved = {name: layer["sparsity"] for name, layer in pruning.layer_sparsity(plain).items()}
    assert {"down64b", "bottleneckb", "up128_transposed", "up64a"} <= set(achieved)
    assert achieved == pytest.approx(dict.fromkeys(achieved, 0.5), abs=0.005)
    assert [layer.name for layer in plain.layers] == [layer.name for layer in model.layers]
    assert np.allclose(plain(images), student(images, training=False), atol=1e-5)
