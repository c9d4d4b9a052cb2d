"""Running .tflite files: pixels in every input type, logits, operators, and files that fail."""

import numpy as np
import pytest

from pipeline.base.artifacts import artifact_path
from pipeline.base.console import UserError
from pipeline.base.lazy import keras, layers
from pipeline.data.dataset import load_split
from pipeline.inference import litert
from pipeline.inference.keras_files import load_model
from pipeline.inference.models import open_model
from pipeline.inference.tflite_files import operators
from pipeline.quantization.convert import convert
from tests.helpers.runs import CLASSES, SIZE
from tests.helpers.toy_networks import that_crashes


@pytest.fixture(scope="module")
def pruned(finished_run):
    return load_model(finished_run, "pruned")


def test_operators_have_the_names_of_their_layers(pruned):
    listed = operators(convert(pruned, "float32"))
    kinds = ("CONV_2D", "DEPTHWISE_CONV_2D")
    by_layer = {operator.layer: operator for operator in listed if operator.kind in kinds}
    names = {layer.name for layer in pruned.layers if "conv" in type(layer).__name__.lower()}
    assert set(by_layer) == names
    depths = {name: by_layer[name].depth for name in ("stem", "block1_project", "block1_depthwise")}
    assert depths == {"stem": 27, "block1_project": 160, "block1_depthwise": 0}


def test_int8_operators_have_the_range_of_their_output(finished_run):
    """The first layer has a fused ReLU6, so its range lies in 0..6."""
    content = artifact_path(finished_run, "int8").read_bytes()
    (stem,) = (operator for operator in operators(content) if operator.layer == "stem")
    low, high = stem.limits
    assert low == 0 and 0 < high <= 6.001


@pytest.mark.parametrize("variant", ["dynamic", "int8", "float16"])
def test_logits_are_those_of_the_keras_model(finished_run, pruned, variant):
    images, _ = (part[:] for part in load_split(finished_run, "validation"))
    path = artifact_path(finished_run, variant)
    logits = open_model(path.read_bytes()).logits(images)
    exact = pruned(images.astype(np.float32) / 255).numpy()
    assert logits.dtype == np.float32 and logits.shape == exact.shape
    assert np.mean((logits - exact) ** 2) < 0.05 * np.mean(exact**2)
    predictions = open_model(path).class_maps(images)
    assert (predictions == logits.argmax(-1)).all()


@pytest.mark.parametrize("kind", ["float32", "uint8", "int8"])
def test_every_type_of_input_gets_the_same_pixels(tmp_path, kind):
    """With a network whose output is its input."""
    image = layers.Input((SIZE, SIZE, 3))
    identities = [layers.Conv2D(len(CLASSES), 1, use_bias=False) for _ in range(2)]
    model = keras.Model(image, identities[1](identities[0](image)))
    model.set_weights([np.eye(3, dtype=np.float32)[None, None]] * 2)
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.uint8)
    if kind == "float32":
        content = convert(model, "float32")
    else:
        content = convert(model, "int8", images / np.float32(255), kind)
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    tensor = litert.open_interpreter(path).get_input_details()[0]
    assert tensor["dtype"] == np.dtype(kind)
    logits = open_model(content).logits(images)
    np.testing.assert_allclose(255 * logits, images, atol=1.01)


def test_file_without_a_matching_record_is_tried_once_in_a_separate_process(
    finished_run, tmp_path, monkeypatch
):
    trials = []
    monkeypatch.setattr(litert, "in_own_process", lambda *arguments, **_: trials.append(arguments))
    recorded = artifact_path(finished_run, "int8")
    litert.open_interpreter(recorded)
    assert trials == []
    unknown = tmp_path / recorded.name
    unknown.write_bytes(recorded.read_bytes())
    for _ in range(2):
        litert.open_interpreter(unknown)
    assert trials == [(litert.run_once, unknown)]
    record = recorded.with_name(recorded.name + ".json")
    (tmp_path / record.name).write_bytes(record.read_bytes())
    litert.open_interpreter(unknown)  # has a record that it matches
    unknown.write_bytes(recorded.read_bytes() + b"0")
    litert.open_interpreter(unknown)  # differs from its record
    assert len(trials) == 2


def test_file_that_crashes_litert_is_refused_by_a_process_that_survives(finished_run, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(that_crashes(artifact_path(finished_run, "int8").read_bytes()))
    words = r"model\.tflite cannot be run: LiteRT crashes on it; name another file"
    with pytest.raises(UserError, match=words):
        litert.open_interpreter(path)


def test_file_that_exceeds_the_time_limit_is_refused(finished_run, tmp_path, monkeypatch):
    path = tmp_path / "model.tflite"
    path.write_bytes(artifact_path(finished_run, "int8").read_bytes())
    monkeypatch.setattr(litert, "TRIAL_SECONDS", 0.01)
    with pytest.raises(UserError, match=r"cannot be run: LiteRT takes over 0\.01 s for it"):
        litert.open_interpreter(path)


def test_missing_or_unreadable_file_is_refused_with_the_command_that_makes_it(tmp_path):
    path = tmp_path / "model.tflite"
    with pytest.raises(UserError, match=r"model\.tflite is missing; name another file"):
        litert.open_interpreter(path)
    path.write_bytes(b"nothing of the kind")
    words = r"model\.tflite cannot be read as a \.tflite file \(.*\); name another file"
    with pytest.raises(UserError, match=words):
        litert.open_interpreter(path)
    with pytest.raises(UserError, match=r"is missing; make it with: .*python quantization\.py"):
        litert.open_interpreter(artifact_path(tmp_path, "int8"))
