"""Attention U-Net (Oktay et al. 2018): a gate of one channel on each skip; LeakyReLU."""

from pipeline.base.lazy import keras, layers


def gate(skip, signal, filters):
    a = layers.Conv2D(filters, 1, strides=2)(skip)
    x = layers.Activation("relu")(layers.Add()([a, layers.Conv2D(filters, 1)(signal)]))
    weight = layers.UpSampling2D(2)(layers.Conv2D(1, 1, activation="sigmoid")(x))
    return layers.Multiply()([skip, weight])


def pair(x, filters):
    for _ in range(2):
        x = layers.LeakyReLU(0.1)(layers.Conv2D(filters, 3, padding="same")(x))
    return x


def build(size, classes):
    image = layers.Input((*size, 3))
    skips, x = [], image
    for filters in (16, 32):
        skips.append(pair(x, filters))
        x = layers.MaxPooling2D()(skips[-1])
    x = pair(x, 64)
    for filters, skip in zip((32, 16), reversed(skips)):
        skip = gate(skip, x, filters)
        x = layers.Conv2DTranspose(filters, 2, 2)(x)
        x = pair(layers.Concatenate()([skip, x]), filters)
    return keras.Model(image, layers.Conv2D(classes, 1)(x))
