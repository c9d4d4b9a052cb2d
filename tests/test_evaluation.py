"""The measuring stage: metric, interval, gate, tables, report, overlays of photos, profile."""

import argparse
import io
import re

import pipeline  # first: it sets what TensorFlow reads at import

import numpy as np
import pytest
import tf_keras as keras
from PIL import Image
from tf_keras import layers

import evaluation
import quantization
import training
from data_preparation import overlay
from quantization import VARIANTS, convert

SIZE = 32  # pixels: the smallest image that the network takes
HISTORY = """epoch,loss,mean_iou,iou_pet,iou_background,iou_border,learning_rate,images_per_second
1,1.5,0.4,0.4,0.5,0.3,0.001,30
2,1.2,0.5,0.5,0.6,0.4,0.0005,30
"""


@pytest.fixture(scope="module")
def model_files(tmp_path_factory):
    """A toy network of 32 x 32 pixels as .h5 and in every .tflite variant; the real one converts too slowly here."""
    folder = tmp_path_factory.mktemp("models")
    keras.utils.set_random_seed(0)
    image = layers.Input((SIZE, SIZE, 3))
    biased = {"padding": "same", "bias_initializer": "random_normal"}  # equal biases, as zeros are, would be stored once
    x = layers.Conv2D(32, 3, 2, activation="relu", **biased)(image)
    x = layers.Conv2D(64, 3, activation="relu", **biased)(layers.DepthwiseConv2D(3, **biased)(x))
    x = layers.Conv2D(3, 1, **biased)(layers.Conv2DTranspose(32, 2, 2, **biased)(x))
    model = keras.Model(image, x)
    calibration = np.random.default_rng(0).random((4, SIZE, SIZE, 3), np.float32)
    stage = pipeline.Stage(evaluation.__file__, argparse.Namespace(models_dir=folder, seed=0))
    with stage.new_artifact("original", {}) as path:
        training.save_model(model, path)
    for variant in VARIANTS:
        with stage.new_artifact(variant, {}) as path:
            path.write_bytes(convert(model, variant, calibration))
    return folder


@pytest.fixture
def numbers():
    """A small fabricated evaluation: the names, fields and nesting of evaluation.json."""
    rows = []
    for k, name in enumerate(evaluation.MODELS):
        latency = {"median": 2.0 + k, "p90": 2.5 + k, "after_another": 3.0 + k, "first": 30.0, "runs": 100}
        rows.append({
            "name": name, "file": pipeline.ARTIFACTS[name][0],
            "bytes": 4_000_000 - 500_000 * k, "gzip_bytes": 3_000_000 - 400_000 * k,
            "parameters": 1_000_000, "nonzero_share": 0.4, "latency_ms": latency, "latency_ms_all_threads": latency,
            "memory_bytes": 10_000_000 + k, "mean_iou": 0.76, "mean_iou_interval": [0.7512, 0.7688],
            "iou": {"pet": 0.85, "background": 0.92, "border": 0.51}, "pixel_accuracy": 0.91, "mean_iou_drop": 0.004,
            "mean_iou_drop_interval": [0.001, 0.007], "iou_drop": {"pet": 0.001, "background": 0.001, "border": 0.03},
            "stale": None,
        })  # fmt: skip
    return {
        "dataset": {"source": "Oxford <Pets>", "synthetic": False, "image_size": 128, "fingerprint": "ab" * 32, "split": "test",
                    "class_names": list(pipeline.CLASSES), "examples": 3669, "all_background_mean_iou": 0.2},
        "environment": {"cpu": "A CPU", "cores": 2, "threads": 1, "delegate": "XNNPACK", "system": "Linux",
                        "versions": {"numpy": "2"}},
        "stages": {"pruned": {"settings": {"seed": 7, "epochs": 10}, "wall_seconds": 12.0, "sha256": "cd" * 32,
                              "metrics": {"layers": {"block0_project": {"weights": 512, "sparsity": 0.7}}}}},
        "seed": 7, "models": rows,
    }  # fmt: skip


# --- the metric ---------------------------------------------------------------------------


def test_metric_agrees_with_scikit_learn():
    from sklearn import metrics

    random = np.random.default_rng(1)
    masks, predictions = random.integers(0, 3, (2, 5, 17, 13))
    confusion = training.confusion_matrix(masks, predictions)
    assert confusion.shape == (5, 3, 3)
    for k in range(5):
        expected = metrics.confusion_matrix(masks[k].ravel(), predictions[k].ravel(), labels=[0, 1, 2])
        np.testing.assert_array_equal(confusion[k], expected)
    whole = metrics.jaccard_score(masks.ravel(), predictions.ravel(), average=None)
    np.testing.assert_allclose(training.iou_per_class(confusion.sum(axis=0)), whole)


def test_metric_by_hand():
    mask = np.array([[[0, 0, 1], [0, 1, 1]]])
    prediction = np.array([[[0, 1, 1], [0, 1, 0]]])
    confusion = training.confusion_matrix(mask, prediction)
    np.testing.assert_array_equal(confusion, [[[2, 1, 0], [1, 2, 0], [0, 0, 0]]])
    # pet: 2 shared of 4; background: 2 of 4; border: neither there nor predicted
    np.testing.assert_allclose(training.iou_per_class(confusion[0]), [0.5, 0.5, 1.0])


def test_bootstrap_brackets_the_estimate_and_repeats():
    random = np.random.default_rng(2)
    masks = random.integers(0, 3, (60, 16, 16))
    right = random.random(masks.shape) < random.uniform(0.5, 0.9, (60, 1, 1))  # some images are harder than others
    predictions = np.where(right, masks, random.integers(0, 3, masks.shape))
    confusion = training.confusion_matrix(masks, predictions)
    low, high = evaluation.interval(evaluation.bootstrap_mean_iou(confusion, 7))
    assert low < training.iou_per_class(confusion.sum(axis=0)).mean() < high
    assert high - low < 0.1
    assert [low, high] == evaluation.interval(evaluation.bootstrap_mean_iou(confusion, 7))
    assert [low, high] != evaluation.interval(evaluation.bootstrap_mean_iou(confusion, 8))


def test_size_counts_what_is_stored(model_files):
    expected = (3 * 9 + 1) * 32 + (9 + 1) * 32 + (32 * 9 + 1) * 64 + (64 * 4 + 1) * 32 + (32 + 1) * 3  # kernels and biases
    assert evaluation.weight_counts(model_files / "original_model.h5")[0] == expected
    for variant in VARIANTS:
        weights, nonzero = evaluation.weight_counts(pipeline.artifact_path(model_files, variant))
        assert weights == expected
        assert 0.8 * expected < nonzero <= expected
    packed = evaluation.gzip_bytes(model_files / "int8_quantized_model.tflite")
    assert 0 < packed < (model_files / "int8_quantized_model.tflite").stat().st_size


# --- the gate -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "kept", "broken"),
    [("--max-drop", "0.004", "0.003"), ("--max-latency-ms", "8.0", "7.9"), ("--max-bytes", "2000000", "1999999"),
     ("--min-mean-iou", "0.76", "0.761")],
)  # fmt: skip
def test_gate(numbers, flag, kept, broken):
    assert evaluation.broken_limits(evaluation.parse([flag, kept]), numbers) == []
    lines = evaluation.broken_limits(evaluation.parse([flag, broken]), numbers)
    assert lines
    assert all(flag in line and broken.rstrip("0") in line for line in lines)
    named = {line.split()[0] for line in lines}
    assert named <= {"dynamic", "int8", "float16"}  # the gate is for what ships


def test_gate_is_open_without_limits(numbers):
    assert evaluation.broken_limits(evaluation.parse([]), numbers) == []


# --- tables and report --------------------------------------------------------------------


def test_printed_table_fits_a_terminal(numbers):
    numbers["models"][5]["stale"] = "models/int8_quantized_model.tflite was made from another pruned_model.h5; " * 2
    numbers["models"][0] |= {"bytes": 99_999_999, "gzip_bytes": 99_999_999}
    numbers["models"][0]["latency_ms"] = {"median": 1234.56, "p90": 2345.67, "first": 1.0}
    text = evaluation.format_table(numbers)
    assert max(map(len, text.splitlines())) <= 100
    assert all(name in text for name in evaluation.MODELS)
    assert "stale" in text
    assert "Look out: int8 loses 0.030 IoU on the class border." in text
    numbers["dataset"]["synthetic"] = True
    assert "SYNTHETIC" in evaluation.format_table(numbers)


def test_readme_table_is_markdown(numbers):
    lines = evaluation.readme_table(numbers).splitlines()
    assert len(lines) == 2 + len(evaluation.MODELS)
    assert {line.count("|") for line in lines} == {9}


def test_report_stands_alone_and_names_every_model(numbers, tmp_path):
    (tmp_path / "original_training.csv").write_text(HISTORY)
    numbers["models"][4]["stale"] = "made from another <file>"
    page = evaluation.report_page(numbers, tmp_path)
    assert "$" not in page
    assert not re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?(?!data:|#)[^\s\"'>)]+", page)
    outside = re.sub(r"data:[^\"']*", "", page)  # the pictures' own name spaces are no addresses to fetch
    assert "http" not in outside
    assert "<script" not in outside
    assert all(f">{name}<" in page or f">{name} <" in page for name in evaluation.MODELS)
    assert "made from another &lt;file&gt;" in page
    assert "Oxford &lt;Pets&gt;" in page
    assert "--epochs 10" in page and "cd" * 32 in page
    assert "ynthetic" not in page
    numbers["dataset"]["synthetic"] = True
    assert "Synthetic data" in evaluation.report_page(numbers, tmp_path)


def test_pareto_front():
    points = [(3.0, 0.7), (1.0, 0.5), (2.0, 0.5), (2.5, 0.8), (1.0, 0.4)]
    assert evaluation.pareto_front(points) == [(1.0, 0.5), (2.5, 0.8)]


def test_labels_are_spread_apart_in_order():
    places = evaluation.spread([0.5, 0.5, 0.51, 1.0, 0.98, 0.0], 0.1)
    assert np.diff(np.sort(places)).min() >= 0.1 - 1e-9
    assert min(places) >= 0
    assert max(places) <= 1
    assert np.argsort(places, kind="stable").tolist() == [5, 0, 1, 2, 4, 3]


def test_worst_photos_come_first():
    confusion = np.stack([np.diag([9, 9, 9]) + (0 if k != 3 else 9) for k in range(10)])
    chosen = evaluation.chosen_photos(confusion, 2)
    assert next(iter(chosen)) == 3
    assert len(chosen) == 4
    assert evaluation.chosen_photos(confusion[:1], 2).keys() == {0}


# --- your own photos ----------------------------------------------------------------------


def encoded(mode, size, form, **options):
    pixels = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def turned_exif():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    return exif


@pytest.mark.parametrize(
    ("mode", "size", "form", "options", "displayed"),
    [("RGB", (90, 60), "JPEG", {"exif": turned_exif()}, (60, 90)), ("L", (50, 41), "PNG", {}, (50, 41)),
     ("RGBA", (33, 64), "PNG", {}, (33, 64)), ("CMYK", (40, 30), "JPEG", {}, (40, 30)), ("P", (31, 7), "PNG", {}, (31, 7)),
     ("RGB", (1, 1), "PNG", {}, (1, 1)), ("RGB", (700, 300), "JPEG", {}, (700, 300))],
)  # fmt: skip
def test_overlay_has_the_photos_displayed_size(model_files, tmp_path, capsys, mode, size, form, options, displayed):
    photo = tmp_path / f"photo.{form.lower()}"
    photo.write_bytes(encoded(mode, size, form, **options))
    assert evaluation.main(["--models-dir", str(model_files), "--image", str(photo)]) == 0
    with Image.open(tmp_path / "photo.overlay.png") as written:
        assert written.size == displayed
        assert written.mode == "RGB"
    assert re.search(r"network \d+\.\d ms", capsys.readouterr().out)
    assert {path.name for path in tmp_path.iterdir()} == {photo.name, "photo.overlay.png"}  # no temporary files


@pytest.mark.parametrize("name", ["original", *VARIANTS])
def test_every_kind_of_model_draws(model_files, tmp_path, name):
    photo = tmp_path / "photo.png"
    photo.write_bytes(encoded("RGB", (48, 40), "PNG"))
    evaluation.main(["--image", str(photo), "--model", str(pipeline.artifact_path(model_files, name))])
    assert (tmp_path / "photo.overlay.png").exists()


def test_overlay_is_the_class_map_without_seams():
    """At the model's own resolution the overlay is `overlay`; on a tall photo, bands do not show."""
    random = np.random.default_rng(4)
    scores = random.normal(0, 1, (SIZE, SIZE, 3)).astype(np.float32)
    photo = random.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    drawn = evaluation.draw_photo_overlay(Image.fromarray(photo), scores)
    np.testing.assert_array_equal(drawn, overlay(photo, scores.argmax(axis=-1)))
    tall = Image.fromarray(random.integers(0, 256, (2 * evaluation.BAND + 45, 20, 3), np.uint8))
    planes = [Image.fromarray(scores[..., k].copy()).resize(tall.size, Image.Resampling.BILINEAR) for k in range(3)]
    expected = overlay(np.asarray(tall), np.argmax([np.asarray(plane) for plane in planes], axis=0))
    different = (np.asarray(evaluation.draw_photo_overlay(tall, scores)) != expected).any(axis=-1)
    assert different.mean() < 0.001  # rounding at a tie, no more


def test_what_cannot_be_read_is_said(model_files, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    cut = tmp_path / "cut.png"
    cut.write_bytes(encoded("RGB", (90, 60), "PNG")[:300])
    for photo, words in ((bad, "no picture"), (cut, "no picture"), (tmp_path / "none.jpg", "missing"), (tmp_path, "no picture")):
        with pytest.raises(pipeline.UserError, match=words):
            evaluation.main(["--models-dir", str(model_files), "--image", str(photo)])
    good = tmp_path / "good.png"
    good.write_bytes(encoded("RGB", (9, 6), "PNG"))
    for name in ("model.h5", "model.tflite"):
        broken = tmp_path / name
        with pytest.raises(pipeline.UserError, match="missing"):
            evaluation.main(["--image", str(good), "--model", str(broken)])
        broken.write_bytes(b"no model")
        with pytest.raises(pipeline.UserError, match="cannot be read"):
            evaluation.main(["--image", str(good), "--model", str(broken)])
    with pytest.raises(pipeline.UserError, match=r"python quantization\.py"):
        evaluation.main(["--models-dir", str(tmp_path), "--image", str(good)])
    assert not list(tmp_path.glob("*overlay*"))


# --- time and memory ----------------------------------------------------------------------


def test_profile_counts_every_operator(model_files):
    path = model_files / "int8_quantized_model.tflite"
    times = evaluation.time_operators(path, 0)
    inside, parts = evaluation.delegated_operators(path)
    assert all(milliseconds > 0 for *_, milliseconds in times)
    assert [number for number, *_ in times] == list(range(len(times)))
    kinds = [kind for _, kind, _ in times]
    assert kinds.count("CONV_2D") == 3
    assert kinds.count("DEPTHWISE_CONV_2D") == kinds.count("TRANSPOSE_CONV") == 1  # whose first input is a constant
    assert parts >= 1
    assert {number for number, kind, _ in times if "CONV" in kind} <= inside <= set(range(len(times)))


def test_memory_of_a_run(model_files):
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    grown = evaluation.measure_memory(model_files, ("int8",), image)["int8"]
    if grown is None:
        pytest.skip("this system has no /proc")
    assert 0 < grown < 200_000_000


def test_single_run_is_ready_for_every_kind(model_files):
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    for name in ("original", "int8", "float32"):
        evaluation.single_run(model_files, name, 1, image)()


def test_command_in_the_report_repeats_the_settings(tmp_path):
    settings = vars(quantization.parse(["--models-dir", str(tmp_path), "--qat", "--epochs", "2"]))
    recorded = {key: value for key, value in settings.items() if key not in ("models_dir", "if_needed", "resume")}
    command = evaluation.stage_command(tmp_path, "int8", recorded)
    assert command.startswith(f"python quantization.py --models-dir {tmp_path} ")
    assert "--qat" in command and "--sensitivity" not in command and "None" not in command
    assert vars(quantization.parse(command.split()[2:])) == settings
