"""The profile counts and times each operator of a file once, and shows where it runs."""

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
    """A small network with every kind of operator of our networks and more, in float16 and int8."""
    folder = tmp_path_factory.mktemp("toy")
    model, calibration = toy_network()
    for name in ("float16", "int8"):
        content = convert.convert(model, name, calibration)
        (folder / VARIANTS[name].file).write_bytes(content)
    return folder


def test_profile_counts_every_operator(toy_files):
    path = toy_files / "int8_quantized_model.tflite"
    times = op_profile.time_operators(path, 0)
    delegated, partitions = op_profile.delegated_operators(path)
    assert all(milliseconds > 0 for *_, milliseconds in times)
    assert [index for index, *_ in times] == list(range(len(times)))
    kinds = [kind for _, kind, _ in times]
    assert kinds.count("CONV_2D") == 3
    # The first input of a transposed convolution is a constant: the shape of its output.
    assert kinds.count("DEPTHWISE_CONV_2D") == kinds.count("TRANSPOSE_CONV") == 1
    assert partitions >= 1
    convolutions = {index for index, kind, _ in times if "CONV" in kind}
    assert convolutions <= delegated <= set(range(len(times)))


def test_unpacking_of_float16_weights_is_not_timed(toy_files):
    """It runs once, when the file is loaded."""
    times = op_profile.time_operators(toy_files / "float16_quantized_model.tflite", 0)
    kinds = [kind for _, kind, _ in times]
    assert "DEQUANTIZE" not in kinds and kinds.count("CONV_2D") == 3


def test_profile_has_a_table_for_every_existing_file(toy_files, capsys):
    assert evaluation.main(["--models-dir", str(toy_files), "--profile"]) == 0
    text = capsys.readouterr().out
    assert text.count("ms for the whole model") == 2 and "float32_model.tflite" not in text
    table = text[text.index("int8_quantized_model.tflite:") :].split("\n\n")[0]
    assert re.search(r"\d+ XNNPACK partitions?\n", table)
    rows = [line.split() for line in table.splitlines()[3:]]
    assert {row[0] for row in rows} >= {"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"}
    assert all(int(count) == int(xnnpack) + int(others) for _, count, xnnpack, others, *_ in rows)
    assert sum(float(row[-1].rstrip("%")) for row in rows) == pytest.approx(100, abs=0.5)
    milliseconds = [float(row[-2]) for row in rows]
    assert milliseconds == sorted(milliseconds, reverse=True)  # the slowest kind first
    assert {path.name for path in toy_files.iterdir()} == {
        VARIANTS[name].file for name in ("float16", "int8")
    }


def test_profile_without_files_names_the_command_that_makes_them(tmp_path):
    with pytest.raises(UserError, match=r"no \.tflite file; .*python quantization\.py"):
        op_profile.profile(tmp_path, 0)
