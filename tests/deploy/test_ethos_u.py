"""NPU estimates: vela's output is read correctly, errors are one line, nothing falls back."""

import multiprocessing.spawn
import os
import sys
import tempfile

import numpy as np
import pytest

import evaluation
from pipeline.base import commands
from pipeline.base.console import UserError
from pipeline.base.lazy import keras, layers, tf
from pipeline.deploy import ethos_u
from pipeline.quantization import convert
from pipeline.training import networks
from tests.helpers.optional import missing

SUMMARY = """experiment,network,system_config,memory_mode,core_clock,inference_time,\
sram_memory_used,dram_memory_used,on_chip_flash_memory_used,off_chip_flash_memory_used
default,drawn,Some_Board,Shared_Sram,500000000.0,0.00425,250.0,0.0,1.5,1000.0
"""
PRINTED = """Warning: No system configuration specified.

Network summary for drawn
Accelerator configuration               Ethos_U55_256

CPU operators = 3 (75.0%)
   CPU: Passthrough = net/enlarge;net/(a) b (outputs [1, 40, 40, 3])
   CPU: Softmax = unknown (outputs [1, 32, 32, 3])
   CPU: Passthrough = StatefulPartitionedCall:0 (outputs [1, 32, 32, 3])
NPU operators = 1 (25.0%)
   NPU: Conv2D = net/stem (outputs [1, 16, 16, 8])

Neural network macs                          1000 MACs/batch
"""
# Behaves as vela does, and writes its arguments to the file `notes`.
FAKE_VELA = """#!{python}
import pathlib, sys
with open({notes!r}, "a") as notes:
    print(*sys.argv[1:], sep="\\t", file=notes)
folder = pathlib.Path(sys.argv[sys.argv.index("--output-dir") + 1])
(folder / "drawn_summary_Some_Board.csv").write_text({summary!r})
(folder / "drawn_vela.tflite").write_bytes(b"x")
pathlib.Path("leftover").write_text("x")
print({printed!r})
"""
FAILING_VELA = """#!{python}
import sys
print("Warning: something else")
print("Traceback:", file=sys.stderr)
sys.exit("RuntimeError: no such thing")
"""


@pytest.fixture
def clean(tmp_path, monkeypatch):
    """Hides a vela installed on this machine, and its temporary folder."""
    multiprocessing.spawn.get_executable()  # loaded first: it remembers the path of Python
    (tmp_path / "nowhere").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere" / "python"))
    monkeypatch.delenv("VELA", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    return tmp_path


@pytest.fixture
def program(clean):
    """Writes a program called vela and returns its path."""
    python = sys.base_prefix + "/bin/python3"

    def write(text, **values):
        path = clean / "programs" / "vela"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.format(python=python, **values))
        path.chmod(0o755)
        return path

    return write


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A tiny network that ends in DEPTH_TO_SPACE, in int8 and float32."""
    folder = tmp_path_factory.mktemp("npu")
    keras.utils.set_random_seed(0)
    image = layers.Input((32, 32, 3))
    x = layers.Conv2D(8, 3, 2, padding="same", activation="relu")(image)
    x = layers.Conv2D(12, 1)(x)
    model = keras.Model(image, tf.nn.depth_to_space(x, 2))
    calibration = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    for name in ("int8", "float32"):
        path = folder / f"{name}.tflite"
        path.write_bytes(convert.convert(model, name, calibration))
    return folder


def test_operators_on_the_cpu_have_the_kind_that_they_have_in_the_file():
    kinds = {"net/enlarge;net/(a) b": "RESIZE_BILINEAR", "net/stem": "CONV_2D"}
    kinds["StatefulPartitionedCall:0"] = "RESIZE_BILINEAR"
    counts = ethos_u.cpu_operators(PRINTED, kinds)
    assert counts == {"RESIZE_BILINEAR": 2, "Softmax": 1}
    none = "CPU operators = 0 (0.0%)\nNPU operators = 1 (100.0%)\n"
    assert ethos_u.cpu_operators(none, kinds) == {}


@pytest.mark.parametrize(
    "printed", ["", PRINTED.replace("= 3 (", "= 4 ("), PRINTED.replace("CPU: Soft", "Soft")]
)
def test_incomplete_list_of_cpu_operators_is_an_error(printed):
    """Else an operator on the CPU could be missed if the form of vela's output changes."""
    with pytest.raises(ValueError):
        ethos_u.cpu_operators(printed, {})


def test_summary_is_converted_to_milliseconds_and_kilobytes():
    row = ethos_u.read_summary(SUMMARY)
    assert row["milliseconds"] == 4.25 and row["mhz"] == 500
    assert row["sram_kb"] == 256.0  # 250 KiB
    assert row["flash_kb"] == 1025.5  # 1001.5 KiB on both kinds of flash
    assert row["dram_kb"] == 0 and row["memory_mode"] == "Shared_Sram"


def test_table_lists_fallbacks_within_80_columns():
    row = {"file": "some.tflite", "mhz": 1000.0, "milliseconds": 1234.567, "sram_kb": 12345.6}
    row |= {"flash_kb": 0.0, "dram_kb": 123456.7}
    many = {f"A_LONG_OPERATOR_{k}": k + 1 for k in range(6)}
    text = ethos_u.table(
        [row | {"accelerator": name, "cpu_operators": many} for name in ethos_u.ACCELERATORS[:3]]
        + [row | {"accelerator": ethos_u.ACCELERATORS[3], "cpu_operators": {}}]
    )
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert "some.tflite" in lines[0] and "estimate" in lines[0]
    for name in ethos_u.ACCELERATORS:
        assert sum(line.startswith(name) for line in lines) == 1
    for kind, count in many.items():
        assert text.count(f"{count} {kind}") == 3
    (last,) = [line for line in lines if line.startswith(ethos_u.ACCELERATORS[3])]
    assert last.split()[1:] == ["1000", "1234.57", "12346", "0", "123457", "nothing"]


# --- the program ----------------------------------------------------------------------------


def test_estimate_runs_vela_for_every_accelerator_and_leaves_no_files(
    clean, program, files, monkeypatch
):
    notes = clean / "notes"
    vela = program(FAKE_VELA, notes=str(notes), summary=SUMMARY, printed=PRINTED)
    before = sorted(files.iterdir())
    monkeypatch.setenv("PATH", str(vela.parent))
    monkeypatch.chdir(files)
    rows = ethos_u.estimate(files.relative_to(files) / "int8.tflite")
    calls = [line.split("\t") for line in notes.read_text().splitlines()]
    assert [line[line.index("--accelerator-config") + 1] for line in calls] == [
        "ethos-u55-128",
        "ethos-u55-256",
        "ethos-u65-512",
        "ethos-u85-256",
    ]
    assert all(line[0] == str(files / "int8.tflite") for line in calls)
    assert all("--show-cpu-operations" in line for line in calls)
    # The third operator on the CPU in PRINTED writes the last tensor of the file.
    assert rows[1] == {
        "file": "int8.tflite",
        "accelerator": "ethos-u55-256",
        "mhz": 500,
        "memory_mode": "Shared_Sram",
        "milliseconds": 4.25,
        "sram_kb": 256.0,
        "flash_kb": 1025.5,
        "dram_kb": 0,
        "cpu_operators": {"Passthrough": 1, "Softmax": 1, "DEPTH_TO_SPACE": 1},
    }
    assert sorted(files.iterdir()) == before
    assert list((clean / "nowhere").iterdir()) == []  # the temporary folder


def test_variable_vela_has_priority_over_the_path(clean, program, monkeypatch):
    vela = program(FAILING_VELA)
    monkeypatch.setenv("PATH", str(vela.parent))
    assert ethos_u.find_vela() == str(vela)
    other = vela.with_name("other")
    vela.rename(other)
    monkeypatch.setenv("VELA", str(other))
    assert ethos_u.find_vela() == str(other)
    monkeypatch.delenv("VELA")
    with pytest.raises(UserError):
        ethos_u.find_vela()


# --- errors ---------------------------------------------------------------------------------


def error_of(path):
    """The message of the error for a file, which is one line."""
    with pytest.raises(UserError) as caught:
        ethos_u.estimate(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_vela_the_error_says_how_to_install_it(clean, files, monkeypatch):
    message = error_of(files / "int8.tflite")
    assert (
        "ethos-u-vela" in message
        and f"{commands.python()} -m venv" in message
        and "export VELA=" in message
    )
    monkeypatch.setenv("VELA", str(clean / "gone"))
    assert f"VELA names {clean / 'gone'}" in error_of(files / "int8.tflite")


def test_other_files_are_error_of(program, files, tmp_path, monkeypatch):
    monkeypatch.setenv("VELA", str(program(FAILING_VELA)))
    assert "is not an int8 .tflite file" in error_of(files / "float32.tflite")
    (tmp_path / "model.h5").touch()
    assert "is not an int8 .tflite file" in error_of(tmp_path / "model.h5")
    assert "is missing" in error_of(files / "none.tflite")
    (tmp_path / "junk.tflite").write_bytes(b"junk" * 100)
    assert "cannot be read as a .tflite file" in error_of(tmp_path / "junk.tflite")
    message = error_of(files / "int8.tflite")
    assert "vela failed" in message and "RuntimeError: no such thing" in message
    assert "ethos-u55-128" in message


def test_vela_of_another_version_is_an_error(clean, program, files, monkeypatch):
    for summary, printed in ((SUMMARY, ""), ("a,b\n1,2\n", PRINTED), ("", PRINTED)):
        notes = str(clean / "notes")
        vela = program(FAKE_VELA, notes=notes, summary=summary, printed=printed)
        monkeypatch.setenv("VELA", str(vela))
        assert f"ethos-u-vela=={ethos_u.VERSION}" in error_of(files / "int8.tflite")
    broken = vela.with_name("broken")
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    monkeypatch.setenv("VELA", str(broken))
    assert "vela failed" in error_of(files / "int8.tflite")


def test_script_prints_the_table_and_writes_nothing(program, files, tmp_path, monkeypatch, capsys):
    notes = str(tmp_path / "notes")
    vela = program(FAKE_VELA, notes=notes, summary=SUMMARY, printed=PRINTED)
    monkeypatch.setenv("VELA", str(vela))
    before = sorted(files.iterdir())
    flags = ["--models-dir", str(files), "--model", str(files / "int8.tflite")]
    assert evaluation.main([*flags, "--npu"]) == 0
    assert capsys.readouterr().out == ethos_u.table(ethos_u.estimate(files / "int8.tflite")) + "\n"
    assert sorted(files.iterdir()) == before
    with pytest.raises(UserError, match=r"int8_quantized_model\.tflite is missing; .*python"):
        evaluation.main(["--models-dir", str(files), "--npu"])


# --- the real vela ----------------------------------------------------------------------------


@pytest.fixture
def vela():
    try:
        return ethos_u.find_vela()
    except UserError:
        missing("the package ethos-u-vela is not installed (or VELA does not name its program)")


@pytest.mark.slow
def test_no_operator_of_the_network_falls_back(vela, tmp_path):
    keras.utils.set_random_seed(0)
    calibration = np.random.default_rng(0).random((2, 128, 128, 3), np.float32)
    path = tmp_path / "int8.tflite"
    path.write_bytes(
        convert.convert(networks.compact_unet((128, 128), 3, 1.0), "int8", calibration)
    )
    rows = ethos_u.estimate(path)
    assert [row["accelerator"] for row in rows] == list(ethos_u.ACCELERATORS)
    assert [row["cpu_operators"] for row in rows] == [{}] * 4
    for row in rows:
        assert 0.1 < row["milliseconds"] < 100 and 100 < row["sram_kb"] < 1000
        assert row["flash_kb"] + row["dram_kb"] > 1000  # 1.1 million weights are in one of them
    assert rows[1]["milliseconds"] < rows[0]["milliseconds"]  # it has twice the multipliers
    assert os.listdir(tmp_path) == ["int8.tflite"]


def test_depth_to_space_falls_back(vela, files):
    """No Ethos-U supports it, so the network uses reshape, transpose and reshape instead."""
    for row in ethos_u.estimate(files / "int8.tflite"):
        assert row["cpu_operators"] == {"DEPTH_TO_SPACE": 1}
