"""Error of each operator in int8, and the limit on the loss of mean IoU."""

import csv
import shutil

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

import quantization
from pipeline.base.artifacts import artifact_path, read_record
from pipeline.base.console import UserError
from pipeline.base.files import sha256
from pipeline.base.lazy import keras, layers
from pipeline.data.dataset import load_split
from pipeline.inference.contract import read
from pipeline.inference.keras_files import load_model, save_model
from pipeline.inference.litert import TfliteModel, open_interpreter
from pipeline.inference.models import open_model
from pipeline.inference.tflite_files import operators
from pipeline.quantization import convert as conversion
from pipeline.quantization import sensitivity, verify
from pipeline.quantization.convert import calibration_sample
from pipeline.quantization.selective import quantise_static, with_types
from pipeline.variants import VARIANTS
from tests.helpers.runs import CLASSES, SIZE

SOURCE = conversion.Source
FEW = ("--calibration-images", "20")
LIMIT = "0.1"  # of mean IoU; int8 throughout loses more, and with a few operators in float less


@pytest.fixture(scope="module")
def fragile(finished_run, tmp_path_factory):
    """A models folder, and its pruned model, which fails in int8: a channel of up4_depthwise that
    no layer reads has values so large that the other channels, which share its scale, become 0.
    In float32 it has no effect.
    """
    models_dir = shutil.copytree(finished_run, tmp_path_factory.mktemp("fragile") / "models")
    record = read_record(models_dir, "pruned")
    model = load_model(models_dir, "pruned")
    norm, reader = model.get_layer("up4_depthwise_norm"), model.get_layer("up4_mix")
    scale, offset, mean, variance = norm.get_weights()
    scale[0], offset[0] = 3e3, 3e3
    norm.set_weights([scale, offset, mean, variance])
    (kernel,) = reader.get_weights()
    kernel[:, :, 0] = 0
    reader.set_weights([kernel])
    path = artifact_path(models_dir, "pruned")
    save_model(model, path)
    record.rewrite(sha256=sha256(path))
    return models_dir, model


@pytest.fixture(scope="module")
def calibration(finished_run):
    return calibration_sample(finished_run, 8, 7)[1]


@pytest.fixture(scope="module")
def source(fragile, calibration):
    """The model with its calibration images."""
    return conversion.Source(fragile[1], calibration)


@pytest.fixture(scope="module")
def ready(source):
    """The float32 file to scan and its activation ranges."""
    return source.rounded_file, source.ranges


@pytest.fixture(scope="module")
def rows(fragile, ready):
    split = tuple(part[:] for part in load_split(fragile[0], "validation"))
    return sensitivity.scan_operators(*ready, split)


def test_scan_measures_signal_to_noise_and_drop_of_each_operator(fragile, ready, rows):
    from sklearn.metrics import jaccard_score

    (models_dir, _), (float32_file, ranges) = fragile, ready
    images, masks = (part[:] for part in load_split(models_dir, "validation"))
    scanned = operators(float32_file)
    assert {row["operator"] for row in rows} == set(range(len(scanned)))
    assert [row["snr_db"] for row in rows] == sorted(row["snr_db"] for row in rows)
    exact, truth = open_model(float32_file).logits(images), masks.ravel()
    for row in (rows[0], rows[len(rows) // 2]):
        assert row["layer"] == scanned[row["operator"]].layer
        content = quantise_static(float32_file, ranges, only=scanned[row["operator"]])
        logits = open_model(content).logits(images)
        error = np.std(logits - exact) ** 2 + np.mean(logits - exact) ** 2
        decibels = 10 * np.log10(np.mean(exact**2) / error)
        assert row["snr_db"] == pytest.approx(decibels, abs=0.1)
        int8_iou, float_iou = (
            jaccard_score(truth, output.argmax(-1).ravel(), average="macro", labels=range(3))
            for output in (logits, exact)
        )
        assert row["drop"] == pytest.approx(float_iou - int8_iou, abs=2e-4)


@pytest.mark.slow
def test_kernels_and_ranges_are_prepared_once(fragile_run, source, monkeypatch, tmp_path):
    """They take most of the time, and ran again for --sensitivity and --max-drop."""
    calls = []

    def counted(name):
        plain = getattr(conversion, name)

        def call(*arguments):
            calls.append(name)
            return plain(*arguments)

        monkeypatch.setattr(conversion, name, call)

    for name in ("round_kernels", "activation_ranges"):
        counted(name)
    fresh = SOURCE(source.model, source.calibration)
    monkeypatch.setattr(conversion, "Source", lambda *_: fresh)
    quantization.main(["--models-dir", str(fragile_run), *FEW, "--max-drop", LIMIT])
    assert read_record(fragile_run, "int8")["metrics"]["float_operators"]
    assert calls == ["round_kernels", "activation_ranges"]


# --- a limit on the loss --------------------------------------------------------------------


@pytest.fixture
def fragile_run(fragile, source, rows, tmp_path, monkeypatch):
    """A copy of that run; what is prepared and the scan are taken from the fixtures, to save time.

    The validation masks are the model's own predictions, so that every changed pixel is a loss.
    """
    models_dir, model = fragile

    def with_own_masks(models_dir, split):
        images, masks = (part[:] for part in load_split(models_dir, split))
        if split == "validation":
            masks = model(images.astype(np.float32) / 255).numpy().argmax(-1).astype(np.uint8)
        return images, masks

    monkeypatch.setattr(quantization, "load_split", with_own_masks)
    monkeypatch.setattr(quantization, "VARIANTS", {"int8": VARIANTS["int8"]})
    monkeypatch.setattr(verify, "LEAST_AGREEMENT", 0.0)
    monkeypatch.setattr(conversion, "Source", lambda *_: source)
    monkeypatch.setattr(sensitivity, "scan_operators", lambda *_: rows)
    return shutil.copytree(models_dir, tmp_path / "models")


def validation_loss(models_dir):
    """Loss of mean IoU of the int8 file; the masks are the pruned model's predictions."""
    from sklearn.metrics import jaccard_score

    images, masks = quantization.load_split(models_dir, "validation")
    interpreter = open_interpreter(artifact_path(models_dir, "int8"))
    predictions = TfliteModel(interpreter).class_maps(images)
    labels = np.unique(masks)
    return 1 - jaccard_score(masks.ravel(), predictions.ravel(), average="macro", labels=labels)


@pytest.mark.slow
def test_limit_on_the_loss_keeps_the_most_sensitive_operators_in_float(fragile_run, capsys):
    quantization.main(["--models-dir", str(fragile_run), *FEW, "--max-drop", LIMIT])
    assert validation_loss(fragile_run) <= float(LIMIT) + 1e-4
    metrics = read_record(fragile_run, "int8")["metrics"]
    # The operator that writes the large channel, and the one that reads the tensor.
    assert {"up4_depthwise", "up4_mix"} <= set(metrics["float_operators"])
    # A class that the model never predicts counts as soon as int8 predicts a pixel of it.
    assert len(metrics["float_operators"]) <= 32
    assert metrics["validation_drop"] <= float(LIMIT) and metrics["times_slower"] > 0
    assert "kept in float: " in capsys.readouterr().out
    with (fragile_run / "int8_sensitivity.csv").open() as file:
        worst = list(csv.DictReader(file))[:2]
    assert {row["layer"] for row in worst} <= {"up4_depthwise", "up4_mix"}
    with Image.open(fragile_run / "int8_sensitivity.png") as picture:
        assert min(picture.size) > 300


@pytest.mark.parametrize(
    "types",
    [
        ("int8", "uint8"),
        *(
            pytest.param(types, marks=pytest.mark.slow)
            for types in (("uint8", "int8"), ("uint8", "uint8"), ("int8", "int8"))
        ),
    ],
)
def test_file_with_operators_in_float_has_the_types_of_the_flags(fragile_run, types):
    """It took int8 pixels and gave int8 logits whatever the flags and the record said."""
    flags = ("--int8-input", types[0], "--int8-output", types[1], "--max-drop", LIMIT)
    quantization.main(["--models-dir", str(fragile_run), *FEW, *flags])
    record, path = read_record(fragile_run, "int8"), artifact_path(fragile_run, "int8")
    assert record["metrics"]["float_operators"]
    interpreter = open_interpreter(path)
    image, output = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    assert (image["dtype"].__name__, output["dtype"].__name__) == types
    assert record["metrics"]["input_type"] == types[0]
    assert record["metrics"]["output_type"] == types[1]
    assert image["quantization"] == (pytest.approx(1 / 255), 0 if types[0] == "uint8" else -128)
    contract = read(path)
    assert (contract["input"]["type"], contract["output"]["type"]) == types
    assert validation_loss(fragile_run) <= float(LIMIT) + 1e-4


def test_types_of_input_and_output_change_no_logits(fragile, ready):
    content, ranges = ready
    kept = operators(content)[2:3]
    images = load_split(fragile[0], "validation")[0][:]
    plain = quantise_static(content, ranges, but=kept)
    expected = open_model(plain).logits(images)
    for types in (("uint8", "int8"), ("int8", "uint8"), ("uint8", "uint8")):
        other = with_types(plain, *types)
        np.testing.assert_allclose(open_model(other).logits(images), expected, atol=1e-5)
        assert other != plain
        # By name, as LiteRT's signatures are called on Android and in the browser.
        signature = Interpreter(model_content=other).get_signature_runner()
        (image,) = signature.get_input_details().values()
        (output,) = signature.get_output_details().values()
        assert (image["dtype"].__name__, output["dtype"].__name__) == types
    assert with_types(plain, "int8", "int8") == plain


def test_limit_that_no_file_keeps_leaves_the_old_file(fragile_run, rows, monkeypatch):
    before = sha256(artifact_path(fragile_run, "int8"))
    # Without the operators that cause the loss.
    monkeypatch.setattr(sensitivity, "scan_operators", lambda *_: rows[-8:])
    words = r"int8 loses 0\.\d+ mean IoU even with 4 of \d+ operators in float"
    with pytest.raises(UserError, match=words):
        quantization.main(["--models-dir", str(fragile_run), *FEW, "--max-drop", "0.01"])
    assert sha256(artifact_path(fragile_run, "int8")) == before


@pytest.mark.slow
def test_limit_that_full_int8_keeps_leaves_no_operator_in_float(fragile_run):
    quantization.main(["--models-dir", str(fragile_run), *FEW, "--max-drop", "0.99"])
    assert validation_loss(fragile_run) > 0.1
    assert read_record(fragile_run, "int8")["metrics"]["float_operators"] == []
    interpreter = open_interpreter(artifact_path(fragile_run, "int8"))
    types = {tensor["dtype"] for tensor in interpreter.get_tensor_details()}
    assert types <= {np.int8, np.uint8, np.int32}


# --- operators that litert-quantizer does not know -----------------------------------------


def unusual(*middle):
    """A network with layers whose operators the library has no name for, and its source."""
    keras.utils.set_random_seed(0)
    image = layers.Input((SIZE, SIZE, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", name="first")(image)
    for layer in middle:
        x = layer(x)
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="last")(x)
    model = keras.Model(image, layers.Conv2D(len(CLASSES), 1, name="logits")(x), name="unusual")
    images = np.random.default_rng(0).random((4, SIZE, SIZE, 3), np.float32)
    return conversion.Source(model, images)


UNKNOWN = {
    "leaky": lambda: layers.LeakyReLU(0.2, name="leaky"),
    "up_to_four": lambda: layers.ReLU(4.0, name="up_to_four"),
    "per_channel": lambda: layers.PReLU("random_normal", shared_axes=[1, 2], name="per_channel"),
    "soft": lambda: layers.Activation("softplus", name="soft"),
}


@pytest.mark.parametrize(
    "name",
    ["leaky", *(pytest.param(n, marks=pytest.mark.slow) for n in UNKNOWN if n != "leaky")],
)
def test_operator_that_the_library_does_not_know_is_left_out_by_its_layers_name(name, capsys):
    """It was a ValueError: 'LEAKY_RELU' is not a valid TFLOperationName."""
    source = unusual(UNKNOWN[name]())
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (4, SIZE, SIZE, 3)).astype(np.uint8)
    masks = random.integers(0, len(CLASSES), (4, SIZE, SIZE)).astype(np.uint8)
    rows = sensitivity.scan_operators(source.rounded_file, source.ranges, (images, masks))
    assert {"first", "last"} & {row["layer"] for row in rows}
    assert f"note: {name} cannot be measured alone" in capsys.readouterr().out
    mixed = quantise_static(
        source.rounded_file, source.ranges, but=operators(source.rounded_file)[:1]
    )
    expected = open_model(source.rounded_file).logits(images)
    error = np.abs(open_model(mixed).logits(images) - expected).max()
    assert error < 0.1 * np.abs(expected).max()
    types = ("uint8", "int8")
    full = source.convert("int8", *types)
    _, about = sensitivity.int8_within(1.0, full, source, rows, (images, masks), types)
    assert about["float_operators"] == []


def test_layer_that_is_float_in_int8_is_in_the_record_of_a_file_that_keeps_to_the_limit():
    source, types = unusual(layers.ELU(name="elu")), ("uint8", "int8")
    images, masks = np.zeros((1, SIZE, SIZE, 3), np.uint8), np.zeros((1, SIZE, SIZE), np.uint8)
    full = source.convert("int8", *types)
    file, about = sensitivity.int8_within(1.0, full, source, [], (images, masks), types)
    assert file is full and about["float_operators"] == ["elu"]


def test_int8_with_a_layer_that_has_no_int8_form_is_refused_by_its_name():
    """It was named "tfl.dequantize"."""
    content = unusual(layers.ELU(name="elu")).convert("int8", "uint8", "int8")
    words = r"computes in float in elu; use other layers .* --max-drop 1"
    with pytest.raises(UserError, match=words):
        verify.check_integers(content, "int8")
