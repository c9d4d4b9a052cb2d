"""What a training runs on: what it says, and bfloat16 only on GPUs that support it."""

import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.base.lazy import tf
from pipeline.training import hardware


def gpu(capability):
    return {} if capability is None else {"compute_capability": capability}


@pytest.mark.parametrize(
    ("gpus", "policy"),
    [
        ([], "float32"),
        ([(8, 0)], "mixed_bfloat16"),
        ([(7, 5)], "float32"),
        ([(9, 0), (7, 5)], "float32"),
        ([None], "float32"),
    ],
)
def test_auto_is_bfloat16_only_if_all_gpus_support_it(monkeypatch, gpus, policy):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    monkeypatch.setattr(tf.config.experimental, "get_device_details", gpu)
    assert hardware.resolve_precision("auto") == policy
    assert hardware.resolve_precision("float32") == "float32"
    assert hardware.resolve_precision("bfloat16") == "mixed_bfloat16"


def said_of(monkeypatch, capsys, gpus, copies=1):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda gpu: {"device_name": gpu}
    )
    hardware.say_where(SimpleNamespace(num_replicas_in_sync=copies))
    return capsys.readouterr().out


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """The program's answer on a machine with the driver and a GPU; returns its path."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA T4 (UUID: GPU-1)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return program


def test_names_of_the_gpus_in_use_are_printed(monkeypatch, capsys):
    assert said_of(monkeypatch, capsys, ["T4", "A10"]) == "training on T4\n"
    assert said_of(monkeypatch, capsys, ["T4", "A10"], copies=2) == "training on T4, A10\n"
    several = said_of(monkeypatch, capsys, ["T4"], copies=3)
    assert several == "training on T4, and 2 devices of other machines\n"


def test_cores_are_printed_where_no_gpu_is(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert said_of(monkeypatch, capsys, []) in (
        "training on 1 CPU core\n",
        *(f"training on {number} CPU cores\n" for number in range(2, 513)),
    )


def test_gpu_that_tensorflow_does_not_see_is_noted_with_what_installs_its_libraries(
    monkeypatch, capsys, nvidia_smi
):
    note = said_of(monkeypatch, capsys, []).splitlines()[1]
    assert note.startswith("note: nvidia-smi lists a GPU that TensorFlow does not see; its CUDA")
    *_, requirements = shlex.split(note)
    pins = Path(requirements).read_text(encoding="utf-8")
    assert "-r requirements.txt" in pins and "nvidia-cudnn" in pins


@pytest.mark.parametrize("fault", ["hidden", "no driver", "no GPU", "hangs"])
def test_nothing_is_noted_without_a_gpu_to_be_had(monkeypatch, capsys, nvidia_smi, fault):
    if fault == "hidden":
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    elif fault == "hangs":
        monkeypatch.setattr(hardware, "NVIDIA_SECONDS", 0.2)
        nvidia_smi.write_text("#!/bin/sh\nexec sleep 5\n")
    else:
        end = "exit 9" if fault == "no driver" else "echo none"
        nvidia_smi.write_text(f"#!/bin/sh\n{end}\n")
    assert "note" not in said_of(monkeypatch, capsys, [])
