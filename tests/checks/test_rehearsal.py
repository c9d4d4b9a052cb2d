"""The later stages in small before training: what none can do is refused, what one cannot is a
note, and a network that passed is not tried again.
"""

import json

import numpy as np
import pytest

from pipeline.base.console import UserError
from pipeline.base.lazy import keras, layers
from pipeline.checks import rehearsal
from pipeline.inference.keras_files import KerasModel
from tests.helpers.small_network import small_unet

SIZE, CLASSES = 32, 3


def network(*middle, name="tiny"):
    """A network of two convolutions with the given layers between them."""
    image = layers.Input((SIZE, SIZE, 3), name="image")
    x = layers.Conv2D(16, 3, padding="same", name="first")(image)
    for layer in middle:
        x = layer(x)
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="last")(x)
    return keras.Model(image, layers.Conv2D(CLASSES, 1, name="logits")(x), name=name)


@pytest.mark.slow
def test_network_that_passes_has_no_notes_and_is_left_as_it_was(tmp_path, capsys):
    model = small_unet((SIZE, SIZE), CLASSES)
    before = model.get_weights()
    assert rehearsal.rehearse_once(model, tmp_path) == []
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1 and captured.err == ""


def test_network_that_passed_is_not_tried_again(tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(rehearsal, "rehearse", lambda model: tried.append(model.name) or ["a note"])
    for _ in range(2):
        assert rehearsal.rehearse_once(network(), tmp_path) == ["a note"]
    assert tried == ["tiny"]
    rehearsal.rehearse_once(network(layers.ReLU(name="relu")), tmp_path)
    assert len(tried) == 2, "another network"
    for damage in ("", "[1]", json.dumps({"network": 3}), "\xff"):
        (tmp_path / rehearsal.KEPT_FILE).write_text(damage, encoding="latin-1")
        assert rehearsal.rehearse_once(network(layers.ReLU(name="relu")), tmp_path) == ["a note"]
    assert len(tried) == 6
    monkeypatch.setattr(rehearsal.fingerprints, "of_stage", lambda *_, **__: ({"a": "b"}, {}))
    rehearsal.rehearse_once(network(layers.ReLU(name="relu")), tmp_path)
    assert len(tried) == 7, "other code"


@pytest.mark.parametrize("kind", ["area", pytest.param("bicubic", marks=pytest.mark.slow)])
def test_layer_that_no_file_can_have_is_refused_by_its_name(kind):
    """It was hundreds of lines of MLIR, after the training."""
    model = network(layers.Resizing(SIZE, SIZE, interpolation=kind, name="smooth"))
    with pytest.raises(UserError) as caught:
        rehearsal.rehearse(model)
    message = str(caught.value)
    assert message.startswith("smooth cannot be converted to a .tflite file (Resize")
    assert "\n" not in message and len(message) < 200


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (lambda: layers.GroupNormalization(4, name="in_groups"), "in_groups"),
        (lambda: layers.ELU(name="elu"), "elu"),
    ],
)
def test_layer_without_an_int8_form_is_named(layer, named):
    notes = rehearsal.rehearse(network(layer()))
    assert any(note.startswith(f"{named} would compute in float in the int8") for note in notes)


def test_layer_that_is_read_back_as_another_is_refused(monkeypatch):
    other = KerasModel(network(layers.Activation("tanh")))
    monkeypatch.setattr(rehearsal, "open_model", lambda _: other)
    with pytest.raises(UserError, match="tiny computes something else after it was saved"):
        rehearsal.rehearse(network())


def test_stage_that_fails_for_a_reason_of_its_own_is_a_note(monkeypatch):
    def broken(*_):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(rehearsal.magnitude, "wrap", broken)
    model = network(layers.Conv2D(64, 3, padding="same"), layers.Conv2D(64, 3, padding="same"))
    assert "pruning.py will not work: two lines" in rehearsal.rehearse(model)


def test_network_that_cannot_be_trained_for_int8_is_a_note(monkeypatch):
    """It was an error of Keras in quantization.py --qat."""
    from pipeline.quantization import qat  # loads Keras

    def broken(*_):
        raise ValueError("no such layer")

    monkeypatch.setattr(qat, "simulate_int8", broken)
    assert "quantization.py --qat will not work: no such layer" in rehearsal.rehearse(network())
