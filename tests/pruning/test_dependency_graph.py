"""The dependency graph: added channels are one group, concatenated ones cannot be removed."""

import pytest

from pipeline.base.lazy import keras, layers
from pipeline.pruning.dependency_graph import DEPTHWISE_COST, channel_cost, channel_groups
from pipeline.training import networks
from tests.helpers.runs import CLASSES, SIZE


@pytest.fixture(scope="module")
def compact():
    return networks.compact_unet((SIZE, SIZE), len(CLASSES))


def by_first_producer(model):
    return {group.producers[0]: group for group in channel_groups(model)}


def test_channels_that_are_added_up_are_one_group(compact):
    groups = by_first_producer(compact)
    expanded = groups["block2_expand"]
    assert expanded.followers == ["block2_expand_norm", "block2_depthwise", "block2_depthwise_norm"]
    assert expanded.consumers == ["block2_project"]
    stream = groups["block1_project"]
    assert stream.producers == ["block1_project", "block2_project"]
    assert set(stream.consumers) == {"block2_expand", "block3_expand", "up8_skip"}
    assert "logits_block" not in groups


def test_channels_that_are_concatenated_are_in_no_group():
    groups = by_first_producer(networks.classic_unet((SIZE, SIZE), len(CLASSES)))
    assert {name: group.consumers for name, group in groups.items()} == {
        "down64a": ["down64b"],
        "down128a": ["down128b"],
        "bottlenecka": ["bottleneckb"],
        "bottleneckb": ["up128_transposed"],
        "up128a": ["up128b"],
        "up128b": ["up64_transposed"],
        "up64a": ["up64b"],
        "up64b": ["logits"],
    }


def test_cost_of_a_channel_counts_the_pixels_of_each_of_its_layers(compact):
    """An expanded channel of block 1: written at 16 x 16 pixels, read at 8 x 8 after stride 2."""
    group = by_first_producer(compact)["block1_expand"]
    expand, depthwise, project = 16 * 16 * 16, 8 * 8 * 3 * 3 * DEPTHWISE_COST, 8 * 8 * 24
    assert channel_cost(compact, group) == pytest.approx(expand + depthwise + project)


def own_network(*middle):
    """A network of a convolution, the given layers, another convolution, and logits."""
    image = layers.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(16, 3, padding="same", name="first")(image)
    for layer in middle:
        x = layer(x)
    x = layers.Conv2D(16, 3, padding="same", name="last")(x)
    return keras.Model(image, layers.Conv2D(len(CLASSES), 1, name="logits")(x))


def test_depthwise_convolution_with_a_depth_multiplier_keeps_its_channels():
    double = own_network(layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2))
    assert set(by_first_producer(double)) == {"last"}
    single = own_network(layers.DepthwiseConv2D(3, padding="same"))
    assert set(by_first_producer(single)) == {"first", "last"}


def test_sum_that_broadcasts_one_channel_keeps_its_channels():
    weight = layers.Conv2D(1, 1, name="weight")
    broadcast = own_network(lambda x: layers.Add()([x, weight(x)]))
    assert set(by_first_producer(broadcast)) == {"last"}


def test_grouped_convolution_keeps_the_channels_that_it_reads_and_writes():
    grouped = own_network(layers.Conv2D(16, 3, padding="same", groups=2, name="grouped"))
    assert set(by_first_producer(grouped)) == {"last"}
