"""A sigmoid for each class; kernels with an L2; a name with a space."""

from pipeline.base.lazy import keras, layers


def build(size, classes):
    image = x = layers.Input((*size, 3))
    for filters in (32, 64, 64):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", kernel_regularizer="l2")(x)
    x = layers.Activation("sigmoid")(layers.Conv2D(classes, 1)(x))
    return keras.Model(image, x, name="my net + sigmoid")
