"""ResNeXt (Xie et al. 2017): convolutions in groups."""

from pipeline.base.lazy import keras, layers


def build(size, classes):
    image = layers.Input((*size, 3))
    x = layers.Conv2D(64, 3, padding="same", activation="relu")(image)
    for _ in range(2):
        y = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(32, 1)(x)))
        y = layers.Conv2D(32, 3, padding="same", groups=4)(y)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        x = layers.ReLU()(layers.Add()([x, layers.Conv2D(64, 1)(y)]))
    x = layers.Conv2D(64, 3, padding="same", activation="relu")(x)
    return keras.Model(image, layers.Conv2D(classes, 1)(x))
