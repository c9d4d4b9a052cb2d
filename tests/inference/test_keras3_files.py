"""Whole Keras models of others: both Keras give the same scores; what could run code is refused.

The models of Keras 3 are made and run by Keras 3 itself.
"""

import json
import zipfile

import numpy as np
import pytest

from pipeline.base.console import UserError
from pipeline.base.lazy import keras, keras3, tf
from pipeline.inference import keras3_files
from pipeline.inference.keras3_files import read_whole_model
from pipeline.inference.keras_files import foreign_part
from tests.helpers.toy_networks import saved_as, toy_network

SIDE = 32


def random_weights(model):
    """Also for normalisation, whose initial values hide a mistaken order."""
    random = np.random.default_rng(0)
    model.set_weights([random.uniform(0.2, 0.8, w.shape) / 4 for w in model.get_weights()])
    return model


def nested():
    """A backbone as one layer, called once, a block called twice, and every other kind of call."""
    layers = keras3.layers
    image = layers.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(8, 3, 2, padding="same", use_bias=False, name="first")(image)
    skip = layers.LeakyReLU(negative_slope=0.2)(layers.BatchNormalization()(x))
    deep = layers.SeparableConv2D(12, 3, 2, padding="same", activation="silu")(skip)
    backbone = keras3.Model(image, [skip, deep], name="backbone")
    inputs = layers.Input((SIDE, SIDE, 3))
    centred = layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[0.5, 1.0, 2.0])
    skip, x = backbone(centred(layers.Rescaling(2.0, -1.0)(inputs)))
    block = keras3.Sequential([layers.Conv2D(12, 3, padding="same"), layers.ReLU(6.0)])
    x = layers.Add()([block(block(x)), x])
    x = layers.Conv2DTranspose(8, 3, 2, padding="same")(
        layers.DepthwiseConv2D(3, padding="same")(x)
    )
    x = layers.Concatenate()([x, skip])
    gate = layers.Dense(16, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    x = layers.UpSampling2D(2, interpolation="bilinear")(layers.Multiply()([x, gate]))
    return random_weights(keras3.Model(inputs, layers.Conv2D(3, 1, activation="softmax")(x)))


@pytest.mark.parametrize("name", ["model.keras", "model.h5", "model"])
def test_model_of_keras_3_gives_the_same_scores(tmp_path, name):
    theirs = nested()
    theirs.compile("adam", "mse")  # its optimizer is not read
    written = tmp_path / ("model.keras" if name == "model" else name)
    theirs.save(written)
    path = written.rename(tmp_path / name)  # no suffix: told by its content
    model, version = read_whole_model(path)
    assert version == keras3.version() and isinstance(model, keras.Model)
    pictures = np.random.default_rng(1).random((3, SIDE, SIDE, 3), np.float32)
    np.testing.assert_allclose(model(pictures), np.asarray(theirs(pictures)), atol=1e-6)


@pytest.mark.parametrize("name", ["model.h5", "model.keras"])
def test_model_of_keras_2_is_read_as_it_is(tmp_path, name):
    theirs, images = toy_network()
    theirs.save(tmp_path / name)
    model, version = read_whole_model(tmp_path / name)
    assert version.startswith("2")
    np.testing.assert_array_equal(model(images), theirs(images))


def keras3_model(*layers):
    image = x = keras3.layers.Input((SIDE, SIDE, 3))
    for layer in layers:
        x = layer(x)
    return keras3.Model(image, x)


def refused(path, *words):
    with pytest.raises(UserError) as error:
        read_whole_model(path)
    line = str(error.value)
    assert "\n" not in line and path.name in line
    for word in words:
        assert word in line, line


def test_lambda_layer_is_refused_and_not_run(tmp_path):
    ran = tmp_path / "ran"
    layer = keras3.layers.Lambda(
        lambda x, file=str(ran): [x, __import__("pathlib").Path(file).touch()][0]
    )
    model = keras3_model(layer)
    ran.unlink()  # it ran when the model was made
    for name in ("model.keras", "model.h5"):
        model.save(tmp_path / name)
        refused(tmp_path / name, "Lambda", "no plain layer")
    assert not ran.exists()


def test_custom_layer_is_refused_by_name(tmp_path):
    @keras3.saving.register_keras_serializable("theirs")
    class Doubling(keras3.layers.Layer):
        def call(self, x):
            return 2 * x

    keras3_model(Doubling()).save(tmp_path / "model.keras")
    refused(tmp_path / "model.keras", "Doubling")


def test_calls_of_functions_give_the_same_scores(tmp_path):
    """As in `x + y`: of tensors, and of a tensor and a number on either side."""
    layers, ops = keras3.layers, keras3.ops
    image = layers.Input((SIDE, SIDE, 3))
    x, y = (layers.Conv2D(4, 3, padding="same")(image) for _ in range(2))
    z = ops.concatenate([x + y, 1.0 - x, 2.0 * ops.relu(x)], axis=-1)
    z = ops.maximum(z, 0.1) * ops.sigmoid(z) - ops.minimum(z / 3.0, z * z)
    z = ops.softmax(layers.Conv2D(3, 1)(ops.concatenate([z, z], axis=1)), axis=-1)
    theirs = random_weights(keras3.Model(image, z))
    theirs.save(tmp_path / "model.keras")
    model, _ = read_whole_model(tmp_path / "model.keras")
    pictures = np.random.default_rng(1).random((3, SIDE, SIDE, 3), np.float32)
    np.testing.assert_allclose(model(pictures), np.asarray(theirs(pictures)), atol=1e-6)
    assert foreign_part(json.loads(model.to_json())) is None  # it can be saved and read back


def test_call_of_another_function_is_refused_though_a_layer_has_its_name(tmp_path):
    shape = (-1, SIDE, SIDE * 3)
    keras3_model(lambda x: keras3.ops.reshape(x, shape)).save(tmp_path / "model.keras")
    refused(tmp_path / "model.keras", "ops.numpy.Reshape")


@pytest.mark.parametrize("module", ["numpy", "theirs.keras.src.ops.numpy"])
def test_function_of_another_module_is_refused_though_it_has_that_name(tmp_path, module):
    """Keras would import that module."""
    keras3_model(lambda x: x + 1.0).save(tmp_path / "plain.keras")
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(tmp_path / "plain.keras") as read, zipfile.ZipFile(path, "w") as written:
        for name in read.namelist():
            written.writestr(name, read.read(name).replace(b"keras.src.ops.numpy", module.encode()))
    read_whole_model(tmp_path / "plain.keras")
    refused(path, f"{module}.Add")


def test_layer_that_keras_2_lacks_is_refused_by_name(tmp_path):
    layer = keras3.layers.Activation("squareplus", name="odd_one")
    keras3_model(layer).save(tmp_path / "model.keras")
    refused(tmp_path / "model.keras", "odd_one")


def test_model_that_would_compute_something_else_is_refused(tmp_path, monkeypatch):
    """As it would be with a setting that Keras 2 calls otherwise and nobody knew of."""
    path = tmp_path / "model.keras"
    model = keras3_model(keras3.layers.Conv2D(3, 1), keras3.layers.LeakyReLU(negative_slope=0.9))
    model.save(path)
    monkeypatch.setattr(keras3_files, "RENAMED", {})
    refused(path, "computes something else in Keras 2", "LeakyReLU")


def test_what_is_no_whole_model_is_named_with_what_to_do(tmp_path):
    toy, _ = toy_network()
    weights, folder, text = (tmp_path / name for name in ("w.weights.h5", "saved", "notes.h5"))
    toy.save_weights(weights)
    tf.saved_model.save(toy, str(folder))
    text.write_text("no model")
    whole = saved_as(toy, tmp_path / "whole.h5")
    cut = tmp_path / "cut.h5"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    refused(weights, "weights without their network", "model.save('model.keras')")
    refused(folder, "SavedModel", "model.save('model.keras')")
    refused(text, "not a file of a Keras model")
    refused(cut, "h5")
    refused(tmp_path / "none.keras", "no such file")
