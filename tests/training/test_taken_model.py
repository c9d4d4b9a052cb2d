"""--take: range, output and order of a model that was trained elsewhere are found or refused."""

import itertools

import numpy as np
import pytest

import training
from pipeline.base.artifacts import artifact_path, read_record, stale_reason
from pipeline.base.console import UserError
from pipeline.base.files import sha256
from pipeline.base.lazy import keras, layers
from pipeline.data.classes import IGNORED
from pipeline.inference.keras_files import load_model
from pipeline.training import taken_model
from pipeline.training.earlier_model import INPUTS
from tests.helpers.small_network import small_unet
from tests.helpers.toy_networks import saved_as, with_random_normalisation

SIZE, CLASSES = (32, 32), 3
PIXELS = np.random.default_rng(0).random((4, *SIZE, 3), np.float32)


def of(*middle, shape=(*SIZE, 3), last=None):
    image = x = layers.Input(shape)
    for layer in (*middle, last or layers.Conv2D(CLASSES, 3, padding="same")):
        x = layer(x)
    return keras.Model(image, x, name="theirs")


# --- the order of the classes ---------------------------------------------------------------


def test_match_is_the_best_of_all_orders():
    """Against every permutation, where classes overlap clearly, and pixels of no class count."""
    random = np.random.default_rng(3)
    for order in itertools.permutations(range(CLASSES)):
        masks = random.integers(0, CLASSES, (3, 16, 16))
        noise = random.random(masks.shape) < 0.3
        outputs = np.argsort(order)  # by class, the output that shows it
        predicted = np.where(noise, random.integers(0, CLASSES, masks.shape), outputs[masks])
        masks[random.random(masks.shape) < 0.1] = IGNORED

        def score(chosen, masks=masks, predicted=predicted):
            now = np.array(chosen)[predicted]
            both = [(now == k) & (masks == k) for k in range(CLASSES)]
            either = [((now == k) | (masks == k)) & (masks != IGNORED) for k in range(CLASSES)]
            return np.mean([a.sum() / b.sum() for a, b in zip(both, either)])

        found = taken_model.match(masks, predicted, CLASSES)
        best = max(itertools.permutations(range(CLASSES)), key=score)
        assert tuple(found.order) == order == best
        assert found.reordered == pytest.approx(score(best))
        assert found.mean_iou == pytest.approx(score(range(CLASSES)))


@pytest.mark.parametrize(
    "last",
    [
        lambda: layers.Conv2D(CLASSES, 1),
        lambda: layers.Conv2D(CLASSES, 1, use_bias=False),
        lambda: layers.Conv2DTranspose(CLASSES, 3, padding="same"),
        lambda: layers.SeparableConv2D(CLASSES, 3, padding="same"),
        lambda: layers.Dense(CLASSES),
    ],
)
def test_outputs_change_places_as_asked(last):
    model = of(last=last())
    model.set_weights(
        [value + np.arange(value.size).reshape(value.shape) / 9 for value in model.get_weights()]
    )
    before = model(PIXELS).numpy()
    taken_model.reorder("a.h5", model, [2, 0, 1])  # output 0 shows class 2 ...
    after = model(PIXELS).numpy()
    for output, shown in enumerate([2, 0, 1]):
        np.testing.assert_allclose(after[..., shown], before[..., output], rtol=1e-6)


def test_outputs_that_cannot_change_places_are_refused():
    model = of(layers.Conv2D(CLASSES, 1), last=layers.BatchNormalization(name="odd"))
    with pytest.raises(UserError, match=r"made by odd \(BatchNormalization\)"):
        taken_model.reorder("a.h5", model, [1, 0, 2])


@pytest.mark.parametrize("text", ["pet,border", "pet,pet,border", "", "pet,background,edge"])
def test_order_that_is_none_is_refused(text):
    with pytest.raises(UserError, match="name each class once: pet,background,border"):
        taken_model.order_of(text, ("pet", "background", "border"))


# --- the input --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", taken_model.RANGES)
def test_range_becomes_a_layer(kind):
    """Against the same values made with NumPy."""
    model = with_random_normalisation(small_unet(SIZE, CLASSES))
    mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    values = {
        "0..1": PIXELS,
        "-1..1": 2 * PIXELS - 1,
        "0..255": 255 * PIXELS,
        "imagenet": (PIXELS - mean) / deviation,
    }
    ours = taken_model.with_range(model, kind)
    expected = model(values[kind].astype(np.float32)).numpy()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(ours(PIXELS) / scale, expected / scale, atol=1e-5)
    assert not any(isinstance(layer, keras.Model) for layer in ours.layers)


def test_network_of_any_size_gets_that_of_the_data_set():
    theirs = of(layers.Conv2D(4, 3, padding="same"), shape=(None, None, 3))
    model, _ = taken_model.fitting("a.h5", theirs, SIZE, CLASSES)
    assert model.input_shape[1:] == (*SIZE, 3)
    np.testing.assert_allclose(model(PIXELS), theirs(PIXELS), atol=1e-6)


@pytest.mark.parametrize(
    ("theirs", "fault"),
    [
        (lambda: of(shape=(64, 32, 3)), "takes pictures of 32 x 64, .* --image-size 32x64"),
        (lambda: of(shape=(32, 32, 1)), r"takes values of shape \(32, 32, 1\)"),
        (lambda: of(last=layers.Conv2D(5, 1)), r"gives scores of shape \(32, 32, 5\).* 3 classes"),
        (lambda: of(layers.MaxPooling2D()), r"gives scores of shape \(16, 16, 3\)"),
        (lambda: of(layers.Flatten(), last=layers.Dense(3)), r"gives a class for each pixel"),
        (
            lambda: keras.Model((model := of()).input, [model.output, model.output]),
            r"1 inputs and 2 outputs \(conv2d\w*, conv2d\w*\), .* model\.outputs\[K\]",
        ),
    ],
)
def test_what_does_not_fit_the_data_set_is_refused(theirs, fault):
    with pytest.raises(UserError, match=rf"a\.h5 .*{fault}"):
        taken_model.fitting("a.h5", theirs(), SIZE, CLASSES)


# --- the stage ----------------------------------------------------------------------------------


@pytest.fixture
def disguised(finished_run, tmp_path):
    """The model of a finished run as others might have it: values of -1 to 1, softmax, an order."""
    own = load_model(finished_run, "original")
    image = layers.Input((*SIZE, 3))
    x = own(layers.Rescaling(0.5, 0.5)(image))
    swap = layers.Conv2D(CLASSES, 1, use_bias=False, activation="softmax")
    model = keras.Model(image, swap(x))
    swap.set_weights([np.eye(CLASSES, dtype=np.float32)[None, None, :, [1, 2, 0]]])
    return saved_as(model, tmp_path / "theirs.h5")


@pytest.mark.slow
def test_taken_model_is_the_original_of_the_later_stages(
    finished_run, data_copy, disguised, capsys
):
    where = ["--models-dir", str(data_copy), "--take", str(disguised)]
    training.main(where)
    printed = capsys.readouterr().out
    assert "taken: -1..1" in printed and "ends with a softmax" in printed
    assert "with --class-order background,border,pet mean IoU is" in printed
    training.main([*where, "--class-order", "background,border,pet"])
    own, taken = (read_record(folder, "original") for folder in (finished_run, data_copy))
    assert taken["inputs"][INPUTS["take"]] == sha256(disguised)
    key = "validation_mean_iou"
    assert taken["metrics"][key] == pytest.approx(own["metrics"][key], abs=1e-4)
    assert stale_reason(data_copy, "original") is None
    now, then = (load_model(folder, "original")(PIXELS) for folder in (data_copy, finished_run))
    np.testing.assert_allclose(now, then, atol=1e-4)
    before = artifact_path(data_copy, "original").stat().st_mtime_ns
    training.main([*where, "--class-order", "background,border,pet", "--if-needed"])
    assert "up to date" in capsys.readouterr().out
    assert artifact_path(data_copy, "original").stat().st_mtime_ns == before


@pytest.mark.slow
def test_file_that_does_not_fit_leaves_nothing(data_copy, tmp_path):
    before = sorted(path.name for path in data_copy.rglob("*"))
    path = saved_as(of(shape=(64, 64, 3)), tmp_path / "large.h5")
    with pytest.raises(UserError, match="prepare them with --image-size 64x64"):
        training.main(["--models-dir", str(data_copy), "--take", str(path)])
    left = {path.name for path in data_copy.rglob("*")} - {".lock"}
    assert left == set(before) - {".lock"}
