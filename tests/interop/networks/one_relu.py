"""One activation object and one pooling object for all, as in PyTorch."""

from pipeline.base.lazy import keras, layers


def build(size, classes):
    image, relu, pool = layers.Input((*size, 3)), layers.ReLU(), layers.MaxPooling2D()
    a = relu(layers.BatchNormalization()(layers.Conv2D(24, 3, padding="same")(image)))
    b = relu(layers.BatchNormalization()(layers.Conv2D(48, 3, padding="same")(pool(a))))
    x = layers.Concatenate()([layers.UpSampling2D()(b), a])
    x = relu(layers.BatchNormalization()(layers.Conv2D(48, 3, padding="same")(x)))
    return keras.Model(image, layers.Conv2D(classes, 1)(x))
