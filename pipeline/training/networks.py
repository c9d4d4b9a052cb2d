"""The U-Nets, and the place for your own network.

A network is a function of the image size (height, width) and the number of classes. To train your
own, write it here and add it to NETWORKS, or replace one that is there:

    def tiny(size: tuple[int, int], classes: int) -> keras.Model:
        image = layers.Input((*size, 3))  # float32, 0..1
        ...
        return keras.Model(image, logits)  # float32 (batch, *size, classes)

    NETWORKS = {..., "tiny": tiny}    # python training.py --architecture tiny
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from pipeline.base.lazy import keras, layers, tf

NORM_MOMENTUM = 0.95  # of the moving mean and variance of batch normalisation, per step

# Stages of EfficientNet-Lite0: kernel size, stride, expansion, filters, repeats. (Tan and Le 2019;
# the Lite family drops squeeze-and-excitation and swish for the sake of int8.) Only the blocks up
# to the first one of stride 32 are kept.
ENCODER_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 1),
)
DECODER_KERNELS = (5, 3)  # kernel sizes of the depthwise convolutions at each decoder scale


class Preset(NamedTuple):
    """Sizes of the compact network, between fast and accurate."""

    enlargement: float  # factor by which the network enlarges both sides of the image
    decoder: tuple[int, ...]  # filters of the decoder at strides 16, 8 and 4; logits come from 4


PRESETS = {
    "small": Preset(1.0, (96, 64, 48)),
    "default": Preset(1.25, (144, 96, 72)),
    "large": Preset(1.75, (144, 96, 72)),
}


def normalisation(name: str) -> layers.Layer:
    """Batch normalisation called `name`_norm; its statistics span all devices of the strategy."""
    several_devices = tf.distribute.get_strategy().num_replicas_in_sync > 1
    return layers.BatchNormalization(
        -1, NORM_MOMENTUM, 1e-3, synchronized=several_devices, name=f"{name}_norm"
    )


def normalised(x: Any, layer: layers.Layer, name: str, activate: bool = True) -> Any:
    """A convolution without bias, batch normalisation, and ReLU6 unless `activate` is false.

    The range of ReLU6, 0 to 6, suits int8.
    """
    x = normalisation(name)(layer(x))
    return layers.ReLU(6.0, name=f"{name}_relu")(x) if activate else x


def pointwise(filters: int, name: str) -> layers.Layer:
    """A 1x1 convolution without bias."""
    return layers.Conv2D(filters, 1, use_bias=False, name=name)


def depthwise(size: int, stride: int, name: str) -> layers.Layer:
    """A depthwise convolution of size x size pixels without bias."""
    return layers.DepthwiseConv2D(size, stride, padding="same", use_bias=False, name=name)


def inverted_residual(
    x: Any, expansion: int, filters: int, size: int, stride: int, name: str
) -> Any:
    """The inverted residual block of MobileNetV2 (Sandler et al. 2018).

    Expand, depthwise convolution, project; plus the input, where the shapes agree.
    """
    y = x
    if expansion > 1:
        y = normalised(y, pointwise(x.shape[-1] * expansion, f"{name}_expand"), f"{name}_expand")
    y = normalised(y, depthwise(size, stride, f"{name}_depthwise"), f"{name}_depthwise")
    y = normalised(y, pointwise(filters, f"{name}_project"), f"{name}_project", activate=False)
    return layers.Add(name=f"{name}_add")([x, y]) if x.shape == y.shape else y


def blocks_to_pixels(x: Any, block: int) -> Any:
    """Depth to space: the channels of each pixel become a square of block x block pixels.

    It is built of reshape, transpose and reshape. They compute the same bits as the operator
    DEPTH_TO_SPACE in the same time, and NPUs run them (no Ethos-U has DEPTH_TO_SPACE). Rows move
    into the batch axis, because some runtimes take at most four axes.

    Args:
        x: (batch, height, width, channels).
        block: side of the square; its square divides the channels.

    Returns:
        (batch, height * block, width * block, channels / block**2).
    """
    _, rows, columns, channels = x.shape
    x = tf.reshape(x, (-1, columns, block, channels // block), name="rows")
    x = tf.transpose(x, (0, 2, 1, 3), name="turned")
    shape = (-1, rows * block, columns * block, channels // block**2)
    return tf.reshape(x, shape, name="pixels")


def compact_unet(
    size: tuple[int, int],
    classes: int,
    enlargement: float = 1.0,
    decoder: tuple[int, ...] = PRESETS["default"].decoder,
) -> keras.Model:
    """The compact network: a U-Net (Ronneberger et al. 2015) on EfficientNet-Lite0.

    It has 1.1 M parameters with the default decoder.

    - The image is enlarged first. That gains as much accuracy for its time as any other change
      that was tried, and adds no weights (docs/choices.md).
    - A 1x1 convolution over concat([x, skip]) equals the sum of a convolution over x and one over
      skip. So skips are added, and x is projected before it is enlarged, while it has a quarter
      of the pixels.
    - Both are normalised before the sum. Normalisation after it could not be folded into a
      convolution and would cost two more operators.
    - The last layer predicts 4 x 4 pixels at once, at a quarter of the resolution. That is as
      accurate as one more decoder scale, and a quarter faster.

    Args:
        size: height and width of the image in pixels, multiples of 32.
        classes: number of classes.
        enlargement: see `Preset`; the enlarged sides are the nearest multiples of 32 pixels.
        decoder: see `Preset`.

    Returns:
        A model from float32 images (batch, height, width, 3) in 0..1 to float32 logits (batch,
        height, width, classes).
    """
    image = layers.Input((*size, 3), name="image")
    inner = tuple(max(1, round(side * enlargement / 32)) * 32 for side in size)
    x = image if inner == tuple(size) else layers.Resizing(*inner, name="enlarge")(image)
    x = normalised(x, layers.Conv2D(32, 3, 2, padding="same", use_bias=False, name="stem"), "stem")
    skips, number = [], 0
    for kernel, stride, expansion, filters, repeats in ENCODER_STAGES:
        if stride == 2:
            skips.append(x)
        for repeat in range(repeats):
            step = stride if repeat == 0 else 1
            x = inverted_residual(x, expansion, filters, kernel, step, f"block{number}")
            number += 1
    for filters, skip in zip(decoder, reversed(skips)):
        name = f"up{skip.shape[1]}"
        x = normalised(x, pointwise(filters, f"{name}_deep"), f"{name}_deep", False)
        x = layers.UpSampling2D(2, interpolation="bilinear", name=name)(x)
        skip = normalised(skip, pointwise(filters, f"{name}_skip"), f"{name}_skip", False)
        x = layers.ReLU(6.0, name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, skip]))
        for kernel in DECODER_KERNELS:
            spatial, mix = f"{name}_depthwise{kernel}", f"{name}_mix{kernel}"
            x = normalised(x, depthwise(kernel, 1, spatial), spatial, activate=False)
            x = normalised(x, pointwise(filters, mix), mix)
    block = inner[0] // x.shape[1]  # side of the square that one pixel of x predicts
    x = layers.Conv2D(block**2 * classes, 1, name="logits_block")(x)
    return keras.Model(image, logits_of_size(x, block, size), name="compact_unet")


def logits_of_size(x: Any, block: int, size: tuple[int, int]) -> Any:
    """The output of the compact network, made of that of its last convolution.

    Args:
        x: (batch, rows, columns, block**2 * classes).
        block: side of the square of pixels that one pixel of x predicts.
        size: height and width of the image in pixels.

    Returns:
        float32 logits (batch, height, width, classes).
    """
    x = layers.Activation("linear", dtype="float32", name="logits")(blocks_to_pixels(x, block))
    if x.shape[1:3] == tuple(size):
        return x
    return layers.Resizing(*size, dtype="float32", name="shrink")(x)


def classic_unet(size: tuple[int, int], classes: int) -> keras.Model:
    """The textbook U-Net (Ronneberger et al. 2015) with about 1.86 M parameters.

    It has pairs of 3x3 convolutions of 64, 128 and, at the bottleneck, 256 filters, transposed
    convolutions and concatenated skips. Batch normalisation follows each 3x3 convolution; the
    converter folds it into the convolution.

    Args:
        size: height and width of the image in pixels, multiples of 4.
        classes: number of classes.

    Returns:
        As `compact_unet`.
    """

    def pair(x: Any, filters: int, name: str) -> Any:
        for part in "ab":
            convolution = layers.Conv2D(
                filters, 3, padding="same", use_bias=False, name=f"{name}{part}"
            )
            x = normalisation(f"{name}{part}")(convolution(x))
            x = layers.ReLU(name=f"{name}{part}_relu")(x)
        return x

    image = layers.Input((*size, 3), name="image")
    x, skips = image, []
    for filters in (64, 128):
        skips.append(pair(x, filters, f"down{filters}"))
        x = layers.MaxPool2D(name=f"pool{filters}")(skips[-1])
    x = pair(x, 256, "bottleneck")
    for filters, skip in zip((128, 64), reversed(skips)):
        x = layers.Conv2DTranspose(filters, 2, 2, name=f"up{filters}_transposed")(x)
        x = pair(layers.Concatenate(name=f"up{filters}_concat")([x, skip]), filters, f"up{filters}")
    logits = layers.Conv2D(classes, 1, dtype="float32", name="logits")(x)
    return keras.Model(image, logits, name="classic_unet")


NETWORKS = {"compact": compact_unet, "classic": classic_unet}  # choices of --architecture


def choose(architecture: str, preset: str, enlargement: float) -> Callable[..., keras.Model]:
    """The function of (size, classes) that builds a network; only the compact one has presets."""
    network: Any = NETWORKS[architecture]
    if network is not compact_unet:
        return network
    return partial(network, enlargement=enlargement, decoder=PRESETS[preset].decoder)
