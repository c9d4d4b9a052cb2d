"""PSPNet (Zhao et al. 2017): average pooling at several scales."""

from pipeline.base.lazy import keras, layers


def build(size, classes):
    image = layers.Input((*size, 3))
    x = layers.Conv2D(32, 3, 2, padding="same", activation="relu")(image)
    x = layers.Conv2D(64, 3, padding="same", activation="relu")(x)
    scales = [x]
    for side in (2, 4, 8):
        y = layers.Conv2D(16, 1, activation="relu")(layers.AveragePooling2D(side)(x))
        scales.append(layers.Resizing(*x.shape[1:3], interpolation="bilinear")(y))
    x = layers.Conv2D(64, 3, padding="same", activation="relu")(layers.Concatenate()(scales))
    x = layers.Dropout(0.1)(x)
    x = layers.Resizing(*size)(layers.Conv2D(classes, 1)(x))
    return keras.Model(image, layers.Softmax()(x))
