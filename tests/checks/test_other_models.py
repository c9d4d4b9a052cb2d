"""evaluation.py --model FILE: models of others are measured beside ours, whatever they expect."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import evaluation
from pipeline.base.artifacts import artifact_path
from pipeline.base.console import UserError
from pipeline.base.lazy import keras, layers, tf
from pipeline.checks import other_models
from pipeline.data.classes import make_classes
from pipeline.data.dataset import load_classes, load_split
from pipeline.inference.keras_files import KerasModel, load_model
from pipeline.inference.models import open_model
from pipeline.prediction.foreign_model import open_foreign
from pipeline.report import other_models_table
from tests.helpers.runs import run_script

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture
def run(evaluated_run, tmp_path):
    """A finished run whose files may change."""
    return Path(shutil.copytree(evaluated_run, tmp_path / "models"))


def no_times(paths, threads, image):
    """In place of `latency.measure_files`, which starts a process."""
    assert set(image) == set(paths)
    row = {"median": 2.0, "p90": 3.0, "busy": None}
    return {name: dict(row) for name in paths}


# --- kinds of networks -------------------------------------------------------------------------


def scaled(image, low, high):
    """Values of low..high as those of 0..1."""
    return layers.Rescaling(1 / (high - low), -low / (high - low))(image)


def variant(kind, network):
    """The same classes from the same pictures, said in another way."""
    height, width, _ = network.input_shape[1:]
    image = layers.Input((height, width, 3))
    if kind == "-1..1 and softmax":
        return keras.Model(image, layers.Softmax()(network(scaled(image, -1, 1))))
    if kind == "0..255":
        return keras.Model(image, network(scaled(image, 0, 255)))
    if kind == "ImageNet":
        values = layers.Rescaling(DEVIATION, MEAN)(image)
        return keras.Model(image, network(values))
    if kind == "channels first":
        image = layers.Input((3, height, width))
        scores = network(layers.Permute((2, 3, 1))(image))
        return keras.Model(image, layers.Permute((3, 1, 2))(scores))
    if kind == "class map":
        return keras.Model(image, tf.argmax(network(image), -1, tf.int32))
    if kind == "two outputs":
        scores = network(image)
        return keras.Model(image, [layers.AveragePooling2D(4)(scores), scores])
    if kind == "another order":
        return keras.Model(image, tf.gather(network(image), [1, 2, 0], axis=-1))
    assert kind == "twice the size"
    image = layers.Input((2 * height, 2 * width, 3))
    return keras.Model(image, network(layers.Resizing(height, width)(image)))


def as_tflite(model, path):
    """Converted without metadata, as TensorFlow's guide does it."""
    path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "least"),
    [
        ("-1..1 and softmax", 0.999),
        ("0..255", 0.999),
        ("ImageNet", 0.999),
        ("channels first", 0.999),
        ("class map", 0.999),
        ("two outputs", 0.999),
        ("another order", 0.999),
        ("twice the size", 0.9),  # pictures of 32 pixels are enlarged and shrunk again
    ],
)
def test_network_of_another_kind_gives_the_same_classes(finished_run, tmp_path, kind, least):
    network = load_model(finished_run, "original")
    images = load_split(finished_run, "test")[0][:12]
    expected = KerasModel(network).class_maps(images)
    path = as_tflite(variant(kind, network), tmp_path / "other.tflite")
    order = [1, 2, 0] if kind == "another order" else None
    model = open_foreign(path, finished_run, None, order)
    assert (model.class_maps(images) == expected).mean() > least
    assert ("of its outputs" in model.about) == (kind == "two outputs")


@pytest.mark.slow
def test_integers_with_a_scale_of_their_own(finished_run, tmp_path):
    """The input of a quantised file need not hold 0..1: this one holds ImageNet's values."""
    network = load_model(finished_run, "original")
    images = load_split(finished_run, "train")[0][:50]
    values = (images.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(DEVIATION)
    converter = tf.lite.TFLiteConverter.from_keras_model(variant("ImageNet", network))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None]] for image in values)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.uint8
    path = tmp_path / "other.tflite"
    path.write_bytes(converter.convert())
    model = open_foreign(path, finished_run, None, None)
    assert "input imagenet, by mean IoU" in model.about
    tested = load_split(finished_run, "test")[0][:12]
    assert (model.class_maps(tested) == KerasModel(network).class_maps(tested)).mean() > 0.95


def test_labels_are_never_those_of_ours(tmp_path):
    """A file called int8 took the place of ours in the table."""
    paths = [tmp_path / name for name in ("int8", "a/m.tflite", "b/m.tflite", "n.tflite")]
    labels = other_models.labels_of(paths)
    assert labels == [*map(str, (path.resolve() for path in paths[:3])), "n.tflite"]


@pytest.mark.slow
def test_another_order_is_proposed_and_not_applied(finished_run, tmp_path):
    network = load_model(finished_run, "original")
    images = load_split(finished_run, "test")[0][:8]
    path = as_tflite(variant("another order", network), tmp_path / "other.tflite")
    model = open_foreign(path, finished_run, None, None)
    names = load_classes(finished_run).names
    assert f"--class-order {names[1]},{names[2]},{names[0]}" in model.about
    expected = np.array([2, 0, 1])[KerasModel(network).class_maps(images)]
    assert (model.class_maps(images) == expected).mean() > 0.999


@pytest.mark.slow
def test_range_that_is_typed_is_taken(finished_run, tmp_path):
    network = load_model(finished_run, "original")
    path = as_tflite(variant("0..255", network), tmp_path / "other.tflite")
    assert "input 0..255, by mean IoU" in open_foreign(path, finished_run, None, None).about
    typed = open_foreign(path, finished_run, "-1..1", None)
    assert typed.about == "input -1..1 as typed"
    image = load_split(finished_run, "test")[0][0]
    values = (2 * image.astype(np.float32) / 255 - 1) / 255
    np.testing.assert_allclose(typed.scores(image), network(values[None])[0], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_whole_keras_model(finished_run, tmp_path, suffix):
    network = load_model(finished_run, "original")
    images = load_split(finished_run, "test")[0][:8]
    path = tmp_path / f"other{suffix}"
    variant("-1..1 and softmax", network).save(path)
    model = open_foreign(path, finished_run, None, None)
    assert "input -1..1" in model.about
    agree = model.class_maps(images) == KerasModel(network).class_maps(images)
    assert agree.mean() > 0.999


@pytest.mark.slow
def test_one_score_of_two_classes(finished_run, tmp_path, monkeypatch):
    """A sigmoid is compared with 0.5, a logit with 0."""
    network = load_model(finished_run, "original")
    images = load_split(finished_run, "test")[0][:8]
    height, width, _ = network.input_shape[1:]
    image = layers.Input((height, width, 3))
    logit = network(image)[..., 1:2] - 1.0
    monkeypatch.setattr(
        "pipeline.prediction.foreign_model.load_classes",
        lambda _: make_classes(["other", "one"]),
    )
    monkeypatch.setattr("pipeline.prediction.foreign_model.load_split", two_classes)
    expected = KerasModel(network).logits(images)[..., 1] > 1
    for output in (logit, tf.sigmoid(logit)):
        path = as_tflite(keras.Model(image, output), tmp_path / "one.tflite")
        model = open_foreign(path, finished_run, "0..1", None)
        assert (model.class_maps(images) == expected).mean() > 0.999


def two_classes(models_dir, split):
    images, masks = load_split(models_dir, split)
    return images[:], np.minimum(masks[:], 1)


# --- the mode ----------------------------------------------------------------------------------


def test_file_of_ours_is_measured_as_ours(run, tmp_path, monkeypatch, capsys):
    """Copied under another name: the same mean IoU, and nothing of ours is measured again."""
    monkeypatch.setattr(other_models.latency, "measure_files", no_times)
    numbers = (run / "evaluation.json").read_bytes()
    other = Path(shutil.copyfile(artifact_path(run, "int8"), tmp_path / "other.tflite"))
    assert evaluation.main(["--models-dir", str(run), "--model", str(other)]) == 0
    assert (run / "evaluation.json").read_bytes() == numbers
    content = json.loads((run / other_models_table.FILE).read_text())
    (row,) = content["others"]
    int8 = next(row for row in json.loads(numbers)["models"] if row["name"] == "int8")
    assert row["mean_iou"] == int8["mean_iou"]
    assert row["iou"] == int8["iou"]
    assert row["gain_interval"] == [0, 0]
    assert [row["name"] for row in content["ours"]] == ["float32", "int8"]
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if line.startswith("other.tflite  "))
    assert "not ours" in line and f"{int8['mean_iou']:.4f}" in line and "1.00" in line
    report = (run / "report.html").read_text(encoding="utf-8")
    assert "Models of others" in report and "other.tflite" in report


def test_report_forgets_them_when_ours_change(run):
    content = {"evaluation": "of another evaluation", "ours": [], "others": []}
    (run / other_models_table.FILE).write_text(json.dumps(content))
    assert other_models_table.kept(run) is None
    (run / other_models_table.FILE).write_text("[1")
    assert other_models_table.kept(run) is None


@pytest.mark.slow
def test_times_are_those_of_one_process(run, tmp_path):
    """Also of a network with channels first, whose input has another shape."""
    network = load_model(run, "original")
    path = as_tflite(variant("channels first", network), tmp_path / "other.tflite")
    model = open_foreign(path, run, "0..1", None)
    image = load_split(run, "test")[0][0]
    times = other_models.time_beside({"other": model}, run, image)
    assert set(times) == {"float32", "int8", "other"}
    assert all(row["median"] > 0 for row in times.values())


# --- what cannot be measured ---------------------------------------------------------------------


def test_faults_are_one_line_before_anything_is_measured(run, tmp_path):
    good = Path(shutil.copyfile(artifact_path(run, "int8"), tmp_path / "good.tflite"))
    bad = tmp_path / "bad.tflite"
    bad.write_bytes(b"\x1c\0\0\0TFL3" + bytes(100))
    before = {path: path.stat().st_mtime_ns for path in run.iterdir()}
    done = run_script("evaluation.py", "--models-dir", run, "--model", good, bad)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and str(bad) in done.stderr
    assert {path: path.stat().st_mtime_ns for path in run.iterdir()} == before


@pytest.mark.slow
def test_other_number_of_classes_is_refused(finished_run, tmp_path):
    network = load_model(finished_run, "original")
    image = layers.Input(network.input_shape[1:])
    scores = layers.Concatenate()([network(image), network(image)])
    path = as_tflite(keras.Model(image, scores), tmp_path / "six.tflite")
    with pytest.raises(UserError, match=r"tells 6 classes apart, and the data set has 3"):
        open_foreign(path, finished_run, None, None)


def test_missing_file_and_one_too_many(run, tmp_path, capsys):
    with pytest.raises(UserError, match="missing"):
        open_foreign(tmp_path / "no.tflite", run, None, None)
    with pytest.raises(SystemExit):
        evaluation.main(["--image", "a.jpg", "--model", "a.tflite", "b.tflite"])
    assert "name one file" in capsys.readouterr().err


def test_our_own_opener_agrees(finished_run):
    """The face that accuracy needs gives what our own opener gives."""
    images = load_split(finished_run, "test")[0][:4]
    path = artifact_path(finished_run, "int8")
    ours = open_model(path).class_maps(images)
    np.testing.assert_array_equal(
        open_foreign(path, finished_run, None, None).class_maps(images), ours
    )
