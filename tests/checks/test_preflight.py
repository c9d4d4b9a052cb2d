"""What is said of a network of one's own before hours are spent on it."""

import pytest

from pipeline.base.console import UserError
from pipeline.base.lazy import keras, layers
from pipeline.checks.preflight import check_network
from pipeline.pruning.magnitude import SMALLEST_KERNEL
from pipeline.training import networks

SIZE, CLASSES = 32, 3


def network(*middle, first=(), classes=CLASSES, stride=1):
    """A network of one's own: an image, the layers `first` and `middle`, logits."""
    image = x = layers.Input((SIZE, SIZE, 3))
    for layer in (*first, *middle):
        x = layer(x)
    logits = layers.Conv2D(classes, 1, stride, name="logits")(x)
    return keras.Model(image, logits, name="tiny")


def convolution(filters, size=3):
    return layers.Conv2D(filters, size, padding="same")


@pytest.fixture
def large():
    """Layers with a large kernel and a group of channels, of which nothing is to be noted."""
    return [convolution(64), convolution(64), convolution(64)]


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_networks_of_this_pipeline_give_no_notes(name):
    assert check_network(networks.NETWORKS[name]((64, 64), CLASSES), (64, 64), CLASSES) == []


def test_enlarged_network_gives_no_notes():
    assert check_network(networks.compact_unet((64, 96), CLASSES, 1.5), (64, 96), CLASSES) == []


def test_network_that_gives_other_logits_is_refused(large):
    said = r"tiny maps .* to \(32, 32, 4\), not .* to \(32, 32, 3\); mend it in pipeline/networks"
    with pytest.raises(UserError, match=said):
        check_network(network(*large, classes=4), (SIZE, SIZE), CLASSES)
    with pytest.raises(UserError, match=r"to \(16, 16, 3\), not"):
        check_network(network(*large, stride=2), (SIZE, SIZE), CLASSES)


def test_network_for_images_of_another_size_is_refused(large):
    with pytest.raises(UserError, match=r"maps \(32, 32, 3\) to .*, not \(64, 64, 3\) to"):
        check_network(network(*large), (64, 64), CLASSES)


def test_network_with_only_small_kernels_is_noted(large):
    assert SMALLEST_KERNEL > 3 * 3 * 24 * 24
    (note,) = check_network(network(*(convolution(24) for _ in range(3))), (SIZE, SIZE), CLASSES)
    assert "no kernel of tiny has 9,000 weights" in note and "SMALLEST_KERNEL" in note
    assert check_network(network(*large), (SIZE, SIZE), CLASSES) == []


def test_network_without_channels_to_remove_is_noted():
    """A block of 8 always stays, so a group of 8 loses none; what softmax reads keeps its own."""
    narrow = [convolution(8), convolution(8), convolution(512)]
    tied = [layers.Softmax(), convolution(8)]
    (note,) = check_network(network(*narrow, *tied), (SIZE, SIZE), CLASSES)
    assert "no group of channels of tiny is larger than a block of 8" in note
    assert "pruning.py --channels can remove none" in note


def test_rescaling_for_pixels_up_to_255_is_noted_with_what_to_write_instead(large):
    """MobileNet's own first layer: on images of 0..1 it makes all of them nearly black."""
    theirs = [layers.Rescaling(1 / 127.5, -1, name="from_mobilenet")]
    (note,) = check_network(network(*large, first=theirs), (SIZE, SIZE), CLASSES)
    assert note.startswith("from_mobilenet maps images, which come as 0..1, to -1.000..-0.992")
    assert "write Rescaling(2, -1)" in note


@pytest.mark.parametrize("ours", [(2, -1), (255 / 128, -127 / 128), (1, 0)])
def test_rescaling_for_pixels_up_to_1_is_not_noted(large, ours):
    first = [layers.Rescaling(*ours)]
    assert check_network(network(*large, first=first), (SIZE, SIZE), CLASSES) == []


def test_network_whose_file_could_not_be_read_back_is_refused(large):
    """Hours later pruning.py would refuse its file, and the remedy would be to train it again."""
    own = layers.Lambda(lambda x: x)
    with pytest.raises(UserError, match=r"names keras\.layers\.Lambda, which could not"):
        check_network(network(*large, own), (SIZE, SIZE), CLASSES)


def test_list_of_models_is_followed_and_a_network_as_a_layer_is_noted(large):
    sequential = keras.Sequential([layers.Input((SIZE, SIZE, 3)), *large, convolution(3, 1)])
    assert check_network(sequential, (SIZE, SIZE), CLASSES) == []
    inner = network(*large, classes=64)
    outer = network(inner, *(convolution(64) for _ in range(3)))
    (note,) = check_network(outer, (SIZE, SIZE), CLASSES)
    assert "cannot be followed through tiny" in note


def test_rescaling_by_channel_is_understood(large):
    ours = [layers.Rescaling([2.0, 2.0, 2.0], -1)]
    assert check_network(network(*large, first=ours), (SIZE, SIZE), CLASSES) == []
