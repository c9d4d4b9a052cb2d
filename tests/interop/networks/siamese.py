"""One encoder, a model of its own, on the picture and on its half: called twice."""

from pipeline.base.lazy import keras, layers


def build(size, classes):
    encoder = keras.Sequential(
        [
            layers.Conv2D(32, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(48, 3, padding="same", activation="relu"),
        ],
        name="encoder",
    )
    image = layers.Input((*size, 3))
    half = layers.UpSampling2D()(encoder(layers.AveragePooling2D()(image)))
    x = layers.Concatenate()([encoder(image), half])
    x = layers.Conv2D(48, 3, padding="same", activation="relu")(x)
    return keras.Model(image, layers.Conv2D(classes, 1)(x))
