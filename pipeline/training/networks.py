"""The U-Nets, and the place for a network of one's own.

A network is a function of the image's size (height, width) and of the number of classes. To
train another one, write it here and name it in NETWORKS, or put it in the place of one that is
there:

    def tiny(size: tuple[int, int], classes: int) -> keras.Model:
        image = layers.Input((*size, 3))  # float32, 0..1
        ...
        return keras.Model(image, logits)  # float32 (batch, *size, classes)

    NETWORKS = {..., "tiny": tiny}    # python training.py --architecture tiny
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from pipeline.base.lazy import keras, layers, tf

NORM_MOMENTUM = 0.95  # per step, of batch normalisation's moving mean and variance

# EfficientNet-Lite0 (Tan and Le 2019; the Lite family drops squeeze-excite and swish for int8):
# kernel size, stride, expansion, filters, repeats. Its last stages are cut off here.
ENCODER_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 1),
)
DECODER_KERNELS = (5, 3)  # sides of the depthwise convolutions at each scale of the decoder
SMALLER = 0.8  # of the side that a teacher sees, for its student: see `teaching_views`


class Preset(NamedTuple):
    """What makes the compact network faster or more accurate."""

    enlargement: float  # of the image's side inside the network
    decoder: tuple[int, ...]  # filters at 1/16, 1/8 and 1/4 of the side, where the logits are made


PRESETS = {
    "small": Preset(1.0, (96, 64, 48)),
    "default": Preset(1.25, (144, 96, 72)),
    "large": Preset(1.75, (144, 96, 72)),
}


def normalisation(name: str) -> layers.Layer:
    """Batch normalisation, with several devices over the batch of all and not each one's share."""
    several = tf.distribute.get_strategy().num_replicas_in_sync > 1
    return layers.BatchNormalization(
        -1, NORM_MOMENTUM, 1e-3, synchronized=several, name=f"{name}_norm"
    )


def normalised(x: Any, layer: layers.Layer, name: str, activate: bool = True) -> Any:
    """A convolution without bias, batch normalisation and ReLU6 (which int8 covers well)."""
    x = normalisation(name)(layer(x))
    return layers.ReLU(6.0, name=f"{name}_relu")(x) if activate else x


def pointwise(filters: int, name: str) -> layers.Layer:
    """A 1x1 convolution: mixes channels, pixel by pixel."""
    return layers.Conv2D(filters, 1, use_bias=False, name=name)


def depthwise(size: int, stride: int, name: str) -> layers.Layer:
    """One size x size filter per channel: mixes pixels, channel by channel."""
    return layers.DepthwiseConv2D(size, stride, padding="same", use_bias=False, name=name)


def inverted_residual(
    x: Any, expansion: int, filters: int, size: int, stride: int, name: str
) -> Any:
    """MobileNetV2's block (Sandler et al. 2018): expand, depthwise, project, and add if it fits."""
    y = x
    if expansion > 1:
        y = normalised(y, pointwise(x.shape[-1] * expansion, f"{name}_expand"), f"{name}_expand")
    y = normalised(y, depthwise(size, stride, f"{name}_depthwise"), f"{name}_depthwise")
    y = normalised(y, pointwise(filters, f"{name}_project"), f"{name}_project", activate=False)
    return layers.Add(name=f"{name}_add")([x, y]) if x.shape == y.shape else y


def blocks_to_pixels(x: Any, block: int) -> Any:
    """Depth to space: each pixel's channels become a square of block x block pixels.

    As reshape, transpose, reshape, which give the same bits as the operator DEPTH_TO_SPACE in the
    same time, and which NPUs know (no Ethos-U has DEPTH_TO_SPACE). Rows go into the batch, because
    runtimes like at most four axes.
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
    """The network that this pipeline makes small: a U-Net on EfficientNet-Lite0, 1.1 M parameters.

    (U-Net: Ronneberger et al. 2015.) It works on the image enlarged: what it gains in accuracy
    for the time is as much as by any other change that was tried, and it adds no weights
    (docs/choices.md). A 1x1 convolution over concat([x, skip]) equals the sum of one over x and
    one over skip, so skips are added, and x is projected before it is enlarged, where it has a
    quarter of the pixels. Both are normalised before the sum and not after it, where
    normalisation would be two operators that no convolution takes in. The last layer predicts
    4 x 4 pixels at once, at a quarter of the resolution: as accurate as another scale of decoder
    and a quarter faster.

    Args:
        size: height and width of the image in pixels, multiples of 32.
        classes: how many are told apart.
        enlargement, decoder: see `Preset`; both sides of the image are enlarged, to the nearest
            multiples of 32 pixels.

    Returns:
        A model from float32 images (batch, height, width, 3) in 0..1 to logits of that size.
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
    block = inner[0] // x.shape[1]  # side of the square of pixels that one pixel here predicts
    x = layers.Conv2D(block**2 * classes, 1, name="logits_block")(x)
    return keras.Model(image, logits_of_size(x, block, size), name="compact_unet")


def logits_of_size(x: Any, block: int, size: tuple[int, int]) -> Any:
    """The compact network's output: float32 logits at the image's size, from its last layer's."""
    x = layers.Activation("linear", dtype="float32", name="logits")(blocks_to_pixels(x, block))
    if x.shape[1:3] == tuple(size):
        return x
    return layers.Resizing(*size, dtype="float32", name="shrink")(x)


def teaching_views(teacher: keras.Model, student: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Both so that the student sees a smaller image than its teacher, by SMALLER or a little less.

    Crops make things larger in training than they are in use; on a smaller image they have the
    size again that the network will see (Touvron et al., *Fixing the train-test resolution
    discrepancy*, 2019). Its teacher sees them large, and better for it. A student without room to
    shrink (sides are multiples of 32 pixels) has a teacher that sees more than the network will
    (docs/choices.md).

    Returns:
        Models of the same inputs, outputs and weights (not copies); the given ones where they are
        of another network than the compact one, or so small that nothing fits.
    """
    smaller = on_image_of(student, SMALLER)
    if smaller is not student:
        return teacher, smaller
    return on_image_of(teacher, 1 / SMALLER), student


def on_image_of(model: keras.Model, share: float) -> keras.Model:
    """The same layers on an image of a share of the side that the compact network works on.

    Sides are multiples of 32 pixels: the nearest to what is asked for that are not beyond it.

    Returns:
        A model of the given one's inputs, outputs and weights (not copies); or the given one, if
        it is another network or that multiple is the side that it has.
    """
    found = {layer.name: getattr(layer, "layer", layer) for layer in model.layers}
    if "logits_block" not in found:
        return model
    size, enlarge = model.input_shape[1:3], found.get("enlarge")
    inner = (enlarge.height, enlarge.width) if enlarge else size
    towards = math.ceil if share < 1 else math.floor
    sides = tuple(towards(round(side * share / 32, 6)) * 32 for side in inner)
    if sides == inner:
        return model

    last = model.output
    while (made := last._keras_history).layer.name != "logits_block":
        last = made.layer.inbound_nodes[made.node_index].keras_inputs[0]

    def same(layer: layers.Layer) -> layers.Layer:
        return layers.Activation("linear") if layer.name == "enlarge" else layer

    trunk = keras.Model(model.input, last)
    trunk = keras.models.clone_model(trunk, layers.Input((*sides, 3)), same)
    image = layers.Input((*size, 3))
    x = trunk(layers.Resizing(*sides)(image))
    block = math.isqrt(last.shape[-1] // model.output_shape[-1])
    return keras.Model(image, logits_of_size(x, block, size))


def classic_unet(size: tuple[int, int], classes: int) -> keras.Model:
    """The textbook U-Net (Ronneberger et al. 2015), about 1.86 M parameters.

    Pairs of 3x3 convolutions of 64, 128 and, at the bottleneck, 256 filters, transposed
    convolutions, concatenated skips.

    Batch normalisation follows each 3x3 convolution; it is folded away on conversion. Arguments
    and result as for `compact_unet`.
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


NETWORKS = {"compact": compact_unet, "classic": classic_unet}  # what --architecture offers
