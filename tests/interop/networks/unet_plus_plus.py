"""U-Net++ (Zhou et al. 2018): nested skips."""

from pipeline.base.lazy import keras, layers


def build(size, classes):
    def conv(x, filters):
        return layers.Conv2D(filters, 3, padding="same", activation="relu")(x)

    image = layers.Input((*size, 3))
    filters, nodes = (16, 24, 40), {}
    for depth, number in enumerate(filters):
        x = image if depth == 0 else layers.MaxPooling2D()(nodes[depth - 1, 0])
        nodes[depth, 0] = conv(x, number)
    for column in (1, 2):
        for depth in range(3 - column):
            below = layers.UpSampling2D()(nodes[depth + 1, column - 1])
            before = [nodes[depth, k] for k in range(column)]
            nodes[depth, column] = conv(layers.Concatenate()([*before, below]), filters[depth])
    return keras.Model(image, layers.Conv2D(classes, 1)(nodes[0, 2]))
