"""From Keras to .tflite: types as the variant says, raw pixels in, and what calibrates int8."""

import numpy as np
import pytest

from pipeline.base.artifacts import artifact_path
from pipeline.base.lazy import keras, layers, tf
from pipeline.data.dataset import load_split
from pipeline.inference.keras_files import Predictor, load_model
from pipeline.inference.litert import logits_of, open_interpreter, operators, predict_tflite
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
def test_file_takes_one_image_and_gives_its_classes(interpreters, variant):
    interpreter = interpreters[variant]
    for slot in (*interpreter.get_input_details(), *interpreter.get_output_details()):
        assert slot["shape_signature"].tolist() == [1, SIZE, SIZE, 3]


@pytest.mark.parametrize(
    ("variant", "least"), [("dynamic", 0.97), ("int8", 0.9), ("float16", 0.995)]
)
def test_file_agrees_with_the_pruned_model(interpreters, pruned, validation, variant, least):
    expected = np.argmax(pruned(validation.astype(np.float32) / 255), axis=-1)
    ours = np.stack(list(predict_tflite(interpreters[variant], validation)))
    assert len(np.unique(expected)) > 1, "a model that sees one class everywhere proves nothing"
    assert np.mean(ours == expected) >= least


def test_int8_file_computes_in_integers_throughout_and_takes_raw_pixels(interpreters):
    assert tensor_types(interpreters["int8"]) <= {np.int8, np.uint8, np.int32}
    slot = interpreters["int8"].get_input_details()[0]
    assert slot["dtype"] == np.uint8
    assert interpreters["int8"].get_output_details()[0]["dtype"] == np.int8
    assert slot["quantization"] == (pytest.approx(1 / 255), 0)


def test_weights_are_stored_in_the_type_that_names_the_file(interpreters):
    assert np.int8 in tensor_types(interpreters["dynamic"])
    assert np.float16 in tensor_types(interpreters["float16"])
    assert np.int8 not in tensor_types(interpreters["float16"])
    for variant in ("dynamic", "float16"):
        assert interpreters[variant].get_input_details()[0]["dtype"] == np.float32


@pytest.fixture(scope="module")
def int8_input(pruned, finished_run, tmp_path_factory):
    """The int8 file of the run, but with an input of that type."""
    _, calibration = convert.calibration_sample(finished_run, 20, 7)
    path = tmp_path_factory.mktemp("int8_input") / "model.tflite"
    path.write_bytes(convert.convert(pruned, "int8", calibration, "int8"))
    return path


def test_int8_input_of_type_int8_sees_the_same_pixels(int8_input, interpreters, validation):
    interpreter = open_interpreter(int8_input)
    slot = interpreter.get_input_details()[0]
    assert slot["dtype"] == np.int8
    assert slot["quantization"] == (pytest.approx(1 / 255), -128)
    ours, theirs = (
        np.stack(list(predict_tflite(each, validation)))
        for each in (interpreter, interpreters["int8"])
    )
    assert (ours == theirs).all()


def test_batch_of_two_is_refused_by_the_file(interpreters):
    slot = interpreters["float16"].get_input_details()[0]
    with pytest.raises(ValueError, match=r"[Dd]imension|shape"):
        interpreters["float16"].set_tensor(slot["index"], np.zeros((2, SIZE, SIZE, 3), np.float32))


@pytest.mark.parametrize(
    ("variant", "least"), [("float32", 0.999), ("dynamic", 0.95), ("int8", 0.9), ("float16", 0.99)]
)
def test_classic_network_converts_in_every_variant(classic, variant, least, tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (8, SIZE, SIZE, 3), np.uint8)
    path = tmp_path / "model.tflite"
    path.write_bytes(convert.convert(classic, variant, images.astype(np.float32) / 255))
    expected = np.argmax(classic(images.astype(np.float32) / 255, training=False), axis=-1)
    assert check(path, variant, images, expected) >= least


@pytest.fixture(scope="module")
def classic():
    keras.utils.set_random_seed(0)
    images = np.random.default_rng(0).random((16, SIZE, SIZE, 3), np.float32)
    return with_statistics(networks.classic_unet((SIZE, SIZE), len(CLASSES)), images)


# --- calibration --------------------------------------------------------------------------


def test_calibration_is_a_seeded_sample_of_training_images_only(finished_run, monkeypatch):
    asked = []

    def spied(models_dir, split):
        asked.append(split)
        return load_split(models_dir, split)

    monkeypatch.setattr(convert, "load_split", spied)
    rows, images = convert.calibration_sample(finished_run, 20, 7)
    assert asked == ["train"]
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
    """A network that rescales its image first, with weights that tell classes apart."""
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
    """Images of large blocks, as smooth as photos are, in which pixels 0 and 255 occur."""
    random = np.random.default_rng(0)
    return random.integers(0, 256, (8, 4, 4, 3)).astype(np.uint8).repeat(8, 1).repeat(8, 2)


# --- one meaning of the input -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "offset"),
    [
        pytest.param(2, -1, id="mobilenet"),
        pytest.param(1 / 127.5, -1, id="meant for 0..255"),
        pytest.param(255 / 128, -127 / 128, id="efficientnet"),
    ],
)
def test_network_that_rescales_inside_takes_the_same_pixels(tmp_path, scale, offset):
    model, images, path = small_network(scale, offset), blocks(), tmp_path / "model.tflite"
    path.write_bytes(convert.convert(model, "int8", images.astype(np.float32) / 255))
    slot = open_interpreter(path).get_input_details()[0]
    assert slot["dtype"] == np.uint8
    assert slot["quantization"] == (pytest.approx(1 / 255), 0)
    expected = np.concatenate(list(Predictor(model)(images)))
    assert np.bincount(expected.ravel()).min() > 0.04 * expected.size
    assert check(path, "int8", images, expected) >= 0.97
    exact = model(images / np.float32(255)).numpy()
    noise = np.mean((logits_of(path.read_bytes(), images) - exact) ** 2)
    assert noise < 1e-3 * np.mean(exact**2)


def fed(interpreter, pixels):
    """What a file gives for real values, by the usual rule for quantised inputs."""
    slot, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    scale, zero_point = slot["quantization"]
    if scale:
        limits = np.iinfo(slot["dtype"])
        pixels = np.clip(np.round(pixels / scale + zero_point), limits.min, limits.max)
    interpreter.set_tensor(slot["index"], pixels.astype(slot["dtype"])[None])
    interpreter.invoke()
    return interpreter.get_tensor(result["index"])[0]


@pytest.mark.parametrize("variant", [*VARIANTS, None])
def test_every_file_means_the_same_by_0_to_1(evaluated_run, int8_input, validation, variant):
    """Raw bytes where a file takes them, and 0..1 by scale and zero point, give the same bits.

    Whoever fed an int8 file by the usual rule got other classes when its input meant something
    else than that of its float siblings, and no word of warning.
    """
    path = artifact_path(evaluated_run, variant) if variant else int8_input
    interpreter = open_interpreter(path)
    for image, raw in zip(validation, logits_of(path.read_bytes(), validation)):
        by_rule = fed(interpreter, image / np.float32(255))
        scale, zero_point = interpreter.get_output_details()[0]["quantization"]
        if scale:
            by_rule = (by_rule.astype(np.float32) - zero_point) * np.float32(scale)
        np.testing.assert_allclose(by_rule, raw, atol=1e-4)


def test_network_on_an_enlarged_image_takes_raw_pixels(tmp_path):
    keras.utils.set_random_seed(2)
    model = networks.compact_unet((SIZE, SIZE), len(CLASSES), 2.0)
    images = np.random.default_rng(1).integers(0, 256, (4, SIZE, SIZE, 3)).astype(np.uint8)
    path = tmp_path / "model.tflite"
    path.write_bytes(convert.convert(model, "int8", images.astype(np.float32) / 255))
    expected = np.concatenate(list(Predictor(model)(images)))
    assert check(path, "int8", images, expected) >= 0.9
    kinds = [operator.kind for operator in operators(path.read_bytes())]
    # Nothing rescales the image.
    assert kinds[:2] == ["QUANTIZE", "RESIZE_BILINEAR"] and kinds[2] == "CONV_2D"


def test_operator_without_an_int16_form_stays_float(tmp_path, monkeypatch):
    entry = Variant("int16.tflite", weights="int8", activations="int16")
    monkeypatch.setitem(VARIANTS, "int16", entry)
    keras.utils.set_random_seed(4)
    image = layers.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(16, 3, 2, padding="same", activation="relu")(image)
    x = tf.nn.depth_to_space(layers.Conv2D(4 * len(CLASSES), 1)(x), 2)
    model, images, path = keras.Model(image, x), blocks(), tmp_path / entry.file
    path.write_bytes(convert.convert(model, "int16", images.astype(np.float32) / 255))
    expected = np.concatenate(list(Predictor(model)(images)))
    assert check(path, "int16", images, expected) >= 0.99
    assert {np.int16, np.int8} <= tensor_types(open_interpreter(path))
