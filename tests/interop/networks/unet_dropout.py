"""The U-Net of many tutorials: biases, no normalisation, dropout, softmax at the end."""

from pipeline.base.lazy import keras, layers


def pair(x, filters):
    for _ in range(2):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
    return x


def build(size, classes):
    image = layers.Input((*size, 3))
    skips, x = [], image
    for filters in (16, 32):
        skips.append(pair(x, filters))
        x = layers.Dropout(0.1)(layers.MaxPooling2D()(skips[-1]))
    x = layers.SpatialDropout2D(0.1)(pair(x, 64))
    for filters, skip in zip((32, 16), reversed(skips)):
        x = layers.Conv2DTranspose(filters, 2, 2, padding="same")(x)
        x = pair(layers.concatenate([x, skip]), filters)
    return keras.Model(image, layers.Conv2D(classes, 1, activation="softmax")(x))
