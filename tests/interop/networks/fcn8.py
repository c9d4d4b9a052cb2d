"""FCN-8s (Long et al. 2015) on VGG's layer names: scores of several scales, added."""

from pipeline.base.lazy import keras, layers


def build(size, classes):
    image = x = layers.Input((*size, 3))
    scores = []
    for number, filters in enumerate((16, 32, 64), 1):
        for part in (1, 2):
            x = layers.Conv2D(
                filters, 3, padding="same", activation="relu", name=f"block{number}_conv{part}"
            )(x)
        x = layers.MaxPooling2D(name=f"block{number}_pool")(x)
        scores.append(layers.Conv2D(classes, 1, name=f"score{number}")(x))
    x = scores[-1]
    for score in reversed(scores[:-1]):
        x = layers.Add()([layers.Conv2DTranspose(classes, 4, 2, padding="same")(x), score])
    return keras.Model(image, layers.Conv2DTranspose(classes, 4, 2, padding="same")(x))
