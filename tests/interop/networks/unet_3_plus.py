"""UNet 3+ (Huang et al. 2020), as the package keras-unet-collection has it: skips of all scales."""

from pipeline.base.lazy import keras, layers


def stack(x, filters):
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization(axis=3)(x))


def build(size, classes):
    image = layers.Input((*size, 3))
    encoder = [stack(image, 16)]
    for filters in (32, 64):
        encoder.append(stack(layers.MaxPooling2D()(encoder[-1]), filters))
    decoder = {2: encoder[2]}
    for level in (1, 0):
        parts = []
        for other in range(3):
            if other < level:
                x = layers.MaxPooling2D(2 ** (level - other))(encoder[other])
            elif other == level:
                x = encoder[other]
            else:
                factor = 2 ** (other - level)
                x = layers.UpSampling2D(factor, interpolation="bilinear")(decoder[other])
            parts.append(stack(x, 16))
        decoder[level] = stack(layers.concatenate(parts, axis=-1), 48)
    logits = layers.Conv2D(classes, 1)(decoder[0])
    return keras.Model(image, layers.Activation("softmax", name="output_activation")(logits))
