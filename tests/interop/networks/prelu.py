"""ENet's activations (Paszke et al. 2016): a slope per channel, and one per pixel."""

from pipeline.base.lazy import keras, layers


def build(size, classes):
    image = layers.Input((*size, 3))
    x = layers.Conv2D(32, 3, 2, padding="same")(image)
    x = layers.PReLU(shared_axes=[1, 2])(layers.BatchNormalization()(x))
    x = layers.Conv2D(64, 3, padding="same")(x)
    x = layers.PReLU(shared_axes=[1, 2])(layers.BatchNormalization()(x))
    x = layers.PReLU()(layers.Conv2D(32, 3, padding="same")(x))
    return keras.Model(image, layers.Conv2DTranspose(classes, 2, 2)(x))
