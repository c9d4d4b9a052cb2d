"""Group normalisation (Wu and He 2018), which has no int8 form."""

from pipeline.base.lazy import keras, layers

FLOAT_IN_INT8 = "in_groups"  # the layer


def build(size, classes):
    image = layers.Input((*size, 3))
    x = layers.Conv2D(32, 3, 2, padding="same", use_bias=False)(image)
    x = layers.ReLU()(layers.GroupNormalization(8, name="in_groups")(x))
    x = layers.Conv2D(64, 3, padding="same", activation="relu")(x)
    x = layers.Conv2D(64, 3, padding="same", activation="relu")(x)
    return keras.Model(image, layers.Conv2DTranspose(classes, 2, 2)(x))
