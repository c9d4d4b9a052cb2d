"""Magnitude pruning: the right kernels get zeros, as many as asked for; the sensitivity scan."""

import numpy as np
import pytest

from pipeline.base.lazy import layers, tf, tfmot
from pipeline.data.dataset import load_split
from pipeline.inference.iou import split_iou
from pipeline.inference.keras_files import KerasModel, load_model
from pipeline.pruning import magnitude
from pipeline.training import networks
from pipeline.training.loop import make_train_step
from pipeline.training.losses import Objective
from pipeline.training.optimizers import make_optimizer
from tests.helpers.runs import CLASSES, SIZE


@pytest.fixture(scope="module")
def pruned(finished_run):
    return load_model(finished_run, "pruned")


def test_first_last_depthwise_and_small_layers_stay_dense(pruned, finished_run):
    kernel_names = ("kernel", "depthwise_kernel")
    dense = [
        layer
        for layer in pruned.layers
        if any(hasattr(layer, name) for name in kernel_names)
        and layer.name not in magnitude.kernels(pruned)
    ]
    assert {"stem", "logits_block"} <= {layer.name for layer in dense}
    assert sum(isinstance(layer, layers.DepthwiseConv2D) for layer in dense) == 3
    original = load_model(finished_run, "original")
    for layer in dense:
        own, before = (model.get_layer(layer.name).get_weights()[0] for model in (pruned, original))
        assert np.sum(own == 0) <= np.sum(before == 0), layer.name


def test_most_weights_are_in_pruned_layers(pruned):
    kernels = magnitude.kernels(pruned).values()
    prunable = sum(kernel.shape.num_elements() for kernel in kernels)
    assert prunable > 0.75 * pruned.count_params()


@pytest.mark.slow
def test_classic_network_is_pruned_and_unwrapped_too():
    """In four steps, fewer than there are between two updates of the masks in a long run."""
    model = networks.classic_unet((SIZE, SIZE), len(CLASSES))
    names = magnitude.kernels(model)
    student = magnitude.wrap(model, dict.fromkeys(names, 0.5), 4)
    callback = tfmot.sparsity.keras.UpdatePruningStep()
    callback.set_model(student)
    callback.on_train_begin()
    optimizer = make_optimizer(4, 1e-3, 1, average=False)
    optimizer.build(student.trainable_variables)

    step = make_train_step(student, optimizer, tf.distribute.get_strategy(), Objective())
    random = np.random.default_rng(0)
    images = random.random((2, SIZE, SIZE, 3), np.float32)
    masks = random.integers(0, 3, (2, SIZE, SIZE), np.int32)
    for _ in range(4):
        step(tf.constant(images), tf.constant(masks))
    callback.on_epoch_end(None)
    plain = tfmot.sparsity.keras.strip_pruning(student)
    achieved = {
        name: layer["sparsity"] for name, layer in magnitude.layer_sparsity(plain, names).items()
    }
    assert {"down64b", "bottleneckb", "up128_transposed", "up64a"} <= set(achieved)
    assert achieved == pytest.approx(dict.fromkeys(achieved, 0.5), abs=0.005)
    assert [layer.name for layer in plain.layers] == [layer.name for layer in model.layers]
    assert np.allclose(plain(images), student(images, training=False), atol=1e-5)


def test_one_threshold_for_all_kernels_by_hand():
    """Of 8 weights, the 4 smallest are 1, 2, 3 in the first kernel and 4 in the second."""
    first, second = tf.Variable([[1.0, -2.0], [3.0, 9.0]]), tf.Variable([[-4.0, 5.0], [6.0, 7.0]])
    kernels = {"first": first, "second": second}
    assert magnitude.layer_shares(kernels, 0.5) == {"first": 0.75, "second": 0.25}
    assert magnitude.layer_shares(kernels, 0.25) == {"first": 0.5, "second": 0.0}


def test_no_kernel_loses_its_largest_weights_and_the_others_get_more_zeros():
    random = np.random.default_rng(0)
    tiny, large = (tf.Variable(size * random.normal(size=(100, 100))) for size in (1e-3, 1.0))
    shares = magnitude.layer_shares({"tiny": tiny, "large": large}, 0.6)
    assert shares == pytest.approx({"tiny": 1 - magnitude.LEAST_KEPT, "large": 0.22})
    most = magnitude.layer_shares({"tiny": tiny, "large": large}, 0.98)
    assert most == pytest.approx({"tiny": 0.98, "large": 0.98})


def test_zeros_that_are_there_already_count():
    """In a network that was pruned before, they are the smallest weights."""
    sparse, dense = tf.Variable([0.0, 0.0, 0.0, 8.0]), tf.Variable([1.0, 2.0, 3.0, 4.0])
    assert magnitude.layer_shares({"sparse": sparse, "dense": dense}, 0.25) == {
        "sparse": 0.5,
        "dense": 0.0,
    }


def test_total_sparsity_is_weighted_by_the_size_of_the_kernels():
    small, large = {"weights": 100, "sparsity": 0.0}, {"weights": 300, "sparsity": 0.8}
    assert magnitude.total_sparsity({"small": small, "large": large}) == pytest.approx(0.6)
    assert magnitude.total_sparsity({}) == 0


def test_scan_tries_every_layer_alone_and_restores_the_weights(finished_run):
    model = load_model(finished_run, "original")
    images, masks = (part[:] for part in load_split(finished_run, "validation"))
    before = model.get_weights()
    rows = magnitude.scan_sensitivity(model, images, masks)
    assert [row["layer"] for row in rows] == list(magnitude.kernels(model, 0))
    for was, now in zip(before, model.get_weights()):
        np.testing.assert_array_equal(was, now)
    # One layer and level by hand:
    row, kernel = rows[3], model.get_layer(rows[3]["layer"]).kernel
    values = kernel.numpy()
    smallest = np.argsort(np.abs(values), axis=None)[: int(0.9 * values.size)]
    cut = values.copy()
    cut.ravel()[smallest] = 0
    predictor = KerasModel(model)
    dense = split_iou(predictor, images, masks).mean()
    kernel.assign(cut)
    drop = dense - split_iou(predictor, images, masks).mean()
    assert row["90%"] == pytest.approx(drop, abs=1e-4)
