"""TensorFlow's segmentation tutorial: a frozen MobileNetV2 as one layer, Sequential blocks."""

from pipeline.base.lazy import keras, layers


def upsample(filters):
    return keras.Sequential(
        [
            layers.Conv2DTranspose(filters, 3, 2, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
        ]
    )


def build(size, classes):
    base = keras.applications.MobileNetV2((*size, 3), 0.35, include_top=False, weights=None)
    names = ["block_1_expand_relu", "block_3_expand_relu", "block_6_expand_relu"]
    down_stack = keras.Model(base.input, [base.get_layer(name).output for name in names])
    down_stack.trainable = False
    inputs = layers.Input((*size, 3))
    *skips, x = down_stack(inputs)
    for filters, skip in zip((64, 48), reversed(skips)):
        x = layers.Concatenate()([upsample(filters)(x), skip])
    x = layers.Conv2DTranspose(classes, 3, 2, padding="same")(x)
    return keras.Model(inputs, x)
