"""R2U-Net (Alom et al. 2018): a convolution that is applied to its own output."""

from pipeline.base.lazy import keras, layers


def recurrent(x, filters):
    x = layers.Conv2D(filters, 1)(x)
    step = layers.Conv2D(filters, 3, padding="same", activation="relu")
    y = step(x)
    for _ in range(2):
        y = step(layers.Add()([x, y]))
    return layers.Add()([x, y])


def build(size, classes):
    image = layers.Input((*size, 3))
    a = recurrent(image, 32)
    b = recurrent(layers.MaxPooling2D()(a), 48)
    x = layers.Conv2DTranspose(32, 2, 2)(b)
    x = recurrent(layers.Concatenate()([x, a]), 32)
    return keras.Model(image, layers.Conv2D(classes, 1)(x))
