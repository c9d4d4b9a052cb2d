"""The .tflite files: their types, what calibrates them, and which of them are refused."""

import csv

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from conftest import SIZE
from PIL import Image
from sklearn.metrics import jaccard_score

import data_preparation
import pipeline
import quantization
import training

import tensorflow as tf
import tf_keras

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


@pytest.fixture(scope="module")
def classic():
    """Random weights with running statistics that fit them, as after training."""
    tf.keras.utils.set_random_seed(0)
    model = training.classic_unet(SIZE)
    images = np.random.default_rng(0).random((16, SIZE, SIZE, 3), np.float32)
    for _ in range(60):
        model(images, training=True)
    return model


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
    assert slot["dtype"] == np.uint8 and interpreters["int8"].get_output_details()[0]["dtype"] == np.int8
    scale, zero_point = slot["quantization"]
    assert scale == pytest.approx(1 / 128, rel=1e-4) and zero_point == 127  # a pixel as the ImageNet weights expect it


def test_weights_are_stored_in_the_type_that_names_the_file(interpreters):
    assert np.int8 in quantized_types(interpreters["dynamic"])
    assert np.float16 in quantized_types(interpreters["float16"]) and np.int8 not in quantized_types(interpreters["float16"])
    for variant in ("dynamic", "float16"):
        assert interpreters[variant].get_input_details()[0]["dtype"] == np.float32


def test_dynamic_file_has_int8_weights_where_sums_are_long_and_nowhere_else(finished_run, interpreters):
    """Depthwise convolutions with int8 weights, and short sums, are slower than in float32."""
    tensors = {tensor["index"]: tensor for tensor in interpreters["dynamic"].get_tensor_details()}
    nodes = [node for node in interpreters["dynamic"]._get_ops_details() if node["op_name"].endswith("CONV_2D")]
    kernels = [tensors[node["inputs"][1]] for node in nodes]
    long = [node["op_name"] == "CONV_2D" and np.prod(kernel["shape"][1:]) >= 64 for node, kernel in zip(nodes, kernels)]
    assert [kernel["dtype"] == np.int8 for kernel in kernels] == long
    assert 20 < sum(long) < len(long)
    names = pipeline.read_record(finished_run, "dynamic")["metrics"]["int8_layers"]
    assert len(names) == sum(long) and {"block6_expand", "up8_deep"} <= set(names) and "stem" not in names


def test_files_shrink_as_they_should(finished_run):
    sizes = {variant: (finished_run / file).stat().st_size for variant, file in FILES.items()}
    weights = 4 * pipeline.read_record(finished_run, "original")["metrics"]["parameters"]  # bytes in float32
    assert sizes["dynamic"] < 0.4 * weights and sizes["int8"] < 0.4 * weights and sizes["float16"] < 0.6 * weights


def test_int8_input_of_type_int8_sees_the_same_pixels(pruned, finished_run, interpreters, validation, tmp_path):
    _, calibration = quantization.calibration_sample(finished_run, 20, 7)
    path = tmp_path / "model.tflite"
    path.write_bytes(quantization.convert(pruned, "int8", calibration, "int8"))
    interpreter = quantization.open_interpreter(path)
    slot = interpreter.get_input_details()[0]
    assert slot["dtype"] == np.int8 and slot["quantization"] == (pytest.approx(1 / 128, rel=1e-4), -1)
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


# --- size of the file ---------------------------------------------------------------------


def test_equal_vectors_are_stored_once_and_weights_where_they_can_be_read_in_place(finished_run, validation):
    """Against the file as the converter's own packing would write it."""
    content = (finished_run / FILES["int8"]).read_bytes()
    builder = flatbuffers.Builder()
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    builder.Finish(model.Pack(builder), b"TFL3")
    plain = bytes(builder.Output())
    assert len(content) < 0.92 * len(plain)
    np.testing.assert_array_equal(quantization.logits_of(content, validation), quantization.logits_of(plain, validation))
    buffers = schema.Model.GetRootAs(content, 0)
    weights = [buffers.Buffers(k).DataAsNumpy() for k in range(buffers.BuffersLength())]
    weights = [values for values in weights if isinstance(values, np.ndarray) and values.size >= 16]
    start = np.frombuffer(content, np.uint8).__array_interface__["data"][0]
    assert len(weights) > 50 and all((values.__array_interface__["data"][0] - start) % 16 == 0 for values in weights)


# --- rounding of kernels ------------------------------------------------------------------


def nearest(weights: np.ndarray) -> np.ndarray:
    """Rounded as the converter does it, each column to 127 steps either way; (n, columns)."""
    step = np.abs(weights).max(0) / 127
    return np.round(weights / step) * step


def test_rounding_is_near_the_best_of_all_roundings():
    """Every way of rounding 7 weights up or down is tried: the chosen one is among the best tenth, plain rounding is not."""
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
        chosen = quantization.round_columns(weights[None], products[None])[0]
        ranks.append(np.mean(np.array(losses) < loss(chosen) - 1e-12))
        plain_ranks.append(np.mean(np.array(losses) < loss(nearest(weights)) - 1e-12))
    assert np.mean(ranks) < 0.1 < np.mean(plain_ranks)


def test_rounded_kernels_lose_less_than_the_nearest_ones_and_keep_zeros(finished_run, pruned, validation):
    _, calibration = quantization.calibration_sample(finished_run, 36, 7)
    rounded = quantization.round_kernels(pruned, calibration)
    plain = training.load_model(finished_run, "pruned")
    for layer in plain.layers:
        name = quantization.kernel_name(layer)
        if name is None:
            continue
        own, chosen = getattr(layer, name).numpy(), getattr(rounded.get_layer(layer.name), name).numpy()
        axis = 2 if name == "depthwise_kernel" else 3
        columns, others = (np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis]) for values in (own, chosen))
        step = np.abs(columns).max(0) / 127
        np.testing.assert_allclose(others / step, np.round(others / step), atol=1e-3, err_msg=layer.name)
        np.testing.assert_allclose(np.abs(others).max(0), np.abs(columns).max(0), rtol=1e-6)
        assert (others[columns == 0] == 0).all()
        getattr(layer, name).assign(np.moveaxis(nearest(columns).reshape(np.moveaxis(own, axis, -1).shape), -1, axis))
    images = validation.astype(np.float32) / 255
    exact, ours, theirs = (model(images, training=False).numpy() for model in (pruned, rounded, plain))
    assert 0 < np.mean((ours - exact) ** 2) < 0.5 * np.mean((theirs - exact) ** 2)


def test_network_on_an_enlarged_image_takes_raw_pixels_and_is_imitated(tmp_path):
    tf_keras.utils.set_random_seed(2)
    model = training.compact_unet(32, 2.0)
    images = np.random.default_rng(1).integers(0, 256, (8, 32, 32, 3)).astype(np.uint8)
    path = tmp_path / "model.tflite"
    path.write_bytes(quantization.convert(model, "int8", images.astype(np.float32) / 255))
    expected = np.concatenate(list(training.predict(model, images)))
    assert quantization.check(path, "int8", images, expected, quantization.pixel_range(model)) >= 0.9
    kinds = [operator.kind for operator in quantization.operators(path.read_bytes())]
    assert kinds[:2] == ["QUANTIZE", "RESIZE_BILINEAR"] and kinds[2] == "CONV_2D"  # nothing rescales the image
    pixels = images / np.float32(255)
    student = quantization.imitate_int8(model, pixels)
    in_file, in_imitation = noise(quantization.logits_of(path.read_bytes(), images), student(pixels, training=False).numpy(),
                                  model(pixels).numpy())  # fmt: skip
    assert in_file > 0 and in_imitation > 0


def test_rescaling_behind_anything_but_an_enlargement_stays_in_the_network():
    image = tf_keras.layers.Input((8, 8, 3))
    rescale = tf_keras.layers.Rescaling(2.0, -1.0)
    assert quantization.pixel_range(tf_keras.Model(image, rescale(image))) == (-1, 1)
    behind = tf_keras.Model(image, rescale(tf_keras.layers.MaxPool2D()(image)))
    assert quantization.pixel_range(behind) == (0, 1)
    images = np.random.default_rng(1).random((2, 8, 8, 3), np.float32)
    assert (quantization.without_rescaling(behind)(images).numpy() == behind(images).numpy()).all()


# --- operator by operator -----------------------------------------------------------------


@pytest.fixture(scope="module")
def float32_file(pruned):
    return quantization.convert(pruned, "float32")


@pytest.fixture(scope="module")
def ranges(float32_file, validation):
    return quantization.activation_ranges(float32_file, validation.astype(np.float32) / 255)


def test_operators_carry_the_names_of_their_layers(float32_file, pruned):
    found = quantization.operators(float32_file)
    by_layer = {operator.layer: operator for operator in found if operator.kind in ("CONV_2D", "DEPTHWISE_CONV_2D")}
    assert set(by_layer) == {layer.name for layer in pruned.layers if "conv" in type(layer).__name__.lower()}
    assert by_layer["stem"].depth == 27 and by_layer["block1_project"].depth == 96 and by_layer["block1_depthwise"].depth == 0


def test_ranges_are_the_extremes_over_all_images(float32_file, ranges, pruned, validation):
    """And not a moving average, which forgets the extremes."""
    images = validation.astype(np.float32) / 255
    stem = tf_keras.Model(pruned.input, pruned.get_layer("stem_relu").output)(images).numpy()
    (tensor,) = (operator.tensor for operator in quantization.operators(float32_file) if operator.layer == "stem")
    assert ranges[tensor]["max"].item() == pytest.approx(stem.max(), rel=1e-4)
    assert ranges[tensor]["min"].item() == pytest.approx(stem.min(), abs=1e-5)
    (image,) = (values for name, values in ranges.items() if "image" in name)
    assert (image["min"].item(), image["max"].item()) == pytest.approx((images.min(), images.max()))


def test_one_operator_alone_is_in_int8(float32_file, ranges):
    (chosen,) = (each for each in quantization.operators(float32_file) if each.layer == "block6_project")
    content = quantization.quantise_static(float32_file, ranges, only=chosen)
    interpreter = quantization.Interpreter(model_content=content)
    tensors = {tensor["index"]: tensor["dtype"] for tensor in interpreter.get_tensor_details()}
    nodes = [node for node in interpreter._get_ops_details() if tensors[node["outputs"][0]] == np.int8]
    assert [node["op_name"] for node in nodes] == ["QUANTIZE", "CONV_2D"]


def test_scan_measures_signal_to_noise_and_the_loss_of_each_operator(float32_file, ranges, finished_run, pruned):
    images, masks = data_preparation.load_split(finished_run, "validation")
    rows = quantization.scan_sensitivity(float32_file, ranges, images, masks)
    every = quantization.operators(float32_file)
    assert {row["operator"] for row in rows} == {k for k, each in enumerate(every) if each.kind != "DEPTH_TO_SPACE"}
    assert [row["snr_db"] for row in rows] == sorted(row["snr_db"] for row in rows)
    row = rows[0]
    content = quantization.quantise_static(float32_file, ranges, only=every[row["operator"]])
    logits = quantization.logits_of(content, images)
    exact = pruned(images.astype(np.float32) / 255).numpy()
    error = np.std(logits - exact) ** 2 + np.mean(logits - exact) ** 2
    assert row["snr_db"] == pytest.approx(10 * np.log10(np.mean(exact**2) / error), abs=0.1)
    labels = masks.ravel(), logits.argmax(-1).ravel(), exact.argmax(-1).ravel()
    with_int8, without = (jaccard_score(labels[0], guess, average="macro", labels=range(3)) for guess in labels[1:])
    assert row["drop"] == pytest.approx(without - with_int8, abs=2e-4)


@pytest.fixture
def fragile_run(run_copy, monkeypatch):
    """A pruned model that one int8 tensor ruins: a channel that nothing reads, but so large that the others,
    which share its scale, vanish. In float32 it changes nothing. The validation masks are its own predictions,
    so that whatever int8 changes is a loss."""
    record = pipeline.read_record(run_copy, "pruned")
    model = training.load_model(run_copy, "pruned")
    norm, reader = model.get_layer("up8_depthwise3_norm"), model.get_layer("up8_mix3")
    scale, offset, mean, variance = norm.get_weights()
    scale[0], offset[0] = 3e3, 3e3
    norm.set_weights([scale, offset, mean, variance])
    (kernel,) = reader.get_weights()
    kernel[:, :, 0] = 0
    reader.set_weights([kernel])
    path = pipeline.artifact_path(run_copy, "pruned")
    training.save_model(model, path)
    pipeline.write_json(pipeline.record_path(path), record | {"sha256": pipeline.sha256(path)})

    def load_split(models_dir, split):
        images, masks = data_preparation.load_split(models_dir, split)
        if split == "validation":
            masks = model(images.astype(np.float32) / 255).numpy().argmax(-1).astype(np.uint8)
        return images, masks

    monkeypatch.setattr(quantization, "load_split", load_split)
    monkeypatch.setattr(quantization, "LEAST_AGREEMENT", 0.0)
    return run_copy


def validation_loss(models_dir, path):
    """What a file loses in mean IoU where the masks are the pruned model's predictions."""
    images, masks = quantization.load_split(models_dir, "validation")
    guesses = np.stack(list(quantization.predict_tflite(quantization.open_interpreter(path), images)))
    return 1 - jaccard_score(masks.ravel(), guesses.ravel(), average="macro", labels=np.unique(masks))


def test_limit_on_the_loss_keeps_the_operators_that_ruin_it_in_float(fragile_run, capsys):
    path = fragile_run / FILES["int8"]
    quantization.main(["--models-dir", str(fragile_run), "--calibration-images", "20"])
    assert validation_loss(fragile_run, path) > 0.1
    quantization.main(["--models-dir", str(fragile_run), "--calibration-images", "20", "--max-drop", "0.05"])
    assert validation_loss(fragile_run, path) <= 0.0501
    metrics = pipeline.read_record(fragile_run, "int8")["metrics"]
    assert {"up8_depthwise3", "up8_mix3"} <= set(metrics["float_operators"])  # what writes and what reads it
    assert len(metrics["float_operators"]) <= 8
    assert metrics["validation_drop"] <= 0.05 and metrics["times_slower"] > 0
    assert "kept in float: " in capsys.readouterr().out
    with (fragile_run / "int8_sensitivity.csv").open() as file:
        assert {row["layer"] for row in list(csv.DictReader(file))[:2]} <= {"up8_depthwise3", "up8_mix3"}
    with Image.open(fragile_run / "int8_sensitivity.png") as picture:
        assert min(picture.size) > 300


def test_limit_that_no_file_holds_leaves_the_old_file(fragile_run, monkeypatch):
    before = pipeline.sha256(fragile_run / FILES["int8"])
    scan = quantization.scan_sensitivity
    monkeypatch.setattr(quantization, "scan_sensitivity", lambda *given: scan(*given)[-8:])  # misses what ruins it
    with pytest.raises(pipeline.UserError, match=r"int8 loses 0\.\d+ mean IoU even with 4 of \d+ operators in float"):
        quantization.main(["--models-dir", str(fragile_run), "--calibration-images", "20", "--max-drop", "0.01"])
    assert pipeline.sha256(fragile_run / FILES["int8"]) == before


def test_limit_that_holds_anyway_leaves_int8_throughout(run_copy):
    quantization.main(["--models-dir", str(run_copy), "--calibration-images", "20", "--max-drop", "0.9"])
    assert pipeline.read_record(run_copy, "int8")["metrics"]["float_operators"] == []
    types = quantized_types(quantization.open_interpreter(run_copy / FILES["int8"]))
    assert types <= {np.int8, np.uint8, np.int32}


# --- quantisation-aware fine-tuning ---------------------------------------------------------


def noise(file, imitated, exact):
    """Power of the error of the int8 file, and of the imitation, against the float model."""
    return np.mean((file - exact) ** 2), np.mean((imitated - exact) ** 2)


def test_imitation_is_as_noisy_as_the_int8_file(finished_run, pruned, validation):
    """Which roundings go up and which go down differs, because sums differ in their last bit."""
    _, calibration = quantization.calibration_sample(finished_run, 36, 7)
    student = quantization.imitate_int8(training.load_model(finished_run, "pruned"), calibration)
    file = quantization.logits_of(quantization.convert(pruned, "int8", calibration), validation)
    images = validation.astype(np.float32) / 255
    in_file, in_imitation = noise(file, student(images, training=False).numpy(), pruned(images).numpy())
    assert in_file > 0 and 0.5 < in_imitation / in_file < 2


def test_imitation_trains_the_weights_of_the_model_and_spares_its_zeros_and_norms(finished_run):
    model = training.load_model(finished_run, "pruned")
    for layer in model.layers:
        layer.trainable = "norm" not in layer.name
    calibration = quantization.calibration_sample(finished_run, 8, 7)[1]
    student = quantization.imitate_int8(model, calibration)
    before = {variable.name: variable.numpy() for variable in model.variables}
    assert {variable.name for variable in student.variables} == set(before)
    optimizer = training.make_optimizer(4, 1e-2, 0, average=False)
    optimizer.build(student.trainable_variables)
    step = training.make_train_step(student, optimizer, tf.distribute.get_strategy(),
                                    lambda images, masks, logits: training.segmentation_loss(masks, logits))  # fmt: skip
    for batch in training.epoch_batches(*data_preparation.load_split(finished_run, "train"), 8, 7, 0):
        step(*batch)
    for variable in model.variables:
        name, was, now = variable.name, before[variable.name], variable.numpy()
        assert (was == now).all() if "norm" in name else (was != now).any(), name
        if "norm" not in name:
            np.testing.assert_array_equal(was == 0, now == 0, err_msg=name)


def test_rounded_kernel_has_255_steps_per_output_channel():
    layer = tf_keras.layers.Conv2D(3, 3, use_bias=False)
    layer.build((None, 8, 8, 4))
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 3)) * [1, 10, 100]
    kernel = kernel.astype(np.float32)
    layer.set_weights([kernel])
    wrapped = quantization.Int8Imitation(layer, None)
    ones = np.eye(4, dtype=np.float32).reshape(4, 1, 1, 4).repeat(3, 1).repeat(3, 2)
    sums = wrapped(ones).numpy().reshape(4, 3)  # of one input channel's kernel each
    scale = np.abs(kernel).max(axis=(0, 1, 2)) / 127
    np.testing.assert_allclose(sums, (np.round(kernel / scale) * scale).sum(axis=(0, 1)), rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(layer.kernel.numpy(), kernel)


def test_fine_tuning_for_int8_keeps_the_zeros_in_the_file(run_copy, pruned):
    before = pipeline.sha256(run_copy / FILES["int8"])
    quantization.main(["--models-dir", str(run_copy), "--calibration-images", "20", "--qat", "--epochs", "1",
                       "--batch-size", "8"])  # fmt: skip
    metrics = pipeline.read_record(run_copy, "int8")["metrics"]
    assert pipeline.sha256(run_copy / FILES["int8"]) != before
    assert 0 <= metrics["qat_validation_mean_iou"] <= 1 and metrics["agreement"] >= 0.9
    found = quantization.kernel_zeros((run_copy / FILES["int8"]).read_bytes())
    wanted = {name: layer["sparsity"] for name, layer in pipeline.read_record(run_copy, "pruned")["metrics"]["layers"].items()}
    assert len(wanted) > 10 and all(found[name] >= share - 1e-4 for name, share in wanted.items())
    assert (run_copy / "qat_training.csv").exists()


def test_classic_network_is_imitated_too(classic):
    images = np.random.default_rng(1).random((8, SIZE, SIZE, 3), np.float32)
    student = quantization.imitate_int8(classic, images)
    content = quantization.convert(classic, "int8", images)
    pixels = np.round(images * 255).astype(np.uint8)
    file = quantization.logits_of(content, pixels)
    pixels = pixels / np.float32(255)
    in_file, in_imitation = noise(file, student(pixels, training=False).numpy(), classic(pixels).numpy())
    assert in_file > 0 and 0.5 < in_imitation / in_file < 2


def test_int8_file_that_lost_zeros_is_refused(finished_run, pruned):
    dense = training.load_model(finished_run, "original")
    _, calibration = quantization.calibration_sample(finished_run, 8, 7)
    content = quantization.convert(dense, "int8", calibration)
    with pytest.raises(pipeline.UserError, match=r"the int8 file has \d\.\d% zeros in \w+, the pruned model [67]\d\.\d%"):
        quantization.check_zeros(content, pruned)


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


def test_runs_in_a_row_are_told_from_those_right_after_another_model(monkeypatch):
    """By a clock of its own: a call takes 1 s, 5 s if another model ran before it, and 100 s if it is the very first."""
    now, ran = [0.0], []
    monkeypatch.setattr(quantization, "TIMED_SECONDS", 400)
    monkeypatch.setattr(quantization.time, "perf_counter", lambda: now[0])

    def model(name, seconds):
        def call():
            now[0] += 100 if name not in ran else seconds if ran[-1] == name else 5 * seconds
            ran.append(name)

        return call

    times = quantization.time_in_turns({"quick": model("quick", 1), "slow": model("slow", 10)}, 100)
    assert [len(part) for part in times["quick"]] == [100, 10]  # ten turns of ten runs and the one before them
    assert [len(part) for part in times["slow"]] == [40, 10]  # ten turns, four runs in each: 400 s
    assert times["quick"][0] == pytest.approx(1000) and times["quick"][1] == pytest.approx(5000)
    assert times["slow"][0] == pytest.approx(10_000) and times["slow"][1] == pytest.approx(50_000)


def test_file_that_is_no_tflite_file_is_named(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(pipeline.UserError, match=r"model\.tflite cannot be read as a \.tflite file"):
        quantization.open_interpreter(path)


# --- the classic network ------------------------------------------------------------------


@pytest.mark.parametrize(("variant", "least"), [("float32", 0.999), ("dynamic", 0.95), ("int8", 0.9), ("float16", 0.99)])
def test_classic_network_converts_in_every_variant(classic, variant, least, tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (8, SIZE, SIZE, 3), np.uint8)
    path = tmp_path / "model.tflite"
    path.write_bytes(quantization.convert(classic, variant, images.astype(np.float32) / 255))
    expected = np.argmax(classic(images.astype(np.float32) / 255, training=False), axis=-1)
    assert quantization.check(path, variant, images, expected) >= least
