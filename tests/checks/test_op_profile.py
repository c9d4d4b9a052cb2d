"""The profile counts every operator of a file once, times it alone, and says who runs it."""

import re

import pytest

import evaluation
from pipeline.base.console import UserError
from pipeline.checks import op_profile
from pipeline.quantization import convert
from pipeline.variants import VARIANTS
from tests.helpers.toy_networks import toy_network


@pytest.fixture(scope="module")
def toy_files(tmp_path_factory):
    """A network of few operators, of every kind that ours have and more, in float16 and int8."""
    folder = tmp_path_factory.mktemp("toy")
    model, calibration = toy_network()
    for name in ("float16", "int8"):
        content = convert.convert(model, name, calibration)
        (folder / VARIANTS[name].file).write_bytes(content)
    return folder


def test_profile_counts_every_operator(toy_files):
    path = toy_files / "int8_quantized_model.tflite"
    times = op_profile.time_operators(path, 0)
    inside, parts = op_profile.delegated_operators(path)
    assert all(milliseconds > 0 for *_, milliseconds in times)
    assert [number for number, *_ in times] == list(range(len(times)))
    kinds = [kind for _, kind, _ in times]
    assert kinds.count("CONV_2D") == 3
    # Of a transposed convolution the first input is a constant, the shape of its output.
    assert kinds.count("DEPTHWISE_CONV_2D") == kinds.count("TRANSPOSE_CONV") == 1
    assert parts >= 1
    convolutions = {number for number, kind, _ in times if "CONV" in kind}
    assert convolutions <= inside <= set(range(len(times)))


def test_unpacking_of_float16_weights_is_no_operator_of_its_own(toy_files):
    """It is done once, when the file is loaded."""
    times = op_profile.time_operators(toy_files / "float16_quantized_model.tflite", 0)
    kinds = [kind for _, kind, _ in times]
    assert "DEQUANTIZE" not in kinds and kinds.count("CONV_2D") == 3


def test_profile_has_a_table_for_every_file_there_is(toy_files, capsys):
    assert evaluation.main(["--models-dir", str(toy_files), "--profile"]) == 0
    text = capsys.readouterr().out
    assert text.count("ms as a whole") == 2 and "float32_model.tflite" not in text
    part = text[text.index("int8_quantized_model.tflite:") :].split("\n\n")[0]
    assert re.search(r"XNNPACK in \d+ parts?\n", part)
    rows = [line.split() for line in part.splitlines()[3:]]
    assert {row[0] for row in rows} >= {"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"}
    assert all(int(count) == int(own) + int(others) for _, count, own, others, *_ in rows)
    assert sum(float(row[-1].rstrip("%")) for row in rows) == pytest.approx(100, abs=0.5)
    spent = [float(row[-2]) for row in rows]
    assert spent == sorted(spent, reverse=True)  # the dearest first
    assert {path.name for path in toy_files.iterdir()} == {
        VARIANTS[name].file for name in ("float16", "int8")
    }


def test_profile_of_nothing_says_how_to_get_files(tmp_path):
    with pytest.raises(UserError, match=r"no \.tflite file; .*python quantization\.py"):
        op_profile.profile(tmp_path, 0)
