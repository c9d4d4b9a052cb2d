"""Memory of a model in a separate process."""

import numpy as np
import pytest

from pipeline.base.artifacts import artifact_path
from pipeline.evaluation import memory
from pipeline.quantization.convert import convert
from tests.helpers.runs import SIZE
from tests.helpers.toy_networks import toy_network


def test_memory_growth_of_a_small_file_is_positive_and_small(tmp_path):
    model, calibration = toy_network()
    artifact_path(tmp_path, "int8").write_bytes(convert(model, "int8", calibration))
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    growth = memory.measure_memory(tmp_path, ("int8",), image)["int8"]
    if growth is None:
        pytest.skip("this system does not tell (no /proc)")
    assert 0 < growth < 200_000_000
