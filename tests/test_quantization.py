"""The .tflite files: their types, what calibrates them, and which of them are refused."""

import numpy as np
import pytest
from conftest import SIZE

import data_preparation
import pipeline
import quantization
import training

import tensorflow as tf

FILES = {"dynamic": "dynamic_quantized_model.tflite", "int8": "int8_quantized_model.tflite",
         "float16": "float16_quantized_model.tflite"}  # fmt: skip


@pytest.fixture(scope="module")
def pruned(finished_run):
    return training.load_model(finished_run, "pruned")


@pytest.fixture(scope="module")
def interpreters(finished_run):
    return {variant: quantization.open_interpreter(finished_run / file) for variant, file in FILES.items()}


@pytest.fixture(scope="module")
def validation(finished_run):
    return data_preparation.load_split(finished_run, "validation")[0]


def quantized_types(interpreter):
    return {detail["dtype"] for detail in interpreter.get_tensor_details()}


@pytest.mark.parametrize("variant", FILES)
def test_file_takes_one_image_and_gives_its_classes(interpreters, variant):
    interpreter = interpreters[variant]
    assert interpreter.get_input_details()[0]["shape_signature"].tolist() == [1, SIZE, SIZE, 3]
    assert interpreter.get_output_details()[0]["shape_signature"].tolist() == [1, SIZE, SIZE, 3]


@pytest.mark.parametrize(("variant", "least"), [("dynamic", 0.97), ("int8", 0.9), ("float16", 0.995)])
def test_file_agrees_with_the_pruned_model(interpreters, pruned, validation, finished_run, variant, least):
    expected = np.argmax(pruned(validation.astype(np.float32) / 255), axis=-1)
    ours = np.stack(list(quantization.predict_tflite(interpreters[variant], validation)))
    assert len(np.unique(expected)) > 1, "a model that sees one class everywhere proves nothing"
    assert np.mean(ours == expected) >= least
    recorded = pipeline.read_record(finished_run, variant)["metrics"]["agreement"]
    assert recorded == pytest.approx(np.mean(ours == expected), abs=1e-5)


def test_int8_file_computes_in_integers_throughout_and_takes_raw_pixels(interpreters):
    assert quantized_types(interpreters["int8"]) <= {np.int8, np.uint8, np.int32}
    slot = interpreters["int8"].get_input_details()[0]
    assert slot["dtype"] == np.uint8 and interpreters["int8"].get_output_details()[0]["dtype"] == np.uint8
    scale, zero_point = slot["quantization"]
    assert scale == pytest.approx(1 / 255, rel=1e-4) and zero_point == 0


def test_weights_are_stored_in_the_type_that_names_the_file(interpreters):
    assert np.int8 in quantized_types(interpreters["dynamic"])
    assert np.float16 in quantized_types(interpreters["float16"]) and np.int8 not in quantized_types(interpreters["float16"])
    for variant in ("dynamic", "float16"):
        assert interpreters[variant].get_input_details()[0]["dtype"] == np.float32


def test_files_shrink_as_they_should(finished_run):
    sizes = {variant: (finished_run / file).stat().st_size for variant, file in FILES.items()}
    weights = 4 * pipeline.read_record(finished_run, "original")["metrics"]["parameters"]  # bytes in float32
    assert sizes["dynamic"] < 0.35 * weights and sizes["int8"] < 0.4 * weights and sizes["float16"] < 0.6 * weights


def test_int8_input_of_type_int8_sees_the_same_pixels(pruned, finished_run, interpreters, validation, tmp_path):
    _, calibration = quantization.calibration_sample(finished_run, 20, 7)
    path = tmp_path / "model.tflite"
    path.write_bytes(quantization.convert(pruned, "int8", calibration, "int8"))
    interpreter = quantization.open_interpreter(path)
    slot = interpreter.get_input_details()[0]
    assert slot["dtype"] == np.int8 and slot["quantization"] == (pytest.approx(1 / 255, rel=1e-4), -128)
    ours, theirs = (np.stack(list(quantization.predict_tflite(each, validation))) for each in (interpreter, interpreters["int8"]))
    assert (ours == theirs).all()


def test_batch_of_two_is_refused_by_the_file(interpreters):
    slot = interpreters["float16"].get_input_details()[0]
    with pytest.raises(ValueError, match=r"[Dd]imension|shape"):
        interpreters["float16"].set_tensor(slot["index"], np.zeros((2, SIZE, SIZE, 3), np.float32))


# --- calibration --------------------------------------------------------------------------


def test_calibration_is_a_seeded_sample_of_training_images_only(finished_run, monkeypatch):
    asked = []

    def load_split(models_dir, split):
        asked.append(split)
        return data_preparation.load_split(models_dir, split)

    monkeypatch.setattr(quantization, "load_split", load_split)
    rows, images = quantization.calibration_sample(finished_run, 20, 7)
    assert asked == ["train"]
    train = data_preparation.load_split(finished_run, "train")[0]
    assert len(set(rows.tolist())) == 20
    assert images.dtype == np.float32 and np.abs(images - train[rows] / 255).max() < 1e-6
    assert (rows == quantization.calibration_sample(finished_run, 20, 7)[0]).all()
    assert (rows != quantization.calibration_sample(finished_run, 20, 8)[0]).any()


def test_calibration_rows_are_recorded(finished_run):
    metrics = pipeline.read_record(finished_run, "int8")["metrics"]
    assert metrics["calibration_rows"] == quantization.calibration_sample(finished_run, 20, 7)[0].tolist()


def test_more_calibration_images_than_there_are_takes_them_all(finished_run):
    assert len(quantization.calibration_sample(finished_run, 500, 7)[0]) == 36


def test_int8_without_calibration_images_is_an_error(pruned):
    with pytest.raises(ValueError, match="int8 needs calibration images"):
        quantization.convert(pruned, "int8")


# --- files that are refused ---------------------------------------------------------------


def test_file_that_disagrees_is_not_put_in_place(run_copy, pruned, monkeypatch):
    before = {path.name: pipeline.sha256(path) for path in run_copy.glob("*.tflite*")}
    wrong = training.load_model(run_copy, "pruned")
    last = wrong.get_layer("logits_block")
    last.set_weights([-value for value in last.get_weights()])
    content = quantization.convert(wrong, "float16")
    monkeypatch.setattr(quantization, "convert", lambda *_: content)
    with pytest.raises(pipeline.UserError, match=r"the dynamic file agrees with the pruned model on only \d+\.\d%"):
        quantization.main(["--models-dir", str(run_copy)])
    assert {path.name: pipeline.sha256(path) for path in run_copy.glob("*.tflite*")} == before
    assert [path.name for path in run_copy.rglob(".*")] == []


def test_int8_file_that_computes_in_float_is_refused(finished_run, validation):
    expected = np.zeros(validation.shape[:3])
    with pytest.raises(pipeline.UserError, match="the int8 file computes in float at"):
        quantization.check(finished_run / FILES["dynamic"], "int8", validation, expected)


def test_file_that_is_no_tflite_file_is_named(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(pipeline.UserError, match=r"model\.tflite cannot be read as a \.tflite file"):
        quantization.open_interpreter(path)


# --- the classic network ------------------------------------------------------------------


@pytest.fixture(scope="module")
def classic():
    """Random weights with running statistics that fit them, as after training."""
    tf.keras.utils.set_random_seed(0)
    model = training.classic_unet(SIZE)
    images = np.random.default_rng(0).random((16, SIZE, SIZE, 3), np.float32)
    for _ in range(60):
        model(images, training=True)
    return model


@pytest.mark.parametrize(("variant", "least"), [("float32", 0.999), ("dynamic", 0.95), ("int8", 0.9), ("float16", 0.99)])
def test_classic_network_converts_in_every_variant(classic, variant, least, tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (8, SIZE, SIZE, 3), np.uint8)
    path = tmp_path / "model.tflite"
    path.write_bytes(quantization.convert(classic, variant, images.astype(np.float32) / 255))
    expected = np.argmax(classic(images.astype(np.float32) / 255, training=False), axis=-1)
    assert quantization.check(path, variant, images, expected) >= least
