"""SegFormer's head (Xie et al. 2021): Dense layers over the channels of each pixel."""

from pipeline.base.lazy import keras, layers


def build(size, classes):
    image = layers.Input((*size, 3))
    a = layers.Conv2D(32, 3, 2, padding="same", activation="relu")(image)
    b = layers.Conv2D(64, 3, 2, padding="same", activation="relu")(a)
    parts = []
    for x in (a, b):
        height, width = x.shape[1:3]
        x = layers.Dense(64)(layers.Reshape((height * width, x.shape[-1]))(x))
        x = layers.Reshape((height, width, 64))(x)
        parts.append(layers.Resizing(*a.shape[1:3])(x))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Dense(96)(layers.Concatenate()(parts))))
    x = layers.Dense(classes)(layers.Dropout(0.1)(x))
    return keras.Model(image, layers.Resizing(*size)(x))
