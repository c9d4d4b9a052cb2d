"""Segmentation models that others wrote, built from their packages and trained a little.

    PYTHONPATH=PACKAGES python tests/interop/package_models.py NAME PICTURES FOLDER

A program of its own: the packages (tests/requirements_models.txt) stand in a folder that only it
looks into, and models of Keras 2 and of Keras 3 need processes of their own. It imports nothing of
the pipeline. PICTURES is a .npz file of training pictures `images` (uint8), `masks` (indices of
classes) and pictures `shown`. Into FOLDER go the model, saved as its package's users do, and
`scores.npy`, what it gives for the pictures shown. Printed is a line of JSON about it.

Two things stand in for what the packages of Keras 2 expect: SM_FRAMEWORK, which makes
`segmentation_models` use tf.keras, and an empty `skimage`, which `efficientnet` imports for a
function that no model needs.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import sys
import types
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SIZE, CLASSES = (64, 64), 3
STEPS, BATCH_SIZE = 75, 12
MOMENTUM = 0.8  # of batch normalisation: with 0.99 and more, statistics need hundreds of steps
FILTERS = [16, 24, 32, 48]


class Package(NamedTuple):
    """A model of a package, and what its users have to know about it."""

    package: str
    function: str  # of the package, in words
    keras: int
    values: str  # range of the input
    ends_with: str  # softmax, sigmoid or logits
    file: str
    trained: bool = True


PACKAGES = {
    "attention_unet": Package(
        "keras-unet-collection", "att_unet_2d", 2, "0..1", "softmax", "model.h5"
    ),
    "efficientnet_unet": Package(
        "keras-unet-collection", "unet_2d, EfficientNetB0", 2, "0..255", "sigmoid", "model.h5"
    ),
    "mobilenet_unet": Package(
        "segmentation-models", "Unet, mobilenetv2", 2, "-1..1", "softmax", "model.h5"
    ),
    "tutorial": Package(
        "keras", "the U-Net of TensorFlow's tutorial", 3, "0..1", "logits", "model.keras"
    ),
    "deeplab": Package(
        "keras-hub", "DeepLabV3ImageSegmenter, ResNet", 3, "0..1", "logits", "model.keras", False
    ),
    "gelu_unet": Package(
        *("keras-unet-collection", "unet_2d, GELU", 2, "0..1", "softmax", "model.h5"), False
    ),
    "supervised_unet": Package(
        *("keras-unet-collection", "unet_plus_2d, deep supervision", 2, "0..1", "softmax"),
        *("model.h5", False),
    ),
}
RANGES = {"0..1": (1 / 255, 0.0), "-1..1": (1 / 127.5, -1.0), "0..255": (1.0, 0.0)}


def attention_unet() -> Any:
    from keras_unet_collection import models

    return models.att_unet_2d((*SIZE, 3), FILTERS, CLASSES, batch_norm=True, stack_num_up=1)


def efficientnet_unet() -> Any:
    """A backbone as one layer of a model that takes pictures of any size."""
    from keras_unet_collection import models

    return models.unet_2d(
        (None, None, 3),
        *(FILTERS, CLASSES),
        activation="LeakyReLU",
        output_activation="Sigmoid",
        batch_norm=True,
        unpool=False,
        backbone="EfficientNetB0",
        weights=None,
        freeze_backbone=False,
    )


def mobilenet_unet() -> Any:
    for name in ("skimage", "skimage.transform"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["skimage.transform"].resize = None
    os.environ["SM_FRAMEWORK"] = "tf.keras"
    import segmentation_models

    return segmentation_models.Unet(
        "mobilenetv2",
        input_shape=(None, None, 3),
        classes=CLASSES,
        activation="softmax",
        encoder_weights=None,
        decoder_filters=(64, 48, 32, 24, 16),
    )


def tutorial() -> Any:
    """As the tutorial describes it, with fewer channels: MobileNetV2 as one layer, and skips."""
    import keras
    from keras import layers

    base = keras.applications.MobileNetV2((*SIZE, 3), 0.35, include_top=False, weights=None)
    names = [f"block_{number}_expand_relu" for number in (1, 3, 6, 13)]
    ends = [base.get_layer(name).output for name in (*names, "block_16_project")]
    down = keras.Model(base.input, ends)
    image = layers.Input((*SIZE, 3))
    *skips, x = down(image)
    for filters, skip in zip((64, 48, 32, 24), reversed(skips)):
        up = [
            layers.Conv2DTranspose(filters, 3, 2, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.Dropout(0.1) if filters == 64 else None,
            layers.ReLU(),
        ]
        x = layers.Concatenate()([keras.Sequential([layer for layer in up if layer])(x), skip])
    return keras.Model(image, layers.Conv2DTranspose(CLASSES, 3, 2, padding="same")(x))


def deeplab() -> Any:
    import keras_hub

    encoder = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 64, 64, 64],
        stackwise_num_blocks=[1, 1, 1, 1],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="basic_block",
    )
    backbone = keras_hub.models.DeepLabV3Backbone(
        encoder, "P4", 4, [1, 2], low_level_feature_key="P2", projection_filters=16
    )
    return keras_hub.models.DeepLabV3ImageSegmenter(backbone, CLASSES)


def gelu_unet() -> Any:
    from keras_unet_collection import models

    return models.unet_2d((*SIZE, 3), FILTERS, CLASSES, activation="GELU")


def supervised_unet() -> Any:
    from keras_unet_collection import models

    return models.unet_plus_2d((*SIZE, 3), FILTERS, CLASSES, deep_supervision=True)


def train(keras: Any, model: Any, images: np.ndarray, masks: np.ndarray, ends_with: str) -> None:
    """Trains a model for STEPS steps, in the Keras that made it."""
    for layer in model._flatten_layers():
        if type(layer).__name__ == "BatchNormalization":
            layer.momentum = MOMENTUM
    loss = {
        "softmax": keras.losses.CategoricalCrossentropy(),
        "sigmoid": keras.losses.BinaryCrossentropy(),
        "logits": keras.losses.CategoricalCrossentropy(from_logits=True),
    }[ends_with]
    model.compile(keras.optimizers.Adam(5e-3), loss)
    epochs = STEPS * BATCH_SIZE // len(images)
    targets = np.eye(CLASSES, dtype=np.float32)[masks]
    model.fit(images, targets, batch_size=BATCH_SIZE, epochs=epochs, verbose=0)


def main(name: str, pictures: str, folder: str) -> None:
    about = PACKAGES[name]
    os.environ["TF_USE_LEGACY_KERAS"] = str(int(about.keras == 2))
    scale, offset = RANGES[about.values]
    with np.load(pictures) as arrays:
        images, shown = (arrays[key] * np.float32(scale) + offset for key in ("images", "shown"))
        masks = arrays["masks"]
    keras = importlib.import_module("tf_keras" if about.keras == 2 else "keras")
    keras.utils.set_random_seed(0)
    model = globals()[name]()
    if about.trained:
        train(keras, model, images, masks, about.ends_with)
        np.save(Path(folder) / "scores.npy", model.predict(shown, verbose=0))
    model.save(Path(folder) / about.file)
    version = importlib.metadata.version(about.package)
    print(json.dumps({**about._asdict(), "version": version, "parameters": model.count_params()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
