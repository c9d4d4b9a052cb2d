"""Fully convolutional DenseNet (Jegou et al. 2017): each layer reads all before it."""

from pipeline.base.lazy import keras, layers


def dense_block(x, number, growth):
    made = []
    for _ in range(number):
        y = layers.Activation("relu")(layers.BatchNormalization()(x))
        y = layers.Dropout(0.2)(layers.Conv2D(growth, 3, padding="same")(y))
        made.append(y)
        x = layers.concatenate([y, x])
    return x, layers.concatenate(made)


def build(size, classes):
    image = layers.Input((*size, 3))
    x = layers.Conv2D(24, 3, padding="same")(image)
    skip, _ = dense_block(x, 3, 16)
    x = layers.MaxPooling2D()(layers.Conv2D(72, 1)(skip))
    _, x = dense_block(x, 3, 16)
    x = layers.Conv2DTranspose(48, 3, 2, padding="same")(x)
    x, _ = dense_block(layers.concatenate([x, skip]), 2, 16)
    return keras.Model(image, layers.Conv2D(classes, 1)(x))
