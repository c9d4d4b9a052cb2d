"""Text as the tools of all systems write it: UTF-8, or UTF-16 or UTF-32 with or without a mark."""

from __future__ import annotations

import codecs
import json
from pathlib import Path


def read_text(path: Path) -> str:
    """The content of a text file, without a byte-order mark.

    A byte that is not valid stands for itself (as Python has it in file names), so that a name in
    a list is found on disk whatever its encoding.

    Raises:
        OSError: the file cannot be read.
    """
    content = path.read_bytes()
    encoding = json.detect_encoding(content)  # by the mark, else by where bytes are 0
    if encoding.startswith("utf-8"):
        return content.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    return content.decode(encoding, "replace").removeprefix("\ufeff")


def lines_of(path: Path) -> list[str]:
    """The lines of a text file, with whatever ends they have."""
    return read_text(path).splitlines()


def with_slashes(name: str) -> str:
    """A path with "/" between its parts, as some tools write it with a backslash."""
    return name.replace("\\", "/")
