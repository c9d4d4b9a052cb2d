"""Squeeze and excitation (Hu et al. 2018) with Dense layers."""

from pipeline.base.lazy import keras, layers


def squeeze_excite(x, filters):
    s = layers.GlobalAveragePooling2D()(x)
    s = layers.Dense(filters // 4, activation="relu")(s)
    s = layers.Dense(filters, activation="sigmoid")(s)
    return layers.Multiply()([x, layers.Reshape((1, 1, filters))(s)])


def build(size, classes):
    image = x = layers.Input((*size, 3))
    for filters in (32, 64):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = squeeze_excite(x, filters)
    x = layers.Conv2D(64, 3, padding="same", activation="relu")(x)
    return keras.Model(image, layers.Conv2D(classes, 1)(x))
