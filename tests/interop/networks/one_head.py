"""One head for all scales (RetinaNet), and one normalisation in two places."""

from pipeline.base.lazy import keras, layers


def build(size, classes):
    image, norm = layers.Input((*size, 3)), layers.BatchNormalization()
    head = layers.Conv2D(64, 3, padding="same", activation="relu")
    a = layers.ReLU()(norm(layers.Conv2D(32, 3, padding="same")(image)))
    b = layers.ReLU()(norm(layers.Conv2D(32, 3, 2, padding="same")(a)))
    x = layers.Add()([head(a), layers.UpSampling2D()(head(b))])
    return keras.Model(image, layers.Conv2D(classes, 1)(x))
