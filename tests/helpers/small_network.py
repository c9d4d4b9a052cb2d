"""The network of the small run: of every kind of layer that the compact one has, a few.

To trace a training step takes TensorFlow a tenth of a second for each trained tensor. The compact
network has 164 of them, this one 32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pipeline.base.lazy import keras, layers

# Layers of more than `magnitude.SMALLEST_KERNEL` weights, which are pruned.
PRUNED_LAYERS = {"block1_expand", "block1_project", "block2_deep", "up4_mix"}


def small_unet(size: tuple[int, int], classes: int) -> keras.Model:
    """A U-Net whose layers have names of their own, so that any process names them the same.

    Its normalisation follows the images of a few steps; the usual momentum would need hundreds.
    """
    from pipeline.training.networks import logits_of_size

    def normalised(x: Any, layer: layers.Layer, activate: bool = True) -> Any:
        x = layers.BatchNormalization(momentum=0.5, name=f"{layer.name}_norm")(layer(x))
        return layers.ReLU(6.0, name=f"{layer.name}_relu")(x) if activate else x

    def convolution(filters: int, kernel: int, name: str, stride: int = 1) -> layers.Layer:
        return layers.Conv2D(filters, kernel, stride, padding="same", use_bias=False, name=name)

    def depthwise(name: str, stride: int = 1) -> layers.Layer:
        return layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False, name=name)

    image = layers.Input((*size, 3), name="image")
    skip = x = normalised(image, convolution(16, 3, "stem", 2))
    x = normalised(x, depthwise("block0_depthwise", 2))
    shortcut = x = normalised(x, convolution(64, 1, "block0_project"), activate=False)
    x = normalised(x, convolution(160, 1, "block1_expand"))
    x = normalised(x, depthwise("block1_depthwise"))
    x = normalised(x, convolution(64, 1, "block1_project"), activate=False)
    x = layers.Add(name="block1_add")([x, shortcut])
    x = normalised(x, convolution(64, 3, "block2_deep"), activate=False)
    x = layers.UpSampling2D(2, interpolation="bilinear", name="up4")(x)
    skip = normalised(skip, convolution(64, 1, "up4_skip"), activate=False)
    x = layers.ReLU(6.0, name="up4_relu")(layers.Add(name="up4_add")([x, skip]))
    x = normalised(x, depthwise("up4_depthwise"), activate=False)
    x = normalised(x, convolution(160, 1, "up4_mix"))
    x = layers.Conv2D(4 * classes, 1, name="logits_block")(x)
    return keras.Model(image, logits_of_size(x, 2, size), name="small_unet")


@contextmanager
def small_network() -> Iterator[None]:
    """Lets the scripts, called in this process, train `small_unet` in place of the compact one."""
    from pipeline.training import networks

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(networks.NETWORKS, "compact", small_unet)
        yield
