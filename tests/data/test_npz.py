"""An .npz file is read whole or not at all, whatever happened to it."""

import zipfile

import numpy as np
import pytest

from pipeline.data.npz import read_npz

ARRAYS = {"text": np.array('{"a": 1}'), "counts": np.arange(24, dtype=np.int32).reshape(2, 3, 4)}


@pytest.fixture(params=[np.savez, np.savez_compressed], ids=["stored", "compressed"])
def path(request, tmp_path):
    target = tmp_path / "arrays.npz"
    request.param(target, **ARRAYS)
    return target


def test_arrays_are_read_back(path):
    arrays = read_npz(path)
    assert arrays.keys() == ARRAYS.keys()
    assert str(arrays["text"]) == '{"a": 1}'
    np.testing.assert_array_equal(arrays["counts"], ARRAYS["counts"])


@pytest.mark.parametrize("seed", range(3))
def test_damaged_file_gives_none_or_the_arrays(path, seed):
    """Bytes are changed, ranges removed, the file cut short; no exception may come through."""
    random, content = np.random.default_rng(seed), path.read_bytes()
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        start, end = np.sort(random.integers(0, len(content) + 1, 2))
        kind = random.integers(3)
        if kind == 0:
            del damaged[start:end]
        elif kind == 1:
            del damaged[start:]
        else:
            for position in random.integers(0, len(content), 3):
                damaged[position] = random.integers(256)
        path.write_bytes(damaged)
        arrays = read_npz(path)
        refused += arrays is None
        for name, array in (arrays or {}).items():
            assert isinstance(array, np.ndarray), name
    assert refused > 200, "most damage is found"


def test_missing_file_folder_array_file_and_other_zip_give_none(tmp_path):
    assert read_npz(tmp_path / "missing.npz") is None
    assert read_npz(tmp_path) is None
    with (tmp_path / "single.npz").open("wb") as file:
        np.save(file, ARRAYS["counts"])
    assert read_npz(tmp_path / "single.npz") is None
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("text", "no array")
    assert read_npz(tmp_path / "text.npz") is None
    np.savez(tmp_path / "objects.npz", objects=np.array([{}], object))  # would need pickle
    assert read_npz(tmp_path / "objects.npz") is None


def test_error_in_our_own_code_is_no_damaged_file(path, monkeypatch):
    def broken(_):
        raise TypeError("a bug")

    monkeypatch.setattr(np, "load", broken)
    with pytest.raises(TypeError, match="a bug"):
        read_npz(path)
