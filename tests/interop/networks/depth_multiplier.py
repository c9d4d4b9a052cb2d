"""A depthwise convolution that makes two of each channel, and one with dilation."""

from pipeline.base.lazy import keras, layers


def build(size, classes):
    image = layers.Input((*size, 3))
    x = layers.Conv2D(32, 3, padding="same", activation="relu")(image)
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, activation="relu")(x)
    x = layers.Conv2D(64, 3, padding="same", dilation_rate=2, activation="relu")(x)
    return keras.Model(image, layers.Conv2D(classes, 1)(x))
