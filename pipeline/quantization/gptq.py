"""GPTQ: round kernels to int8 so that the outputs of the convolutions change little.

Frantar et al. 2022, *GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers*, after optimal brain surgeon, Hassibi and Stork 1993.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.base.lazy import keras, layers, tf
from pipeline.inference.keras_files import kernel_name

IMAGES = 25  # about so many of the calibration images are used
POSITIONS = 400  # output positions drawn from each image, with replacement
SEED = 7  # of that draw
DAMPING = 0.01  # added to the diagonal, as a fraction of its mean, so that the matrix is invertible


def input_products(model: keras.Model, images: np.ndarray) -> dict[str, np.ndarray]:
    """Estimates E[x xᵀ] of each convolution's input x, over output positions in images.

    x is the flattened window of the input that the kernel is multiplied with.

    Args:
        images: float32 (n, height, width, 3) in 0..1.

    Returns:
        By layer, float64 (groups, size, size). A convolution has one group, and its size is kernel
        height x width x input channels; a depthwise convolution has a group per channel of size
        kernel height x width. Transposed convolutions are left out.
    """
    convolutions = [
        layer
        for layer in model.layers
        if isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D))
        and not isinstance(layer, layers.Conv2DTranspose)
    ]
    inputs = [layer.input for layer in convolutions]
    # The image is one of the outputs because Keras returns a single output without a list.
    probe = tf.function(keras.Model(model.input, [model.input, *inputs]))
    random = np.random.default_rng(SEED)
    products: dict[str, Any] = dict.fromkeys([layer.name for layer in convolutions], 0.0)
    images = images[:: max(1, len(images) // IMAGES)]
    for image in images:
        for layer, x in zip(convolutions, probe(image[None], training=False)[1:]):
            windows = kernel_windows(x.numpy()[0], layer)
            rows, columns = (random.integers(0, side, POSITIONS) for side in windows.shape[:2])
            # (channels, kernel height, kernel width, positions)
            drawn = windows[rows, columns].transpose(1, 2, 3, 0)
            if not isinstance(layer, layers.DepthwiseConv2D):
                drawn = drawn.transpose(1, 2, 0, 3)[None]  # one group, in the order of kernel axes
            drawn = np.ascontiguousarray(drawn.reshape(len(drawn), -1, POSITIONS))
            sums = (drawn @ drawn.transpose(0, 2, 1)).astype(np.float64)
            products[layer.name] += sums / (len(images) * POSITIONS)
    return products


def kernel_windows(x: np.ndarray, layer: layers.Layer) -> np.ndarray:
    """Returns the windows of its input that a convolution's kernel is multiplied with.

    Args:
        x: the layer's input, float32 (height, width, channels).
        layer: a convolution or depthwise convolution with equal strides and without dilation.

    Returns:
        A view of x, padded as the layer does, float32 (rows, columns, channels, kernel height,
        kernel width), for every output position.
    """
    stride = layer.strides[0]
    if layer.padding == "same":  # TensorFlow puts the odd row or column of padding at the end
        padding = [
            max(-(-side // stride) * stride - stride + size - side, 0)
            for side, size in zip(x.shape, layer.kernel_size)
        ]
        x = np.pad(x, [*((total // 2, total - total // 2) for total in padding), (0, 0)])
    windows: np.ndarray = np.lib.stride_tricks.sliding_window_view(
        x,
        layer.kernel_size,
        (0, 1),  # type: ignore[call-overload]  # NumPy's hints know a single axis only
    )
    return windows[::stride, ::stride]


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
    """Returns a copy of the model whose kernels are multiples of their int8 steps.

    The converter rounds to the nearest step, which caused most of the accuracy loss of int8
    (docs/choices.md); these kernels it keeps as they are. Batch normalisation, which the converter
    multiplies into the kernels, scales whole columns and with them their steps.

    Args:
        images: float32 (n, height, width, 3) in 0..1, for calibration.
    """
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for name, products in input_products(model, images).items():
        layer = copy.get_layer(name)
        attribute = kernel_name(layer)
        assert attribute is not None, "a convolution has a kernel"
        kernel = getattr(layer, attribute)
        values = kernel.numpy().astype(np.float64)
        if isinstance(layer, layers.DepthwiseConv2D):
            # The kernel is (height, width, channels, 1); every channel is a group of one column.
            columns = values.reshape(-1, values.shape[2]).T[..., None]
            kernel.assign(round_columns(columns, products)[..., 0].T.reshape(values.shape))
        else:
            columns = values.reshape(1, -1, values.shape[-1])
            kernel.assign(round_columns(columns, products).reshape(values.shape))
    return copy
