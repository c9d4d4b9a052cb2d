"""Conversion: types of each variant, one meaning of the input, calibration images."""

import numpy as np
import pytest

from pipeline.base.artifacts import artifact_path
from pipeline.base.lazy import keras, layers, tf
from pipeline.data.dataset import load_split
from pipeline.inference.keras_files import KerasModel, load_model
from pipeline.inference.litert import TfliteModel, open_interpreter
from pipeline.inference.models import open_model
from pipeline.inference.tflite_files import operators
from pipeline.quantization import convert
from pipeline.quantization.verify import check
from pipeline.training import networks
from pipeline.variants import VARIANTS, Variant, quantised
from tests.helpers.runs import CLASSES, SIZE
from tests.helpers.toy_networks import with_statistics


@pytest.fixture(scope="module")
def pruned(finished_run):
    return load_model(finished_run, "pruned")


@pytest.fixture(scope="module")
def interpreters(finished_run):
    return {
        variant: open_interpreter(artifact_path(finished_run, variant)) for variant in quantised()
    }


@pytest.fixture(scope="module")
def validation(finished_run):
    return load_split(finished_run, "validation")[0][:]


def tensor_types(interpreter):
    return {detail["dtype"] for detail in interpreter.get_tensor_details()}


# --- types --------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", quantised())
def test_file_maps_one_image_to_its_logits(interpreters, variant):
    interpreter = interpreters[variant]
    for tensor in (*interpreter.get_input_details(), *interpreter.get_output_details()):
        assert tensor["shape_signature"].tolist() == [1, SIZE, SIZE, 3]


@pytest.mark.parametrize(
    ("variant", "least"), [("dynamic", 0.97), ("int8", 0.9), ("float16", 0.995)]
)
def test_file_agrees_with_the_pruned_model(interpreters, pruned, validation, variant, least):
    expected = np.argmax(pruned(validation.astype(np.float32) / 255), axis=-1)
    predictions = TfliteModel(interpreters[variant]).class_maps(validation)
    assert len(np.unique(expected)) > 1, "the model predicts a single class: nothing to compare"
    assert np.mean(predictions == expected) >= least


def test_int8_file_computes_in_integers_throughout_and_takes_raw_pixels(interpreters):
    assert tensor_types(interpreters["int8"]) <= {np.int8, np.uint8, np.int32}
    image = interpreters["int8"].get_input_details()[0]
    assert image["dtype"] == np.uint8
    assert interpreters["int8"].get_output_details()[0]["dtype"] == np.int8
    assert image["quantization"] == (pytest.approx(1 / 255), 0)


def test_weights_of_dynamic_range_are_int8_and_of_float16_float16(interpreters):
    assert np.int8 in tensor_types(interpreters["dynamic"])
    assert np.float16 in tensor_types(interpreters["float16"])
    assert np.int8 not in tensor_types(interpreters["float16"])
    for variant in ("dynamic", "float16"):
        assert interpreters[variant].get_input_details()[0]["dtype"] == np.float32


@pytest.fixture(scope="module")
def int8_input(pruned, finished_run, tmp_path_factory):
    """The int8 file of the run, but with an input of type int8."""
    _, calibration = convert.calibration_sample(finished_run, 20, 7)
    path = tmp_path_factory.mktemp("int8_input") / "model.tflite"
    path.write_bytes(convert.convert(pruned, "int8", calibration, "int8"))
    return path


def test_int8_input_of_type_int8_sees_the_same_pixels(int8_input, interpreters, validation):
    with_int8, with_uint8 = open_interpreter(int8_input), interpreters["int8"]
    image = with_int8.get_input_details()[0]
    assert image["dtype"] == np.int8
    assert image["quantization"] == (pytest.approx(1 / 255), -128)
    predictions = [
        TfliteModel(interpreter).class_maps(validation) for interpreter in (with_int8, with_uint8)
    ]
    assert (predictions[0] == predictions[1]).all()


def test_batch_of_two_is_refused_by_the_file(interpreters):
    image = interpreters["float16"].get_input_details()[0]
    with pytest.raises(ValueError, match=r"[Dd]imension|shape"):
        interpreters["float16"].set_tensor(image["index"], np.zeros((2, SIZE, SIZE, 3), np.float32))


@pytest.mark.parametrize(
    ("variant", "least"),
    [
        ("dynamic", 0.95),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("float32", 0.999), ("float16", 0.99), ("int8", 0.9))
        ),
    ],
)
def test_classic_network_converts_in_every_variant(classic, variant, least, tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (8, SIZE, SIZE, 3), np.uint8)
    path = tmp_path / "model.tflite"
    path.write_bytes(convert.convert(classic, variant, images.astype(np.float32) / 255))
    expected = np.argmax(classic(images.astype(np.float32) / 255, training=False), axis=-1)
    assert check(path, variant, images, expected, "toy") >= least


@pytest.fixture(scope="module")
def classic():
    keras.utils.set_random_seed(0)
    images = np.random.default_rng(0).random((16, SIZE, SIZE, 3), np.float32)
    return with_statistics(networks.classic_unet((SIZE, SIZE), len(CLASSES)), images)


# --- calibration --------------------------------------------------------------------------


def test_calibration_is_a_seeded_sample_of_training_images_only(finished_run, monkeypatch):
    splits_read = []

    def recording(models_dir, split):
        splits_read.append(split)
        return load_split(models_dir, split)

    monkeypatch.setattr(convert, "load_split", recording)
    rows, images = convert.calibration_sample(finished_run, 20, 7)
    assert splits_read == ["train"]
    train = load_split(finished_run, "train")[0][:]
    assert len(set(rows.tolist())) == 20
    assert images.dtype == np.float32 and np.abs(images - train[rows] / 255).max() < 1e-6
    assert (rows == convert.calibration_sample(finished_run, 20, 7)[0]).all()
    assert (rows != convert.calibration_sample(finished_run, 20, 8)[0]).any()


def test_more_calibration_images_than_there_are_takes_them_all(finished_run):
    assert len(convert.calibration_sample(finished_run, 500, 7)[0]) == 36


def test_int8_without_calibration_images_is_an_error(pruned):
    with pytest.raises(ValueError, match="int8 needs calibration images"):
        convert.convert(pruned, "int8")


# --- rescaling ------------------------------------------------------------------------------


def small_network(scale, offset):
    """A network that rescales its image first; its random weights predict several classes."""
    keras.utils.set_random_seed(4)
    image = layers.Input((SIZE, SIZE, 3), name="image")
    x = layers.Rescaling(scale, offset, name="rescale")(image)
    x = layers.Conv2D(16, 3, 2, padding="same", use_bias=False, name="stem")(x)
    x = layers.ReLU(6.0, name="stem_relu")(layers.BatchNormalization(name="stem_norm")(x))
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="mix")(x)
    x = layers.Conv2DTranspose(16, 2, 2, name="up")(x)
    model = keras.Model(image, layers.Conv2D(len(CLASSES), 1, name="logits")(x), name="small")
    return with_statistics(model, blocks() / np.float32(255))


def blocks():
    """Images uint8 (8, SIZE, SIZE, 3) of 8 x 8 blocks, smooth like photos, over all of 0..255."""
    random = np.random.default_rng(0)
    return random.integers(0, 256, (8, 4, 4, 3)).astype(np.uint8).repeat(8, 1).repeat(8, 2)


# --- one meaning of the input -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "offset"),
    [
        pytest.param(2, -1, id="mobilenet"),
        pytest.param(1 / 127.5, -1, id="meant for 0..255", marks=pytest.mark.slow),
        pytest.param(255 / 128, -127 / 128, id="efficientnet", marks=pytest.mark.slow),
    ],
)
def test_network_that_rescales_inside_takes_the_same_pixels(tmp_path, scale, offset):
    model, images, path = small_network(scale, offset), blocks(), tmp_path / "model.tflite"
    path.write_bytes(convert.convert(model, "int8", images.astype(np.float32) / 255))
    image = open_interpreter(path).get_input_details()[0]
    assert image["dtype"] == np.uint8
    assert image["quantization"] == (pytest.approx(1 / 255), 0)
    expected = KerasModel(model).class_maps(images)
    assert np.bincount(expected.ravel()).min() > 0.04 * expected.size
    assert check(path, "int8", images, expected, "toy") >= 0.97
    exact = model(images / np.float32(255)).numpy()
    noise = np.mean((open_model(path.read_bytes()).logits(images) - exact) ** 2)
    assert noise < 1e-3 * np.mean(exact**2)


def output_for(interpreter, values):
    """Output for an image of real values, quantised by the input's scale and zero point."""
    image, output = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    scale, zero_point = image["quantization"]
    if scale:
        limits = np.iinfo(image["dtype"])
        values = np.clip(np.round(values / scale + zero_point), limits.min, limits.max)
    interpreter.set_tensor(image["index"], values.astype(image["dtype"])[None])
    interpreter.invoke()
    return interpreter.get_tensor(output["index"])[0]


@pytest.mark.parametrize("variant", [*VARIANTS, None])
def test_real_values_0_to_1_mean_the_same_to_every_file(
    evaluated_run, int8_input, validation, variant
):
    """Pixels as `set_image` gives them, and pixels / 255 by scale and zero point: same logits.

    A program that quantises the input by the usual rule would otherwise get wrong classes without
    a warning.
    """
    path = artifact_path(evaluated_run, variant) if variant else int8_input
    interpreter = open_interpreter(path)
    for image, expected in zip(validation, open_model(path.read_bytes()).logits(validation)):
        logits = output_for(interpreter, image / np.float32(255))
        scale, zero_point = interpreter.get_output_details()[0]["quantization"]
        if scale:
            logits = (logits.astype(np.float32) - zero_point) * np.float32(scale)
        np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.slow
def test_network_on_an_enlarged_image_takes_raw_pixels(tmp_path):
    keras.utils.set_random_seed(2)
    model = networks.compact_unet((SIZE, SIZE), len(CLASSES), 2.0)
    images = np.random.default_rng(1).integers(0, 256, (4, SIZE, SIZE, 3)).astype(np.uint8)
    path = tmp_path / "model.tflite"
    path.write_bytes(convert.convert(model, "int8", images.astype(np.float32) / 255))
    expected = KerasModel(model).class_maps(images)
    assert check(path, "int8", images, expected, "toy") >= 0.9
    kinds = [operator.kind for operator in operators(path.read_bytes())]
    # No operator rescales the values.
    assert kinds[:2] == ["QUANTIZE", "RESIZE_BILINEAR"] and kinds[2] == "CONV_2D"


def test_operator_without_an_int16_form_stays_float(tmp_path, monkeypatch):
    int16 = Variant("int16.tflite", weights="int8", activations="int16")
    monkeypatch.setitem(VARIANTS, "int16", int16)
    keras.utils.set_random_seed(4)
    image = layers.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(16, 3, 2, padding="same", activation="relu")(image)
    x = tf.nn.depth_to_space(layers.Conv2D(4 * len(CLASSES), 1)(x), 2)
    model, images, path = keras.Model(image, x), blocks(), tmp_path / int16.file
    path.write_bytes(convert.convert(model, "int16", images.astype(np.float32) / 255))
    expected = KerasModel(model).class_maps(images)
    assert check(path, "int16", images, expected, "toy") >= 0.99
    assert {np.int16, np.int8} <= tensor_types(open_interpreter(path))
