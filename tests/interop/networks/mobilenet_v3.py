"""MobileNetV3's blocks (Howard et al. 2019): hard-swish as Keras writes it, hard-sigmoid gates."""

from pipeline.base.lazy import keras, layers


def hard_sigmoid(x):
    return layers.ReLU(6.0)(x + 3.0) * (1.0 / 6.0)


def hard_swish(x):
    return layers.Multiply()([x, hard_sigmoid(x)])


def build(size, classes):
    image = layers.Input((*size, 3))
    x = hard_swish(layers.BatchNormalization()(layers.Conv2D(16, 3, 2, padding="same")(image)))
    y = hard_swish(layers.BatchNormalization()(layers.Conv2D(64, 1)(x)))
    y = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(y)
    y = hard_swish(layers.BatchNormalization()(y))
    s = layers.Conv2D(16, 1, activation="relu")(layers.GlobalAveragePooling2D(keepdims=True)(y))
    y = layers.Multiply()([y, hard_sigmoid(layers.Conv2D(64, 1)(s))])
    x = layers.Add()([x, layers.BatchNormalization()(layers.Conv2D(16, 1)(y))])
    x = layers.Conv2D(96, 3, padding="same", activation="relu")(x)
    x = layers.UpSampling2D(2, interpolation="bilinear")(layers.Conv2D(classes, 1)(x))
    return keras.Model(image, x)
