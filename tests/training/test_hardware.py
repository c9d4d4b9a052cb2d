"""The precision of a training: bfloat16 only on GPUs that support it."""

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
