"""Attention over pixels (Wang et al. 2018, non-local networks) at a quarter of the resolution."""

from pipeline.base.lazy import keras, layers


def build(size, classes):
    image = layers.Input((*size, 3))
    x = layers.Conv2D(32, 3, 2, padding="same", activation="relu")(image)
    x = layers.Conv2D(64, 3, 2, padding="same", activation="relu")(x)
    pixels = x.shape[1] * x.shape[2]
    query, key, value = (layers.Reshape((pixels, 16))(layers.Conv2D(16, 1)(x)) for _ in range(3))
    weights = layers.Softmax()(layers.Dot(2)([query, key]))
    y = layers.Reshape((*x.shape[1:3], 16))(layers.Dot((2, 1))([weights, value]))
    x = layers.Add()([x, layers.Conv2D(64, 1)(y)])
    x = layers.Conv2D(64, 3, padding="same", activation="relu")(x)
    x = layers.UpSampling2D(4, interpolation="bilinear")(layers.Conv2D(classes, 1)(x))
    return keras.Model(image, x)
