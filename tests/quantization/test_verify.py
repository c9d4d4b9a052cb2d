"""New files are refused for wrong classes, float32 tensors in int8, or lost zeros."""

import numpy as np
import pytest

from pipeline.base.artifacts import artifact_path, read_record
from pipeline.base.console import UserError
from pipeline.data.dataset import load_split
from pipeline.inference.keras_files import KerasModel, load_model
from pipeline.inference.tflite_files import operators
from pipeline.quantization import calibration, verify
from pipeline.quantization import convert as conversion
from pipeline.quantization.convert import calibration_sample, convert
from pipeline.quantization.selective import quantise_static
from tests.helpers.small_network import PRUNED_LAYERS


@pytest.fixture(scope="module")
def pruned(finished_run):
    return load_model(finished_run, "pruned")


@pytest.fixture(scope="module")
def validation(finished_run):
    return load_split(finished_run, "validation")[0][:]


@pytest.fixture(scope="module")
def expected(pruned, validation):
    return KerasModel(pruned).class_maps(validation)


def test_agreement_is_the_fraction_of_pixels_with_the_same_class(
    finished_run, validation, expected
):
    path = artifact_path(finished_run, "float16")
    agreement = verify.check(path, "float16", validation, expected, "pruned")
    changed = expected.copy()
    changed.reshape(-1)[::20] += 1  # 5 % of the pixels
    lower = verify.check(path, "float16", validation, changed, "pruned")
    assert lower == pytest.approx(0.95 * agreement, abs=0.005)


def test_file_that_predicts_other_classes_is_refused(finished_run, validation, expected):
    path = artifact_path(finished_run, "float16")
    words = r"the float16 file agrees with the pruned model on only \d+\.\d% of the pixels of 4 val"
    with pytest.raises(UserError, match=words):
        verify.check(path, "float16", validation, (expected + 1) % 3, "pruned")


def test_int8_file_with_float_tensors_is_refused_unless_mixed(
    finished_run, pruned, validation, expected, tmp_path
):
    content = convert(pruned, "float32")
    ranges = calibration.activation_ranges(content, validation.astype(np.float32) / 255)
    path = tmp_path / "model.tflite"
    path.write_bytes(quantise_static(content, ranges, but=operators(content)[2:3]))
    with pytest.raises(UserError, match="the int8 file computes in float in block0_project; use"):
        verify.check(path, "int8", validation, expected, "pruned")
    assert verify.check(path, "int8", validation, expected, "pruned", mixed=True) >= 0.9


def test_int8_file_with_a_float_input_is_refused_even_if_mixed(finished_run, validation, expected):
    path = artifact_path(finished_run, "dynamic")
    with pytest.raises(UserError, match="the int8 input is float32, not an 8-bit pixel"):
        verify.check(path, "int8", validation, expected, "pruned", mixed=True)


@pytest.mark.slow
def test_int8_file_with_another_input_scale_is_refused(
    finished_run, pruned, validation, expected, tmp_path, monkeypatch
):
    assert verify.check(artifact_path(finished_run, "int8"), "int8", validation, expected, "pruned")
    monkeypatch.setattr(conversion, "round_kernels", lambda model, _: model)  # for speed
    monkeypatch.setattr(calibration, "PIXELS", (0.0, 2.0))
    path = tmp_path / "model.tflite"
    path.write_bytes(convert(pruned, "int8", validation.astype(np.float32) / 255))
    with pytest.raises(UserError, match=r"the int8 input has scale .* not that of a pixel"):
        verify.check(path, "int8", validation, expected, "pruned")


def test_zeros_of_the_int8_file_are_those_of_the_model(finished_run, pruned):
    content = artifact_path(finished_run, "int8").read_bytes()
    fractions = verify.kernel_zeros(content)
    layers = read_record(finished_run, "pruned")["metrics"]["layers"]
    assert set(layers) == PRUNED_LAYERS
    for name, layer in layers.items():
        assert layer["sparsity"] - 1e-4 <= fractions[name] <= layer["sparsity"] + 0.05
    assert 0.5 < verify.check_zeros(content, "int8", pruned, "") < 0.75


@pytest.mark.slow
def test_int8_file_that_lost_zeros_is_refused(finished_run, pruned, monkeypatch):
    monkeypatch.setattr(conversion, "round_kernels", lambda model, _: model)  # for speed
    dense = load_model(finished_run, "original")
    content = convert(dense, "int8", calibration_sample(finished_run, 8, 7)[1])
    words = r"the int8 file has \d\.\d% zeros in \w+, the pruned model [4-8]\d\.\d%"
    with pytest.raises(UserError, match=words):
        verify.check_zeros(content, "int8", pruned, "again")
