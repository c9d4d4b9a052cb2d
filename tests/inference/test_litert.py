"""Running .tflite files: pixels in every input type, logits, and operators by their layers."""

import numpy as np
import pytest

from pipeline.base.artifacts import artifact_path
from pipeline.base.console import UserError
from pipeline.base.lazy import keras, layers
from pipeline.data.dataset import load_split
from pipeline.inference import litert
from pipeline.inference.keras_files import load_model
from pipeline.quantization.convert import convert
from tests.helpers.runs import CLASSES, SIZE
from tests.helpers.toy_networks import that_crashes


@pytest.fixture(scope="module")
def pruned(finished_run):
    return load_model(finished_run, "pruned")


def test_operators_carry_the_names_of_their_layers(pruned):
    found = litert.operators(convert(pruned, "float32"))
    kinds = ("CONV_2D", "DEPTHWISE_CONV_2D")
    by_layer = {operator.layer: operator for operator in found if operator.kind in kinds}
    names = {layer.name for layer in pruned.layers if "conv" in type(layer).__name__.lower()}
    assert set(by_layer) == names
    depths = {name: by_layer[name].depth for name in ("stem", "block1_project", "block1_depthwise")}
    assert depths == {"stem": 27, "block1_project": 96, "block1_depthwise": 0}


def test_int8_operators_know_the_range_of_their_output(finished_run):
    """ReLU6 is fused: its range is what int8 covers."""
    content = artifact_path(finished_run, "int8").read_bytes()
    (stem,) = (each for each in litert.operators(content) if each.layer == "stem")
    low, high = stem.limits
    assert low == 0 and 0 < high <= 6.001


@pytest.mark.parametrize("variant", ["dynamic", "int8", "float16"])
def test_logits_are_in_the_units_of_the_model(finished_run, pruned, variant):
    images, _ = (part[:] for part in load_split(finished_run, "validation"))
    path = artifact_path(finished_run, variant)
    logits = litert.logits_of(path.read_bytes(), images)
    exact = pruned(images.astype(np.float32) / 255).numpy()
    assert logits.dtype == np.float32 and logits.shape == exact.shape
    assert np.mean((logits - exact) ** 2) < 0.05 * np.mean(exact**2)
    predictions = np.stack(list(litert.predict_tflite(litert.open_interpreter(path), images)))
    assert (predictions == logits.argmax(-1)).all()


@pytest.mark.parametrize("kind", ["float32", "uint8", "int8"])
def test_every_type_of_input_gets_the_same_pixels(tmp_path, kind):
    """Through a network that hands on its image, brightness by brightness."""
    image = layers.Input((SIZE, SIZE, 3))
    same = [layers.Conv2D(len(CLASSES), 1, use_bias=False) for _ in range(2)]
    model = keras.Model(image, same[1](same[0](image)))
    model.set_weights([np.eye(3, dtype=np.float32)[None, None]] * 2)
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.uint8)
    if kind == "float32":
        content = convert(model, "float32")
    else:
        content = convert(model, "int8", images / np.float32(255), kind)
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    slot = litert.open_interpreter(path).get_input_details()[0]
    assert slot["dtype"] == np.dtype(kind)
    logits = litert.logits_of(content, images)
    np.testing.assert_allclose(255 * logits, images, atol=1.01)


def test_file_of_ours_is_opened_at_once_and_another_is_tried_first_and_once(
    finished_run, tmp_path, monkeypatch
):
    tried = []
    monkeypatch.setattr(litert, "in_own_process", lambda *arguments, **_: tried.append(arguments))
    ours = artifact_path(finished_run, "int8")
    litert.open_interpreter(ours)
    assert tried == []
    theirs = tmp_path / ours.name
    theirs.write_bytes(ours.read_bytes())
    for _ in range(2):
        litert.open_interpreter(theirs)
    assert tried == [(litert.run_once, theirs)]
    record = ours.with_name(ours.name + ".json")
    (tmp_path / record.name).write_bytes(record.read_bytes())
    litert.open_interpreter(theirs)
    theirs.write_bytes(ours.read_bytes() + b"0")
    litert.open_interpreter(theirs)
    assert len(tried) == 2


def test_file_that_crashes_litert_is_one_line(finished_run, tmp_path):
    """And this process lives on to say it."""
    path = tmp_path / "model.tflite"
    path.write_bytes(that_crashes(artifact_path(finished_run, "int8").read_bytes()))
    words = r"model\.tflite cannot be run: LiteRT crashes on it; name another file"
    with pytest.raises(UserError, match=words):
        litert.open_interpreter(path)


def test_file_that_never_ends_is_one_line(finished_run, tmp_path, monkeypatch):
    path = tmp_path / "model.tflite"
    path.write_bytes(artifact_path(finished_run, "int8").read_bytes())
    monkeypatch.setattr(litert, "TRIAL_SECONDS", 0.01)
    with pytest.raises(UserError, match=r"cannot be run: LiteRT takes over 0\.01 s for it"):
        litert.open_interpreter(path)


def test_file_that_is_no_tflite_file_is_named_with_what_makes_it_anew(tmp_path):
    path = tmp_path / "model.tflite"
    with pytest.raises(UserError, match=r"model\.tflite is missing; name another file"):
        litert.open_interpreter(path)
    path.write_bytes(b"nothing of the kind")
    words = r"model\.tflite cannot be read as a \.tflite file \(.*\); name another file"
    with pytest.raises(UserError, match=words):
        litert.open_interpreter(path)
    with pytest.raises(UserError, match=r"is missing; make it with: python quantization\.py"):
        litert.open_interpreter(artifact_path(tmp_path, "int8"))
