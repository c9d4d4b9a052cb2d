"""DeepLabV3+ (Chen et al. 2018): dilated convolutions, pooling of the whole image, resizing."""

from pipeline.base.lazy import keras, layers


def conv(x, filters, size=3, **settings):
    x = layers.Conv2D(filters, size, padding="same", use_bias=False, **settings)(x)
    return layers.Activation("relu")(layers.BatchNormalization()(x))


def build(size, classes):
    image = layers.Input((*size, 3))
    low = conv(image, 24, strides=2)
    x = conv(low, 48, strides=2)
    pooled = conv(layers.GlobalAveragePooling2D(keepdims=True)(x), 24, 1)
    pooled = layers.UpSampling2D(x.shape[1:3], interpolation="bilinear")(pooled)
    scales = [conv(x, 24, 1), *(conv(x, 24, dilation_rate=rate) for rate in (2, 3)), pooled]
    x = conv(layers.Concatenate()(scales), 48, 1)
    x = layers.Resizing(*low.shape[1:3])(x)
    x = conv(layers.Concatenate()([x, conv(low, 16, 1)]), 48)
    return keras.Model(image, layers.Resizing(*size)(layers.Conv2D(classes, 1)(x)))
