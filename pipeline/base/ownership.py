"""Which model files this pipeline wrote. Any other file is the user's, and is never replaced.

A file is ours if its SHA-256 stands in the record beside it. A run that is killed after its files
are in place and before its record is leaves a note of their hashes, which counts as well.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.base.commands import move
from pipeline.base.files import current_sha256, fault_of, write_json

NOTE = ".unrecorded_files.json"  # in a models folder: SHA-256 by name of a file without its record

RECORD_KEYS = ("sha256", "fingerprint", "split_rules", "wall_seconds")  # of the data set's record


def record_beside(path: Path) -> Path:
    """The record of a file that is not the data set."""
    return path.with_name(f"{path.name}.json")


def is_ours(path: Path) -> bool:
    """Whether this pipeline wrote what lies at a path; True also if nothing does."""
    if not os.path.lexists(path):
        return True
    try:
        digest = current_sha256(path)
    except OSError:  # a folder, as TensorFlow saves models; a link to nothing; not readable
        return False
    return noted(path.parent).get(path.name) == digest or digest in recorded(path)


def recorded(path: Path) -> set[str]:
    """The SHA-256 that the record beside a file says the file has; also if the record is damaged.

    A damaged one still has it, or half of the digits. It is searched as text, therefore.
    """
    try:
        text = record_beside(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    return set(re.findall(r'"sha256":\s*"([0-9a-f]{64})"', text))


def is_record(path: Path) -> bool:
    """Whether a JSON file is a record of ours, whole or damaged; True also if nothing is there."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return not os.path.lexists(path)
    return not text.strip("\0 \n") or any(f'"{key}":' in text for key in RECORD_KEYS)


# --- the note of a run ----------------------------------------------------------------------


def noted(models_dir: Path) -> dict[str, Any]:
    """SHA-256 by name of the files whose record may be missing; {} if there is no good note."""
    try:
        content = json.loads((models_dir / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def note(path: Path, digest: str) -> None:
    """Notes the SHA-256 of a file that is put in place next, and whose record comes last."""
    write_json(path.with_name(NOTE), {**noted(path.parent), path.name: digest})


def settle(models_dir: Path) -> None:
    """Removes from the note what no longer counts, because the record of the file is in place."""
    before = noted(models_dir)
    paths = {name: models_dir / name for name in before if Path(name).name == name}
    left = {
        name: before[name]
        for name, path in paths.items()
        if before[name] not in recorded(path) and not fault_of(path, before[name])
    }
    if not left:
        (models_dir / NOTE).unlink(missing_ok=True)
    elif left != before:
        write_json(models_dir / NOTE, left)


# --- files of the user ----------------------------------------------------------------------


def keeping(paths: Iterable[Path]) -> list[str]:
    """Commands that give files of the user another name."""
    return [move(path, free_name(path, "before")) for path in paths]


def free_name(path: Path, word: str) -> Path:
    """A path beside another one where nothing lies: model.before.h5, model.before2.h5 ..."""
    number = 1
    while True:
        suffix = f".{word}{number if number > 1 else ''}{path.suffix}"
        target = path.with_name(path.stem + suffix)
        if not os.path.lexists(target) and not os.path.lexists(record_beside(target)):
            return target
        number += 1


def refusal(paths: list[Path], command: str) -> str:
    """Why a stage does not begin, in one line with what keeps the files.

    Args:
        paths: files of the user where the stage writes.
        command: of the stage.
    """
    names = ", ".join(map(str, paths))
    several = len(paths) > 1
    them, were, stay = ("them", "were", "stay") if several else ("it", "was", "stays")
    return (
        f"{names} {were} not written by this pipeline, or {were} changed since, and {stay}; give "
        f"{them} another name and go on with: {' && '.join([*keeping(paths), command])}"
    )
