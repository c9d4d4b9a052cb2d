"""Checks of a network before training: which get a note."""

import numpy as np
import pytest

from pipeline.base.lazy import keras, layers, tf
from pipeline.checks.preflight import layer_notes, schedule_notes
from pipeline.inference import keras_files
from pipeline.pruning.magnitude import SMALLEST_KERNEL
from pipeline.training import networks

SIZE, CLASSES = 32, 3


def network(*middle, first=(), classes=CLASSES, stride=1):
    """A user's own network: an image, the layers `first` and `middle`, logits."""
    image = x = layers.Input((SIZE, SIZE, 3))
    for layer in (*first, *middle):
        x = layer(x)
    logits = layers.Conv2D(classes, 1, stride, name="logits")(x)
    return keras.Model(image, logits, name="tiny")


def convolution(filters, size=3):
    return layers.Conv2D(filters, size, padding="same")


@pytest.fixture
def large():
    """Layers that give no note: they have a large kernel and a group of channels to remove."""
    return [convolution(64), convolution(64), convolution(64)]


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_networks_of_this_pipeline_give_no_notes(name):
    assert layer_notes(networks.NETWORKS[name]((64, 64), CLASSES)) == []


def test_enlarged_network_gives_no_notes():
    assert layer_notes(networks.compact_unet((64, 96), CLASSES, 1.5)) == []


def test_network_with_only_small_kernels_is_noted(large):
    assert SMALLEST_KERNEL > 3 * 3 * 24 * 24
    (note,) = layer_notes(network(*(convolution(24) for _ in range(3))))
    assert "no kernel of tiny has 9,000 weights or more" in note and "SMALLEST_KERNEL" in note
    assert layer_notes(network(*large)) == []


def test_network_without_channels_to_remove_is_noted():
    """At least a block of 8 stays in each group, and channels that softmax reads all stay."""
    narrow = [convolution(8), convolution(8), convolution(512)]
    tied = [layers.Softmax(), convolution(8)]
    (note,) = layer_notes(network(*narrow, *tied))
    assert note.endswith(f": {tied[0].name} ties those of {narrow[-1].name}")
    assert "no group of channels of tiny is larger than a block of 8" in note
    assert "pruning.py --channels cannot remove any" in note


def test_rescaling_for_pixels_up_to_255_is_noted_with_a_replacement(large):
    """The first layer of Keras' MobileNet: it makes images of 0..1 nearly black."""
    rescaling = [layers.Rescaling(1 / 127.5, -1, name="from_mobilenet")]
    (note,) = layer_notes(network(*large, first=rescaling))
    assert note.startswith("from_mobilenet maps images, whose values are 0..1, to -1.000..-0.992")
    assert "write Rescaling(2, -1)" in note


@pytest.mark.parametrize("scale_and_offset", [(2, -1), (255 / 128, -127 / 128), (1, 0)])
def test_rescaling_for_pixels_up_to_1_is_not_noted(large, scale_and_offset):
    first = [layers.Rescaling(*scale_and_offset)]
    assert layer_notes(network(*large, first=first)) == []


def test_sequential_model_and_a_nested_network_pass(large):
    sequential = keras.Sequential([layers.Input((SIZE, SIZE, 3)), *large, convolution(3, 1)])
    assert layer_notes(sequential) == []
    inner = network(*large, classes=64)
    outer = network(inner, *(convolution(64) for _ in range(3)))
    assert layer_notes(outer) == []


def test_random_function_is_noted_because_a_resumed_training_cannot_repeat_it(large, monkeypatch):
    """Random layers of Keras give no note: tests/training/test_checkpoints.py."""
    image = layers.Input((SIZE, SIZE, 3))
    inner = keras.Model(image, tf.nn.dropout(image, 0.3, name="own_dropout"))
    monkeypatch.setattr(keras_files, "FUNCTIONS", keras_files.FUNCTIONS | {"nn.dropout"})
    note, *_ = layer_notes(network(*large, first=[inner]))
    assert "dropout draws random numbers that a resumed training cannot repeat" in note
    random = [layers.Dropout(0.3), layers.GaussianNoise(0.1), layers.SpatialDropout2D(0.3)]
    assert not [note for note in layer_notes(network(*large, first=random)) if "random" in note]


def test_rescaling_by_channel_is_not_noted(large):
    rescaling = [layers.Rescaling([2.0, 2.0, 2.0], -1)]
    assert layer_notes(network(*large, first=rescaling)) == []


def normalised(momentum, trainable=True):
    image = layers.Input((SIZE, SIZE, 3))
    x = layers.BatchNormalization(momentum=0.9)(image)
    x = layers.BatchNormalization(momentum=momentum, trainable=trainable)(x)
    return keras.Model(image, layers.Conv2D(CLASSES, 1)(x))


def test_training_too_short_for_the_moving_statistics_is_noted_with_the_epochs_it_needs():
    (note,) = schedule_notes(normalised(0.999), epochs=10, steps=1030)
    assert note.startswith("batch normalisation with momentum 0.999, in 1 of 2 such layers")
    assert "36% of their moving statistics" in note
    epochs = int(note.rpartition("--epochs ")[2])
    held = 0.999 ** (103 * np.arange(epochs + 1))  # what is left of the initial value after each
    assert held[epochs] <= 0.1 < held[epochs - 1]
    assert not schedule_notes(normalised(0.999), epochs, 103 * epochs)


def test_momentum_that_never_forgets_has_no_number_of_epochs():
    (note,) = schedule_notes(normalised(1.0), epochs=1000, steps=100_000)
    assert "100% of" in note and "--epochs" not in note


@pytest.mark.parametrize(("momentum", "trainable"), [(0.999, False), (0.95, True)])
def test_frozen_or_quick_statistics_are_not_noted(momentum, trainable):
    assert not schedule_notes(normalised(momentum, trainable), epochs=3, steps=309)


def test_few_steps_are_noted():
    (note,) = schedule_notes(normalised(0.9), epochs=4, steps=200)
    assert note.startswith("200 steps in all, 50 an epoch, are few")
