"""Read .npz files that may be damaged."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from pipeline.base.archives import ZIP_ERRORS


def read_npz(path: Path | io.BytesIO) -> dict[str, np.ndarray] | None:
    """Returns all arrays of an .npz file by name; None if it is missing, damaged or no .npz file.

    Which arrays there are, and their shapes and dtypes, is for the caller to check.
    """
    try:
        archive = np.load(path)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            return None
        with archive:
            arrays = {name: archive[name] for name in archive.files}
    except ZIP_ERRORS:
        return None
    # NumPy gives an entry that is no array as bytes.
    return arrays if all(isinstance(array, np.ndarray) for array in arrays.values()) else None
