"""GPTQ changes the outputs of convolutions less than rounding to the nearest step does."""

import numpy as np

from pipeline.base.lazy import keras, layers
from pipeline.data.dataset import load_split
from pipeline.inference.keras_files import kernel_name, load_model
from pipeline.quantization.convert import calibration_sample
from pipeline.quantization.gptq import input_products, kernel_windows, round_columns, round_kernels


def nearest(weights: np.ndarray) -> np.ndarray:
    """Weights (n, columns) rounded to the nearest step, as the converter does; 127 steps a side."""
    step = np.maximum(np.abs(weights).max(0), 1e-30) / 127  # ImageNet's stem has empty filters
    return np.round(weights / step) * step


def test_rounding_is_near_the_best_of_all_roundings():
    """Of all ways to round 7 weights up or down, GPTQ finds one of the best tenth on average;
    rounding to the nearest does not.
    """
    random = np.random.default_rng(5)
    ranks, nearest_ranks = [], []
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
        rounded = round_columns(weights[None], products[None])[0]
        ranks.append(np.mean(np.array(losses) < loss(rounded) - 1e-12))
        nearest_ranks.append(np.mean(np.array(losses) < loss(nearest(weights)) - 1e-12))
    assert np.mean(ranks) < 0.1 < np.mean(nearest_ranks)


def test_rounded_model_has_half_the_error_of_nearest_rounding_and_keeps_zeros(finished_run):
    pruned, simple = load_model(finished_run, "pruned"), load_model(finished_run, "pruned")
    rounded = round_kernels(pruned, calibration_sample(finished_run, 36, 7)[1])
    for layer in simple.layers:
        name = kernel_name(layer)
        if name is None:
            continue
        kernel = getattr(layer, name).numpy()
        rounded_kernel = getattr(rounded.get_layer(layer.name), name).numpy()
        axis = 2 if name == "depthwise_kernel" else 3
        columns, rounded_columns = (
            np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])
            for values in (kernel, rounded_kernel)
        )
        largest = np.abs(columns).max(0)
        steps = rounded_columns / (np.maximum(largest, 1e-30) / 127)
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-3, err_msg=layer.name)
        np.testing.assert_allclose(np.abs(rounded_columns).max(0), largest, rtol=1e-6)
        assert (rounded_columns[columns == 0] == 0).all()
        values = nearest(columns).reshape(np.moveaxis(kernel, axis, -1).shape)
        getattr(layer, name).assign(np.moveaxis(values, -1, axis))
    images = load_split(finished_run, "validation")[0][:].astype(np.float32) / 255
    exact, logits, simple_logits = (
        model(images, training=False).numpy() for model in (pruned, rounded, simple)
    )
    assert 0 < np.mean((logits - exact) ** 2) < 0.5 * np.mean((simple_logits - exact) ** 2)


def test_windows_times_kernel_is_what_keras_computes():
    x = np.random.default_rng(0).normal(size=(1, 9, 9, 3)).astype(np.float32)
    for size, stride, padding in ((3, 1, "same"), (3, 2, "same"), (5, 2, "same"), (3, 2, "valid")):
        layer = layers.Conv2D(4, size, stride, padding=padding, use_bias=False)
        expected = layer(x).numpy()[0]
        windows = kernel_windows(x[0], layer)
        output = np.einsum("rcihw,hwio->rco", windows, layer.kernel.numpy())
        np.testing.assert_allclose(output, expected, atol=1e-5)


def test_products_are_means_over_positions():
    """For an image of one colour they are the products of that colour's channels."""
    image = layers.Input((8, 8, 2))
    depthwise = layers.DepthwiseConv2D(3, padding="valid", name="depthwise")(image)
    model = keras.Model(image, layers.Conv2D(4, 1, name="mix")(depthwise))
    model.get_layer("depthwise").set_weights([np.full((3, 3, 2, 1), 1 / 9), np.zeros(2)])
    images = np.ones((3, 8, 8, 2), np.float32) * np.float32([0.5, 0.25])
    products = input_products(model, images)
    expected = np.outer([0.5, 0.25], [0.5, 0.25])[None]
    np.testing.assert_allclose(products["mix"], expected, rtol=1e-5)
    expected = np.ones((9, 9)) * np.array([0.5, 0.25])[:, None, None] ** 2
    np.testing.assert_allclose(products["depthwise"], expected, rtol=1e-5)


def test_network_of_one_convolution_is_rounded_too():
    """Keras returns a single output without a list around it."""
    image = layers.Input((8, 8, 3))
    model = keras.Model(image, layers.Conv2D(4, 3, name="only")(image))
    images = np.random.default_rng(0).random((3, 8, 8, 3), np.float32)
    assert input_products(model, images)["only"].shape == (1, 27, 27)
    kernel = round_kernels(model, images).get_layer("only").kernel.numpy()
    steps = kernel / (np.abs(kernel).max((0, 1, 2)) / 127)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
