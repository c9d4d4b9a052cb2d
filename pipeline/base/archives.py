"""Which exceptions mean that a zip archive is damaged. NumPy's .npz files are zip archives, too."""

from __future__ import annotations

import struct
import zipfile
import zlib

# What zipfile and NumPy's reader on top of it raise for damaged bytes, found by changing single
# bytes, removing ranges and cutting files short. AttributeError, KeyError and TypeError are left
# out: they are errors in a program, and damage that the format allows, such as a missing entry or
# an array of another shape, is for the caller to check.
ZIP_ERRORS: tuple[type[Exception], ...] = (
    OSError,  # missing file, no permission; damaged bzip2 data
    ValueError,  # negative offset, name or JSON that is no UTF-8, JSON syntax, header of an array
    EOFError,  # ends within an entry
    RuntimeError,  # flags say "encrypted", unknown compression or version, JSON nested too deeply
    struct.error,  # record cut short
    zipfile.BadZipFile,
    zlib.error,
)
try:
    from lzma import LZMAError

    ZIP_ERRORS = (*ZIP_ERRORS, LZMAError)
except ImportError:  # Python built without liblzma: zipfile then raises RuntimeError
    pass
