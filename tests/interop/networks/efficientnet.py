"""EfficientNet's block (Tan and Le 2019) with swish and a decoder."""

from pipeline.base.lazy import keras, layers


def build(size, classes):
    image = layers.Input((*size, 3))
    x = layers.ZeroPadding2D(((0, 1), (0, 1)))(image)
    x = layers.Conv2D(24, 3, 2, padding="valid", use_bias=False)(x)
    x = skip = layers.Activation("swish")(layers.BatchNormalization()(x))
    y = layers.Activation("swish")(layers.BatchNormalization()(layers.Conv2D(96, 1)(x)))
    y = layers.DepthwiseConv2D(5, 2, padding="same", use_bias=False)(y)
    y = layers.Activation("swish")(layers.BatchNormalization()(y))
    s = layers.Reshape((1, 1, 96))(layers.GlobalAveragePooling2D()(y))
    s = layers.Conv2D(6, 1, activation="swish")(s)
    y = layers.multiply([y, layers.Conv2D(96, 1, activation="sigmoid")(s)])
    x = layers.Conv2D(40, 1, use_bias=False)(y)
    x = layers.UpSampling2D(2)(layers.BatchNormalization()(x))
    x = layers.Concatenate()([x, skip])
    x = layers.Conv2D(64, 3, padding="same", activation="swish")(x)
    return keras.Model(image, layers.UpSampling2D(2)(layers.Conv2D(classes, 1)(x)))
