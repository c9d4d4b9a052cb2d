"""Kernels rounded to int8 so that little is lost of what they compute.

GPTQ: Frantar et al. 2022, after optimal brain surgery, Hassibi and Stork 1993.
"""

from __future__ import annotations

import numpy as np

from pipeline.base.lazy import keras, layers, tf
from pipeline.inference.keras_files import kernel_name

IMAGES = 25  # of the calibration images, whose inputs decide how kernels are rounded
PLACES = 400  # in each of them
SEED = 7  # of the random choice of places
DAMPING = 0.01  # of the mean square of an input, added to every square so that none is zero


def input_products(model: keras.Model, images: np.ndarray) -> dict[str, np.ndarray]:
    """What the weights of each convolution are multiplied with: E[x xᵀ] over places in images.

    Args:
        images: float32 (n, height, width, 3) in 0..1.

    Returns:
        By layer, float64 (groups, n, n). n is height x width x input channels of the kernel, and
        there is one group; for a depthwise convolution it is height x width, with a group per
        channel. Transposed convolutions are left out.
    """
    convolutions = [
        layer
        for layer in model.layers
        if isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D))
        and not isinstance(layer, layers.Conv2DTranspose)
    ]
    ends = [layer.input for layer in convolutions]
    # With the image among them, because Keras gives one output as it is and not as a list of one.
    probe = tf.function(keras.Model(model.input, [model.input, *ends]))
    random = np.random.default_rng(SEED)
    products = dict.fromkeys([layer.name for layer in convolutions], 0.0)
    images = images[:: max(1, len(images) // IMAGES)]
    for image in images:
        for layer, x in zip(convolutions, probe(image[None], training=False)[1:]):
            windows = kernel_windows(x.numpy()[0], layer)
            rows, columns = (random.integers(0, side, PLACES) for side in windows.shape[:2])
            seen = windows[rows, columns].transpose(1, 2, 3, 0)  # (channels, height, width, places)
            if not isinstance(layer, layers.DepthwiseConv2D):
                seen = seen.transpose(1, 2, 0, 3)[None]  # one group, in the order of kernel axes
            seen = np.ascontiguousarray(seen.reshape(len(seen), -1, PLACES))
            squares = (seen @ seen.transpose(0, 2, 1)).astype(np.float64)
            products[layer.name] += squares / (len(images) * PLACES)
    return products


def kernel_windows(x: np.ndarray, layer: layers.Layer) -> np.ndarray:
    """What a convolution's kernel sees of its input at each place.

    Args:
        x: float32 (height, width, channels).

    Returns:
        A view, float32 (rows, columns, channels, kernel height, kernel width).
    """
    step = layer.strides[0]
    if layer.padding == "same":  # TensorFlow's rule: what is odd goes to the end
        needed = [
            max(-(-side // step) * step - step + size - side, 0)
            for side, size in zip(x.shape, layer.kernel_size)
        ]
        x = np.pad(x, [*((total // 2, total - total // 2) for total in needed), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(x, layer.kernel_size, (0, 1))
    return windows[::step, ::step]


def round_columns(weights: np.ndarray, products: np.ndarray) -> np.ndarray:
    """Weights rounded to int8 steps so that little is lost of their sums over the inputs.

    Weight by weight, what one loses to rounding is made up by those that are not rounded yet.
    Zeros stay, and so does the largest weight of a column, which sets the step.

    Args:
        weights: float64 (groups, n, columns).
        products: float64 (groups, n, n), E[x xᵀ] of their inputs.

    Returns:
        Multiples of each column's step, which is its largest weight / 127; same shape.
    """
    step = np.abs(weights).max(1) / 127
    step = np.where(step > 0, step, 1)
    places = np.arange(weights.shape[1])[:, None]
    fixed = (weights == 0) | (places == np.abs(weights).argmax(1)[:, None])
    mean_square = np.trace(products, axis1=1, axis2=2)[:, None, None] / weights.shape[1]
    damped = products + (DAMPING * mean_square + 1e-9) * np.eye(weights.shape[1])
    # Row i: how the error of weight i moves the later ones.
    spread = np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)
    left, rounded = weights.copy(), weights.copy()
    for i in range(weights.shape[1]):
        steps = np.clip(np.round(left[:, i] / step), -127, 127)
        rounded[:, i] = np.where(fixed[:, i], weights[:, i], steps * step)
        error = (left[:, i] - rounded[:, i]) / spread[:, i, i, None]
        left[:, i + 1 :] -= spread[:, i, i + 1 :, None] * error[:, None]
    return rounded


def round_kernels(model: keras.Model, images: np.ndarray) -> keras.Model:
    """A copy of the model whose kernels the converter can write in int8 as they are.

    Rounding to the nearest step, as the converter does it, cost most of what int8 lost
    (docs/choices.md). Normalisation, which conversion multiplies into the kernels, scales whole
    columns and their steps alike. Arguments as for `input_products`.
    """
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for name, products in input_products(model, images).items():
        layer = copy.get_layer(name)
        kernel = getattr(layer, kernel_name(layer))
        values = kernel.numpy().astype(np.float64)
        if isinstance(layer, layers.DepthwiseConv2D):
            # (height, width, channels, 1): a group per channel.
            columns = values.reshape(-1, values.shape[2]).T[..., None]
            kernel.assign(round_columns(columns, products)[..., 0].T.reshape(values.shape))
        else:
            columns = values.reshape(1, -1, values.shape[-1])
            kernel.assign(round_columns(columns, products).reshape(values.shape))
    return copy
