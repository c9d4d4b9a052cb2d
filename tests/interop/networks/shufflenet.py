"""ShuffleNet (Zhang et al. 2018): channels in groups, shuffled by reshape and permute."""

from pipeline.base.lazy import keras, layers


def shuffle(x, groups):
    _, height, width, channels = x.shape
    x = layers.Reshape((height * width, groups, channels // groups))(x)
    return layers.Reshape((height, width, channels))(layers.Permute((1, 3, 2))(x))


def build(size, classes):
    image = layers.Input((*size, 3))
    x = layers.Conv2D(48, 3, 2, padding="same", activation="relu")(image)
    y = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(48, 1, groups=4)(x)))
    y = layers.DepthwiseConv2D(3, padding="same")(shuffle(y, 4))
    y = layers.BatchNormalization()(layers.Conv2D(48, 1, groups=4)(y))
    x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.Conv2D(64, 3, padding="same", activation="relu")(x)
    x = layers.UpSampling2D(2)(layers.Conv2D(64, 3, padding="same", activation="relu")(x))
    return keras.Model(image, layers.Conv2D(classes, 1)(x))
