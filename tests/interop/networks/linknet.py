"""LinkNet (Chaurasia and Culurciello 2017): skips are added, transposed convolutions grow."""

from pipeline.base.lazy import keras, layers


def norm_relu(x):
    return layers.ReLU()(layers.BatchNormalization()(x))


def build(size, classes):
    image = layers.Input((*size, 3))
    x = norm_relu(layers.Conv2D(32, 3, 2, padding="same", use_bias=False)(image))
    skips = []
    for filters in (32, 64):
        skips.append(x)
        y = norm_relu(layers.Conv2D(filters, 3, 2, padding="same", use_bias=False)(x))
        x = layers.Add()([y, layers.Conv2D(filters, 1, 2, use_bias=False)(x)])
    for filters, skip in zip((32, 32), reversed(skips)):
        x = norm_relu(layers.Conv2D(16, 1, use_bias=False)(x))
        x = norm_relu(layers.Conv2DTranspose(16, 3, 2, padding="same", use_bias=False)(x))
        x = layers.Add()([norm_relu(layers.Conv2D(filters, 1, use_bias=False)(x)), skip])
    return keras.Model(image, layers.Conv2DTranspose(classes, 2, 2)(x))
