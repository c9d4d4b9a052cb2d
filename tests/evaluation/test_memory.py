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
    assert 0 < growth < 200_000_000


def use_and_free_100_mb():
    np.ones(100_000_000, np.uint8).sum()


@pytest.mark.parametrize("growth_of", [memory.recorded_growth, memory.sampled_growth])
def test_growth_contains_memory_that_is_freed_again(growth_of):
    """By the kernel's record and, for systems without one, by samples."""
    if growth_of is memory.recorded_growth and not memory.reset_peak():
        pytest.skip("only Linux records the peak")
    assert 95e6 < growth_of(use_and_free_100_mb) < 150e6
