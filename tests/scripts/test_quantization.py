"""Stage 4 as a user runs it: checked files with records, or the old files stay in place."""

import csv
import dataclasses
import json
import re

import numpy as np
import pytest
from PIL import Image

import quantization
from pipeline.base.artifacts import (
    artifact_path,
    read_record,
    record_path,
    stale_reason,
    write_record,
)
from pipeline.base.console import UserError
from pipeline.base.files import sha256
from pipeline.base.lazy import keras, layers
from pipeline.data.dataset import load_split
from pipeline.inference.keras_files import load_model, save_model
from pipeline.inference.litert import open_interpreter
from pipeline.inference.models import open_model
from pipeline.inference.tflite_files import weight_counts
from pipeline.quantization import convert
from pipeline.quantization.verify import kernel_zeros
from pipeline.training.checkpoints import TrainingState, state_path
from pipeline.variants import VARIANTS, quantised
from tests.helpers.small_network import PRUNED_LAYERS

FEW = ("--calibration-images", "20")


def hashes(models_dir):
    return {path.name: sha256(path) for path in models_dir.glob("*.tflite")}


def test_files_are_as_small_as_their_types_make_them(finished_run):
    sizes = {name: artifact_path(finished_run, name).stat().st_size for name in quantised()}
    weights = 4 * read_record(finished_run, "original")["metrics"]["parameters"]  # as float32
    assert sizes["dynamic"] < 0.5 * weights
    assert sizes["int8"] < 0.4 * weights
    assert sizes["float16"] < 0.6 * weights


@pytest.mark.parametrize("variant", VARIANTS)
def test_record_holds_the_agreement_of_the_file_with_its_source(finished_run, variant):
    images, _ = (part[:] for part in load_split(finished_run, "validation"))
    model = load_model(finished_run, VARIANTS[variant].source)
    expected = np.argmax(model(images.astype(np.float32) / 255), axis=-1)
    path = artifact_path(finished_run, variant)
    ours = open_model(path).class_maps(images)
    metrics = read_record(finished_run, variant)["metrics"]
    assert metrics["agreement"] == pytest.approx(np.mean(ours == expected), abs=1e-5)
    assert metrics["bytes"] == path.stat().st_size
    assert metrics["agreement"] > {"int8": 0.9, "dynamic": 0.97}.get(variant, 0.999)


@pytest.mark.parametrize(
    "variant", ["float32", pytest.param("pruned_float32", marks=pytest.mark.slow)]
)
def test_float32_file_is_made_and_checked_like_the_others(run_copy, monkeypatch, variant):
    """evaluation.py converted them, and compared them with nothing."""
    source = VARIANTS[variant].source
    record = read_record(run_copy, variant)
    assert record["stage"] == "quantization" and record["inputs"].keys() == {source}
    before = hashes(run_copy)
    content = convert.convert(inverted(run_copy), "float32")
    monkeypatch.setattr(quantization, "VARIANTS", {variant: VARIANTS[variant]})
    monkeypatch.setattr(convert.Source, "convert", lambda *_: content)
    words = rf"the {variant} file agrees with the {source} model on only \d+\.\d%"
    with pytest.raises(UserError, match=words):
        quantization.main(["--models-dir", str(run_copy)])
    assert hashes(run_copy) == before


def test_flags_of_quantisation_make_no_float32_file_stale(finished_run):
    """A float32 file depends on its model alone."""
    stage = quantization.begin(quantization.parse(["--models-dir", str(finished_run), *FEW]))
    other = quantization.begin(quantization.parse(["--models-dir", str(finished_run)]))
    assert stage.reasons(*VARIANTS) == []
    assert other.reasons("float32", "pruned_float32") == []
    assert [reason.text for reason in other.reasons("int8")] == [
        "--calibration-images is 200, was 20"
    ]


def test_calibration_rows_are_recorded(finished_run):
    metrics = read_record(finished_run, "int8")["metrics"]
    rows, _ = convert.calibration_sample(finished_run, 20, 7)
    assert metrics["calibration_rows"] == rows.tolist()


@pytest.fixture
def only_int8(monkeypatch):
    """Makes the int8 file alone: the same loop makes the others, each for as much time."""
    monkeypatch.setattr(quantization, "VARIANTS", {"int8": VARIANTS["int8"]})


@pytest.mark.slow
def test_sensitivity_of_operators_changes_no_file(run_copy, only_int8):
    before = hashes(run_copy)
    quantization.main(["--models-dir", str(run_copy), *FEW, "--sensitivity"])
    after = hashes(run_copy)
    assert all(after[VARIANTS[name].file] == before[VARIANTS[name].file] for name in quantised())
    with (run_copy / "int8_sensitivity.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {"stem", "block1_project", "up4_mix"} <= {row["layer"] for row in rows}
    with Image.open(run_copy / "int8_sensitivity.png") as picture:
        assert min(picture.size) > 300


@pytest.mark.slow
def test_qat_keeps_the_zeros_in_the_file(run_copy, only_int8, capsys):
    path = artifact_path(run_copy, "int8")
    before = sha256(path)
    asked = ["--qat", "--epochs", "1", "--batch-size", "8"]
    quantization.main(["--models-dir", str(run_copy), *FEW, *asked])
    assert "get the class that the fine-tuned model gives them" in capsys.readouterr().out
    metrics = read_record(run_copy, "int8")["metrics"]
    assert sha256(path) != before
    assert 0 <= metrics["qat_validation_mean_iou"] <= 1 and metrics["agreement"] >= 0.9
    zeros = kernel_zeros(path.read_bytes())
    layers = read_record(run_copy, "pruned")["metrics"]["layers"]
    assert set(layers) == PRUNED_LAYERS
    assert all(zeros[name] >= layer["sparsity"] - 1e-4 for name, layer in layers.items())
    assert (run_copy / "qat_training.csv").exists()
    assert not state_path(run_copy, "qat").exists()


def test_layers_that_gptq_does_not_know_are_named_and_the_type_is_that_of_the_flag(
    run_copy, only_int8, monkeypatch, capsys
):
    """With a network of somebody's own: its transposed convolution is rounded by the converter."""
    model = load_model(run_copy, "pruned")
    x = model.get_layer("up4_mix_relu").output
    x = layers.Conv2DTranspose(3, 2, 2, name="own_up")(x)
    own = keras.Model(model.input, x)
    save_model(own, artifact_path(run_copy, "pruned"))
    record = read_record(run_copy, "pruned")
    digest = sha256(artifact_path(run_copy, "pruned"))
    record.rewrite(sha256=digest)
    quantization.main(["--models-dir", str(run_copy), *FEW, "--int8-input", "int8"])
    note = "note: GPTQ does not know own_up (Conv2DTranspose): rounded to the nearest step\n"
    printed = capsys.readouterr().out
    assert printed.count(note) == 1
    agreement = (
        r"MB, \d+\.\d\d% of validation pixels get the class that the pruned model gives them"
    )
    assert re.search(agreement, printed)
    slot = open_interpreter(artifact_path(run_copy, "int8")).get_input_details()[0]
    assert slot["dtype"] == np.int8, "the type of the flag"


# --- the source of a variant --------------------------------------------------------------


def nonzero_share(path):
    """Fraction of the weights of a file that are not zero."""
    parameters, nonzero = weight_counts(path)
    return nonzero / parameters


@pytest.mark.parametrize("variant", ["float16", pytest.param("int8", marks=pytest.mark.slow)])
def test_variant_of_the_original_is_made_from_it(run_copy, monkeypatch, capsys, variant):
    """It was made from the pruned model, whatever its entry said."""
    path = artifact_path(run_copy, variant)
    assert nonzero_share(path) < 0.6
    changed = dataclasses.replace(VARIANTS[variant], source="original")
    monkeypatch.setitem(VARIANTS, variant, changed)
    monkeypatch.setattr(quantization, "VARIANTS", {variant: changed})
    quantization.main(["--models-dir", str(run_copy), *FEW])
    assert nonzero_share(path) > 0.95
    assert "get the class that the original model gives them" in capsys.readouterr().out
    record = read_record(run_copy, variant)
    assert record["inputs"].keys() == {"dataset", "original"}
    assert record["metrics"]["agreement"] > 0.97

    # So it goes stale with that model and with no other one.
    for name in ("pruned", "original"):
        other = json.loads(record_path(run_copy, name).read_text()) | {"sha256": "0" * 64}
        write_record(record_path(run_copy, name), other)
        reason = stale_reason(run_copy, variant)
        assert reason is None if name == "pruned" else "from another original_model.h5" in reason


@pytest.mark.slow
def test_qat_and_max_drop_begin_with_the_source_of_the_int8_file(run_copy, monkeypatch, capsys):
    changed = dataclasses.replace(VARIANTS["int8"], source="original")
    monkeypatch.setitem(VARIANTS, "int8", changed)
    monkeypatch.setattr(quantization, "VARIANTS", {"int8": changed})
    asked = ["--qat", "--epochs", "1", "--batch-size", "8", "--max-drop", "1"]
    quantization.main(["--models-dir", str(run_copy), *FEW, *asked])
    assert nonzero_share(artifact_path(run_copy, "int8")) > 0.95
    record = read_record(run_copy, "int8")
    assert record["inputs"].keys() == {"dataset", "original"}
    assert abs(record["metrics"]["validation_drop"]) < 0.1
    assert "get the class that the fine-tuned model gives them" in capsys.readouterr().out


def test_refusal_names_the_source_of_the_file(run_copy, monkeypatch):
    changed = dataclasses.replace(VARIANTS["dynamic"], source="original")
    monkeypatch.setitem(VARIANTS, "dynamic", changed)
    monkeypatch.setattr(quantization, "VARIANTS", {"dynamic": changed})
    content = convert.convert(inverted(run_copy), "float16")
    monkeypatch.setattr(convert.Source, "convert", lambda *_: content)
    words = r"the dynamic file agrees with the original model on only \d+\.\d%"
    with pytest.raises(UserError, match=words):
        quantization.main(["--models-dir", str(run_copy)])


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        pytest.param(
            "disagrees",
            r"the int8 file agrees with the pruned model on only .* worst layers \(\w+ \(\d+ dB\)"
            r".* stay float: --max-drop",
            marks=pytest.mark.slow,
        ),
        ("cannot be made", r"no int8 file can be made \(RuntimeError: no such thing\); use other"),
    ],
)
def test_refused_int8_file_costs_none_of_the_others(run_copy, monkeypatch, kind, words):
    """float16, which comes after int8, was not written."""
    two = {name: VARIANTS[name] for name in ("int8", "float16")}
    monkeypatch.setattr(quantization, "VARIANTS", two)
    int8, float16 = (artifact_path(run_copy, name) for name in two)
    old = int8.read_bytes()
    float16.unlink()
    plain = convert.Source.convert

    def changed(source, variant, *types):
        if variant == "float16":
            return plain(source, variant, *types)
        if kind == "cannot be made":
            raise RuntimeError("no such thing")
        other = convert.calibrated_file(inverted(run_copy), source.calibration)
        return convert.quantise(other, {})

    monkeypatch.setattr(convert.Source, "convert", changed)
    with pytest.raises(UserError, match=rf"{words}.*\. The other files were written"):
        quantization.main(["--models-dir", str(run_copy), *FEW])
    assert int8.read_bytes() == old
    assert stale_reason(run_copy, "float16") is None and float16.stat().st_size > 0
    assert [path.name for path in run_copy.rglob(".*")] == []


def inverted(models_dir):
    """The pruned model, but with other classes."""
    model = load_model(models_dir, "pruned")
    last = model.get_layer("logits_block")
    last.set_weights([-value for value in last.get_weights()])
    return model


@pytest.mark.slow
def test_stopped_qat_is_resumed(run_copy, monkeypatch, capsys):
    """Its state has the identity of the int8 file: the original, which the stage reads too, is no
    input of it.
    """
    two = {name: VARIANTS[name] for name in ("float32", "int8")}
    monkeypatch.setattr(quantization, "VARIANTS", two)
    asked = ["--models-dir", str(run_copy), *FEW, "--qat", "--epochs", "2", "--batch-size", "8"]
    plain = TrainingState.save

    def save_and_stop(self, *arguments):
        plain(self, *arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainingState, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        quantization.main(asked)
    assert state_path(run_copy, "qat").exists()
    monkeypatch.setattr(TrainingState, "save", plain)
    quantization.begin(quantization.parse(asked)).mark.unlink()  # as a run of before left none
    capsys.readouterr()
    quantization.main([*asked, "--resume"])
    assert "going on after epoch 1" in capsys.readouterr().out
    assert len(read_record(run_copy, "int8")["history"]) == 2
    assert not state_path(run_copy, "qat").exists()


def test_file_that_disagrees_with_its_source_is_not_put_in_place(run_copy, monkeypatch):
    before = hashes(run_copy)
    content = convert.convert(inverted(run_copy), "float16")
    monkeypatch.setattr(convert.Source, "convert", lambda *_: content)
    words = r"the float32 file agrees with the original model on only \d+\.\d%"
    with pytest.raises(UserError, match=words):
        quantization.main(["--models-dir", str(run_copy)])
    assert hashes(run_copy) == before
    assert [path.name for path in run_copy.rglob(".*")] == []
