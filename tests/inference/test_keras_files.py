"""Models survive saving and loading; files that name more than plain layers are refused."""

import json
import shutil

import h5py
import numpy as np
import pytest

from pipeline.base import artifacts
from pipeline.base.console import UserError
from pipeline.base.lazy import keras, layers, tf
from pipeline.inference import keras_files
from pipeline.inference.iou import pixel_counts, split_iou
from pipeline.training import networks
from tests.helpers.small_network import small_unet
from tests.helpers.toy_networks import toy_network


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model.h5"
    keras.utils.set_random_seed(3)
    model = networks.compact_unet((32, 32), 3)
    keras_files.save_model(model, path)
    return model, path


@pytest.mark.parametrize(
    "build",
    [small_unet, *(pytest.param(n, marks=pytest.mark.slow) for n in networks.NETWORKS.values())],
)
def test_model_computes_the_same_after_it_was_saved(build, tmp_path):
    model = build((32, 32), 3)
    keras_files.save_model(model, tmp_path / "model.h5")
    image = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    loaded = keras_files.read_model(tmp_path / "model.h5")
    np.testing.assert_array_equal(loaded(image).numpy(), model(image).numpy())


def test_disk_that_fills_while_a_model_is_saved_is_the_systems_own_error(
    saved, tmp_path, full_disk
):
    """HDF5 itself raises errors without a reason, or crashes."""
    with pytest.raises(OSError) as caught:
        keras_files.save_model(saved[0], tmp_path / "model.h5")
    assert caught.value.strerror


@pytest.mark.parametrize("batch", [*(pytest.param(n, marks=pytest.mark.slow) for n in (2, 64)), 5])
def test_class_maps_are_those_of_the_largest_logits_for_any_batch_size(saved, batch):
    model, _ = saved
    opened = keras_files.KerasModel(model)
    opened.batch = batch
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    expected = model(images / np.float32(255)).numpy()
    np.testing.assert_array_equal(opened.class_maps(images), expected.argmax(-1))
    np.testing.assert_allclose(opened.logits(images), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(opened.scores(images[1]), expected[1], rtol=1e-4, atol=1e-5)


def test_model_is_compiled_once_and_follows_the_weights(saved):
    """And it leaves no attribute on the model."""
    model = keras.models.clone_model(saved[0])
    before = set(vars(model))
    opened = keras_files.KerasModel(model)
    opened.batch = 2
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    for favoured in (1, 2):
        bias = model.get_layer("logits_block").bias
        bias.assign(np.tile(1e6 * np.eye(3)[favoured], 16))
        assert (opened.class_maps(images) == favoured).all()
    assert opened._class_maps.experimental_get_tracing_count() == 1
    assert set(vars(model)) == before


def test_larger_images_come_in_smaller_batches(monkeypatch):
    monkeypatch.setattr(keras_files, "BATCH_PIXELS", 32 * 32 // 4)
    image = layers.Input((32, 32, 3))
    model = keras_files.KerasModel(keras.Model(image, layers.Conv2D(3, 1)(image)))
    assert model.batch == keras_files.BATCH // 4
    model.batch, sizes = 2, []
    images, masks = np.zeros((5, 32, 32, 3), np.uint8), np.zeros((5, 32, 32), np.uint8)
    pixel_counts(model, images, masks, 3, sizes.append)
    assert sizes == [2, 2, 1]


def test_iou_of_a_split_by_hand():
    """A model whose class is the brightest of three channels, on six pixels."""
    image = layers.Input((1, 6, 3))
    model = keras.Model(image, layers.Activation("linear")(image))
    masks = np.array([[[0, 0, 1, 1, 2, 2]]], np.uint8)
    predicted = np.array([0, 0, 1, 2, 2, 2])
    images = (200 * np.eye(3)[predicted]).astype(np.uint8)[None, None]
    iou = split_iou(keras_files.KerasModel(model), images, masks)
    np.testing.assert_allclose(iou, [1, 1 / 2, 2 / 3])


def refused(path):
    with pytest.raises(UserError) as caught:
        keras_files.read_model(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def test_lambda_layer_is_refused_and_does_not_run(tmp_path):
    path, ran = tmp_path / "lambda.h5", tmp_path / "ran"
    code = f"__import__('pathlib').Path({str(ran)!r}).touch()"
    image = layers.Input((32, 32, 3))
    model = keras.Model(image, layers.Lambda(lambda x: [x, eval(code)][0])(image))
    ran.unlink()  # building it ran the code
    keras_files.save_model(model, path)
    assert "Lambda" in refused(path)
    assert not ran.exists()


def test_call_of_another_tensorflow_function_is_refused(tmp_path):
    """`io.write_file` is as easy to name in a file as `reshape`."""
    path = tmp_path / "function.h5"
    image = layers.Input((32, 32, 3))
    model = keras.Model(image, tf.roll(image, 1, 1))
    keras_files.save_model(model, path)
    assert "the function roll" in refused(path)


@pytest.mark.parametrize(
    "config",
    [
        {"class_name": "Custom", "config": {}},
        {"class_name": "Lambda", "module": "keras.layers", "config": {}},
        {"class_name": "ReLU", "config": {"layer": {"class_name": "Lambda", "config": {}}}},
        {"class_name": "Conv2D", "module": "os", "config": {}},
        {"class_name": "Conv2D", "registered_name": "mine>Conv2D", "config": {}},
        {
            "class_name": "Conv2D",
            "config": {"kernel_initializer": {"class_name": "system", "module": "os"}},
        },
    ],
)
def test_object_that_is_no_plain_layer_is_found(config):
    model = {"class_name": "Functional", "config": {"layers": [config]}}
    assert keras_files.foreign_part(model)


@pytest.mark.parametrize("kind", ["another call", "itself", "each other", "nobody"])
def test_layers_whose_inputs_can_never_be_built_are_refused(saved, tmp_path, kind):
    """Keras would build layers in rounds until all are built, which never ends."""
    path = tmp_path / "waits.h5"
    shutil.copy(saved[1], path)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        first, second = config["config"]["layers"][1:3]
        source = first["inbound_nodes"][0][0]
        if kind == "another call":
            source[1] = 4
        else:
            names = {"itself": first, "each other": second, "nobody": {"name": "nobody"}}
            source[0] = names[kind]["name"]
        file.attrs["model_config"] = json.dumps(config)
    assert first["name"] in refused(path)


def inner(*inner_layers):
    return keras.Sequential([layers.Input((32, 32, 3)), *inner_layers])


def functional():
    image = layers.Input((32, 32, 3))
    return keras.Model(image, layers.Conv2D(3, 3, padding="same")(image))


# Of an image, what networks with models inside them make.
NESTED = {
    "functional": lambda image: functional()(image),
    "sequential": lambda image: inner(layers.Conv2D(3, 1))(image),
    "sequential without an input": lambda image: keras.Sequential([layers.Conv2D(3, 1)])(image),
    "in one another": lambda image: inner(layers.ReLU(), inner(functional()))(image),
    "first": lambda image: layers.Conv2D(3, 1)(functional()(image)),
    "two, one behind the other": lambda image: functional()(inner(layers.ReLU())(image)),
}


def called_twice(network):
    """A model that is called on an image and on its own output."""
    return lambda image: layers.Add()([network(image), network(network(image))])


def twice_inside():
    image = layers.Input((32, 32, 3))
    return keras.Model(image, called_twice(inner(layers.Conv2D(3, 1)))(image))


SHARED = {
    "shared functional": lambda image: called_twice(functional())(image),
    "shared sequential": lambda image: called_twice(inner(layers.Conv2D(3, 1)))(image),
    "shared inside shared": lambda image: called_twice(twice_inside())(image),
}


@pytest.mark.parametrize("kind", [*NESTED, *SHARED])
def test_model_with_models_inside_is_read_back(tmp_path, kind):
    keras.utils.set_random_seed(0)
    image = layers.Input((32, 32, 3))
    model = keras.Model(image, layers.Conv2D(3, 1)((NESTED | SHARED)[kind](image)))
    keras_files.save_model(model, tmp_path / "model.h5")
    images = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    loaded = keras_files.read_model(tmp_path / "model.h5")
    np.testing.assert_array_equal(loaded(images).numpy(), model(images).numpy())


def test_model_inside_that_waits_for_itself_is_refused(tmp_path):
    """Of a model that is called twice, the first call reads what the second one makes."""
    path = tmp_path / "waits.h5"
    image, network = layers.Input((32, 32, 3)), functional()
    keras_files.save_model(keras.Model(image, network(network(image))), path)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        (layer,) = (each for each in config["config"]["layers"] if each["name"] == network.name)
        layer["inbound_nodes"].reverse()
        file.attrs["model_config"] = json.dumps(config)
    assert network.name in refused(path)


def test_own_models_hold_nothing_foreign(saved):
    with h5py.File(saved[1]) as file:
        assert keras_files.foreign_part(json.loads(file.attrs["model_config"])) is None


def test_file_of_keras_3_is_refused_in_one_line(tmp_path):
    path = tmp_path / "keras3.h5"
    with h5py.File(path, "w") as file:
        layer = {"class_name": "InputLayer", "module": "keras.layers", "config": {}}
        config = {"class_name": "Functional", "module": "keras", "config": {"layers": [layer]}}
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["keras_version"] = "3.15.1"
    refused(path)


def test_damaged_files_are_one_line_with_the_command(tmp_path):
    """Flipped bits, files cut short and random bytes, whatever h5py and Keras raise."""
    path = tmp_path / "original_model.h5"
    keras_files.save_model(toy_network()[0], path)
    content = path.read_bytes()
    random = np.random.default_rng(0)
    for size in (0, 100, len(content) // 2):
        path.write_bytes(content[:size])
        assert "python training.py" in refused(path)
    path.write_bytes(random.bytes(5000))
    refused(path)
    opened = 0
    for _ in range(60):
        flipped = bytearray(content)
        for position in random.integers(0, 4000, 3):  # where the structure is, not the weights
            flipped[position] ^= 1 << random.integers(8)
        path.write_bytes(flipped)
        try:
            keras_files.read_model(path)
            opened += 1
        except UserError as error:
            assert "python training.py" in str(error)
    assert opened < 60


def test_missing_file_names_the_command(tmp_path):
    message = refused(tmp_path / "pruned_model.h5")
    assert message.endswith(f"make it with: {artifacts.command('pruned', tmp_path)}")
