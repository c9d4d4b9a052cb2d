"""The dependency graph: which channels are removed together, which stay, and what ties them."""

import pytest

from pipeline.base.lazy import keras, layers
from pipeline.pruning.channel_flow import DEPTHWISE_COST
from pipeline.pruning.dependency_graph import channel_groups, tied_channels
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


def test_channels_that_are_concatenated_are_read_by_the_layer_behind():
    """Each part of a concatenation is a group of its own."""
    groups = by_first_producer(networks.classic_unet((SIZE, SIZE), len(CLASSES)))
    assert {name: group.consumers for name, group in groups.items()} == {
        "down64a": ["down64b"],
        "down64b": ["down128a", "up64a"],
        "down128a": ["down128b"],
        "down128b": ["bottlenecka", "up128a"],
        "bottlenecka": ["bottleneckb"],
        "bottleneckb": ["up128_transposed"],
        "up128_transposed": ["up128a"],
        "up128a": ["up128b"],
        "up128b": ["up64_transposed"],
        "up64_transposed": ["up64a"],
        "up64a": ["up64b"],
        "up64b": ["logits"],
    }


def test_cost_of_a_channel_counts_the_pixels_of_each_of_its_layers(compact):
    """An expanded channel of block 1: written at 16 x 16 pixels, read at 8 x 8 after stride 2."""
    group = by_first_producer(compact)["block1_expand"]
    expand, depthwise, project = 16 * 16 * 16, 8 * 8 * 3 * 3 * DEPTHWISE_COST, 8 * 8 * 24
    assert group.cost == pytest.approx(expand + depthwise + project)


def test_networks_of_this_pipeline_have_no_tied_channels(compact):
    assert tied_channels(compact) == {}
    assert tied_channels(networks.classic_unet((SIZE, SIZE), len(CLASSES))) == {}


def own_network(*middle):
    """A network of a convolution, the given layers, another convolution, and logits."""
    image = layers.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(16, 3, padding="same", name="first")(image)
    for layer in middle:
        x = layer(x)
    x = layers.Conv2D(16, 3, padding="same", name="last")(x)
    return keras.Model(image, layers.Conv2D(len(CLASSES), 1, name="logits")(x))


TIES = {
    "group_norm": lambda: layers.GroupNormalization(4, name="group_norm"),
    "layer_norm": lambda: layers.LayerNormalization(name="layer_norm"),
    "in_groups": lambda: layers.Conv2D(16, 3, padding="same", groups=2, name="in_groups"),
    "softmax": lambda: layers.Softmax(name="softmax"),
    "exclusive": lambda: layers.Activation("softmax", name="exclusive"),
    "three_scales": lambda: layers.Rescaling([1.0] * 16, name="three_scales"),
    "turned": lambda: layers.Permute((3, 2, 1), name="turned"),
    "squares": lambda: layers.Reshape((SIZE // 2, SIZE // 2, 64), name="squares"),
}


@pytest.mark.parametrize("name", TIES)
def test_layer_that_mixes_channels_ties_them_and_is_named(name):
    model = own_network(TIES[name]())
    assert "first" not in by_first_producer(model)
    assert "last" in by_first_producer(model)
    assert tied_channels(model)[name][0] == "first"


def test_single_channel_that_is_added_to_many_ties_none_of_them():
    weight = layers.Conv2D(1, 1, name="weight")
    broadcast = own_network(lambda x: layers.Add(name="sum")([x, weight(x)]))
    assert set(by_first_producer(broadcast)) == {"first", "last"}
    assert tied_channels(broadcast) == {}
