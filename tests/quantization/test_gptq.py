"""Kernels rounded for int8: less is lost of what they compute than by rounding to the nearest."""

import numpy as np

from pipeline.base.lazy import keras, layers
from pipeline.data.dataset import load_split
from pipeline.inference.keras_files import kernel_name, load_model
from pipeline.quantization.convert import calibration_sample
from pipeline.quantization.gptq import input_products, kernel_windows, round_columns, round_kernels


def nearest(weights: np.ndarray) -> np.ndarray:
    """Rounded as the converter does it, each column to 127 steps either way; (n, columns)."""
    step = np.maximum(np.abs(weights).max(0), 1e-30) / 127  # ImageNet's stem has empty filters
    return np.round(weights / step) * step


def test_rounding_is_near_the_best_of_all_roundings():
    """Every way of rounding 7 weights up or down is tried: the chosen one is among the best tenth,
    plain rounding is not.
    """
    random = np.random.default_rng(5)
    ranks, plain_ranks = [], []
    for _ in range(20):
        weights = random.normal(size=(7, 1))
        inputs = random.normal(size=(200, 7)) @ random.normal(size=(7, 7)) + 2
        products = inputs.T @ inputs / len(inputs)
        step = np.abs(weights).max() / 127
        largest = np.abs(weights).argmax()

        def loss(rounded, weights=weights, products=products):
            return float(((weights - rounded).T @ products @ (weights - rounded)).item())

        losses = []
        for ups in range(2**7):
            rounded = (np.floor(weights[:, 0] / step) + (ups >> np.arange(7)) % 2) * step
            rounded[largest] = weights[largest, 0]
            losses.append(loss(rounded[:, None]))
        chosen = round_columns(weights[None], products[None])[0]
        ranks.append(np.mean(np.array(losses) < loss(chosen) - 1e-12))
        plain_ranks.append(np.mean(np.array(losses) < loss(nearest(weights)) - 1e-12))
    assert np.mean(ranks) < 0.1 < np.mean(plain_ranks)


def test_rounded_kernels_lose_less_than_the_nearest_ones_and_keep_zeros(finished_run):
    pruned, plain = load_model(finished_run, "pruned"), load_model(finished_run, "pruned")
    rounded = round_kernels(pruned, calibration_sample(finished_run, 36, 7)[1])
    for layer in plain.layers:
        name = kernel_name(layer)
        if name is None:
            continue
        own = getattr(layer, name).numpy()
        chosen = getattr(rounded.get_layer(layer.name), name).numpy()
        axis = 2 if name == "depthwise_kernel" else 3
        columns, others = (
            np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])
            for values in (own, chosen)
        )
        step = np.maximum(np.abs(columns).max(0), 1e-30) / 127
        whole = np.round(others / step)
        np.testing.assert_allclose(others / step, whole, atol=1e-3, err_msg=layer.name)
        np.testing.assert_allclose(np.abs(others).max(0), np.abs(columns).max(0), rtol=1e-6)
        assert (others[columns == 0] == 0).all()
        back = nearest(columns).reshape(np.moveaxis(own, axis, -1).shape)
        getattr(layer, name).assign(np.moveaxis(back, -1, axis))
    images = load_split(finished_run, "validation")[0][:].astype(np.float32) / 255
    exact, ours, theirs = (
        model(images, training=False).numpy() for model in (pruned, rounded, plain)
    )
    assert 0 < np.mean((ours - exact) ** 2) < 0.5 * np.mean((theirs - exact) ** 2)


def test_windows_are_what_the_kernel_is_multiplied_with():
    """For strides and paddings alike: products of windows and kernel are what Keras computes."""
    x = np.random.default_rng(0).normal(size=(1, 9, 9, 3)).astype(np.float32)
    for size, stride, padding in ((3, 1, "same"), (3, 2, "same"), (5, 2, "same"), (3, 2, "valid")):
        layer = layers.Conv2D(4, size, stride, padding=padding, use_bias=False)
        expected = layer(x).numpy()[0]
        windows = kernel_windows(x[0], layer)
        found = np.einsum("rcihw,hwio->rco", windows, layer.kernel.numpy())
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_products_are_means_over_places_in_images():
    """Of an image that is one colour everywhere, they are the products of that colour."""
    image = layers.Input((8, 8, 2))
    depthwise = layers.DepthwiseConv2D(3, padding="valid", name="depthwise")(image)
    model = keras.Model(image, layers.Conv2D(4, 1, name="mix")(depthwise))
    model.get_layer("depthwise").set_weights([np.full((3, 3, 2, 1), 1 / 9), np.zeros(2)])
    plain = np.ones((3, 8, 8, 2), np.float32) * np.float32([0.5, 0.25])
    products = input_products(model, plain)
    expected = np.outer([0.5, 0.25], [0.5, 0.25])[None]
    np.testing.assert_allclose(products["mix"], expected, rtol=1e-5)
    each = np.ones((9, 9)) * np.array([0.5, 0.25])[:, None, None] ** 2
    np.testing.assert_allclose(products["depthwise"], each, rtol=1e-5)


def test_network_of_one_convolution_is_rounded_too():
    """Keras gives what a single layer sees as it is, and not as a list of one."""
    image = layers.Input((8, 8, 3))
    model = keras.Model(image, layers.Conv2D(4, 3, name="only")(image))
    images = np.random.default_rng(0).random((3, 8, 8, 3), np.float32)
    assert input_products(model, images)["only"].shape == (1, 27, 27)
    chosen = round_kernels(model, images).get_layer("only").kernel.numpy()
    steps = chosen / (np.abs(chosen).max((0, 1, 2)) / 127)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
