"""GPTQ: round kernels to int8 so that the outputs of the convolutions change little.

Frantar et al. 2022, *GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers*, after optimal brain surgeon, Hassibi and Stork 1993.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pipeline.base.lazy import keras, layers, tf
from pipeline.inference.keras_files import kernel_name
from pipeline.training.keras_private import producing_layer, tensors_read

IMAGES = 25  # about so many of the calibration images are used
POSITIONS = 400  # output positions drawn from each image, with replacement
SEED = 7  # of that draw
LARGEST = 10_000  # products per sum, from which the matrices of a layer would take gigabytes
DAMPING = 0.01  # added to the diagonal, as a fraction of its mean, so that the matrix is invertible


def is_known(layer: layers.Layer) -> bool:
    """Whether `round_kernels` rounds a layer: a convolution, a depthwise one, or a dense layer.

    Others that have a kernel are left to the converter, see `left_to_converter`.
    """
    kinds = (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)
    if not isinstance(layer, kinds) or isinstance(layer, layers.Conv2DTranspose):
        return False
    channels_last = getattr(layer, "data_format", "channels_last") == "channels_last"
    return channels_last and column_size(layer) <= LARGEST


def left_to_converter(model: keras.Model) -> list[str]:
    """Layers whose kernels the converter rounds to the nearest step, as "up1 (Conv2DTranspose)".

    They are transposed and separable convolutions, the layers of models inside the model, and
    dense layers with more inputs than LARGEST.
    """
    names = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            inner = [part for part in layer.submodules if isinstance(part, layers.Layer)]
            unknown = [part for part in inner if kernel_name(part)]
        else:
            unknown = [layer] if kernel_name(layer) and not is_known(layer) else []
        names += [f"{part.name} ({type(part).__name__})" for part in unknown]
    return names


def kernel_of(layer: layers.Layer) -> tf.Variable:
    """The kernel of a layer that has one."""
    attribute = kernel_name(layer)
    assert attribute is not None, "the layer has a kernel"
    return getattr(layer, attribute)


def group_count(layer: layers.Layer) -> int:
    """Groups of input channels, each read by weights of its own; one per channel if depthwise."""
    if isinstance(layer, layers.DepthwiseConv2D):
        return int(kernel_of(layer).shape[2])
    return getattr(layer, "groups", 1)


def column_size(layer: layers.Layer) -> int:
    """Weights of an output channel: the products that one output value is the sum of."""
    shape = kernel_of(layer).shape
    return math.prod(shape[:2] if isinstance(layer, layers.DepthwiseConv2D) else shape[:-1])


def calls_of(model: keras.Model) -> dict[str, list[Any]]:
    """The symbolic inputs of a model's layers: by layer, one for each call of it in the model."""
    calls: dict[str, list[Any]] = {}
    seen, pending = set(), list(model.outputs)
    while pending:
        tensor = pending.pop()
        if id(tensor) not in seen:
            seen.add(id(tensor))
            read = tensors_read(tensor)
            calls.setdefault(producing_layer(tensor).name, []).extend(read[:1])
            pending += read
    return calls


def input_products(model: keras.Model, images: np.ndarray) -> dict[str, np.ndarray]:
    """Estimates E[x xᵀ] of the inputs x of each layer that `is_known`, over positions in images.

    x is the flattened window of the input that the kernel is multiplied with.

    Args:
        images: float32 (n, height, width, 3) in 0..1.

    Returns:
        By layer, float64 (groups, size, size), see `group_count` and `column_size`. The mean is
        over all calls of a layer that is called more than once.
    """
    calls = calls_of(model)
    inputs = [
        (layer, tensor) for layer in model.layers if is_known(layer) for tensor in calls[layer.name]
    ]
    # The image is one of the outputs because Keras returns a single output without a list.
    probe = tf.function(keras.Model(model.input, [model.input, *(tensor for _, tensor in inputs)]))
    random = np.random.default_rng(SEED)
    products: dict[str, Any] = dict.fromkeys([layer.name for layer, _ in inputs], 0.0)
    images = images[:: max(1, len(images) // IMAGES)]
    for image in images:
        for (layer, _), x in zip(inputs, probe(image[None], training=False)[1:]):
            windows = kernel_windows(x.numpy()[0], layer)
            rows, columns = (random.integers(0, side, POSITIONS) for side in windows.shape[:2])
            drawn = in_groups(windows[rows, columns], group_count(layer))
            sums = (drawn @ drawn.transpose(0, 2, 1)).astype(np.float64)
            products[layer.name] += sums / (len(images) * len(calls[layer.name]) * POSITIONS)
    return products


def in_groups(windows: np.ndarray, groups: int) -> np.ndarray:
    """Windows (n, channels, kernel height, kernel width) as columns, in the order of kernel axes.

    Returns:
        float32 (groups, kernel height x width x channels of a group, n).
    """
    number, channels, *size = windows.shape
    parts = windows.transpose(1, 2, 3, 0).reshape(groups, channels // groups, *size, number)
    return np.ascontiguousarray(parts.transpose(0, 2, 3, 1, 4)).reshape(groups, -1, number)


def kernel_windows(x: np.ndarray, layer: layers.Layer) -> np.ndarray:
    """Returns the windows of its input that a layer's kernel is multiplied with.

    Args:
        x: the layer's input, float32 (height, width, channels); (..., channels) of a dense layer.
        layer: one that `is_known`.

    Returns:
        A view of x, padded as the layer does, float32 (rows, columns, channels, kernel height,
        kernel width), for every output position.
    """
    if isinstance(layer, layers.Dense):
        return x.reshape(-1, 1, x.shape[-1], 1, 1)
    strides, dilations = layer.strides, layer.dilation_rate
    reach = [(size - 1) * gap + 1 for size, gap in zip(layer.kernel_size, dilations)]
    if layer.padding == "same":  # TensorFlow puts the odd row or column of padding at the end
        padding = [
            max(-(-side // stride) * stride - stride + size - side, 0)
            for side, stride, size in zip(x.shape, strides, reach)
        ]
        x = np.pad(x, [*((total // 2, total - total // 2) for total in padding), (0, 0)])
    windows: np.ndarray = np.lib.stride_tricks.sliding_window_view(
        x,
        reach,
        (0, 1),  # type: ignore[call-overload]  # NumPy's hints know a single axis only
    )
    return windows[:: strides[0], :: strides[1], :, :: dilations[0], :: dilations[1]]


def round_columns(weights: np.ndarray, products: np.ndarray) -> np.ndarray:
    """Rounds weights to int8 steps so that the products with their inputs change little.

    Rounds one weight of each column after the other; the weights that follow are changed to
    compensate for the error. Zeros stay zero, and the largest weight of a column stays as it is,
    because it determines the step.

    Args:
        weights: float64 (groups, size, columns); a column is one output channel.
        products: E[x xᵀ] of the inputs, float64 (groups, size, size), as from `input_products`.

    Returns:
        float64, same shape as `weights`: multiples of each column's step, which is the column's
        largest absolute weight / 127.
    """
    step = np.abs(weights).max(1) / 127
    step = np.where(step > 0, step, 1)
    size = weights.shape[1]
    rows = np.arange(size)[:, None]
    fixed = (weights == 0) | (rows == np.abs(weights).argmax(1)[:, None])
    mean_square = np.trace(products, axis1=1, axis2=2)[:, None, None] / size
    damped = products + (DAMPING * mean_square + 1e-9) * np.eye(size)
    # Upper triangular; row i says how the error of weight i changes the weights after it.
    factor = np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)
    compensated, rounded = weights.copy(), weights.copy()
    for i in range(size):
        steps = np.clip(np.round(compensated[:, i] / step), -127, 127)
        rounded[:, i] = np.where(fixed[:, i], weights[:, i], steps * step)
        error = (compensated[:, i] - rounded[:, i]) / factor[:, i, i, None]
        compensated[:, i + 1 :] -= factor[:, i, i + 1 :, None] * error[:, None]
    return rounded


def round_kernels(model: keras.Model, images: np.ndarray) -> keras.Model:
    """Returns a copy of the model in which kernels are multiples of their int8 steps.

    Those of layers that it does not know stay as they are, see `left_to_converter`.

    The converter rounds to the nearest step, which caused most of the accuracy loss of int8
    (docs/choices.md); these kernels it keeps as they are. Batch normalisation, which the converter
    multiplies into the kernels, scales whole columns and with them their steps.

    Args:
        images: float32 (n, height, width, 3) in 0..1, for calibration.
    """
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for name, kernel in rounded_kernels(model, images).items():
        kernel_of(copy.get_layer(name)).assign(kernel)
    return copy


def rounded_kernels(model: keras.Model, images: np.ndarray) -> dict[str, np.ndarray]:
    """The kernels of `round_kernels`, float64, by name of layer; the model stays as it is."""
    kernels = {}
    for name, products in input_products(model, images).items():
        layer = model.get_layer(name)
        values = kernel_of(layer).numpy().astype(np.float64)
        # Output channels are in the order of the groups that they belong to.
        columns = values.reshape(column_size(layer), group_count(layer), -1).transpose(1, 0, 2)
        rounded = round_columns(columns, products)
        kernels[name] = rounded.transpose(1, 0, 2).reshape(values.shape)
    return kernels
