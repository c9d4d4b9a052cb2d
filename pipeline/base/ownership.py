"""Which model files this pipeline wrote. Any other file is the user's, and is never replaced.

A file is ours if its SHA-256 stands in the record beside it. A run that is killed after its files
are in place and before its record is leaves a note of their hashes, which counts as well.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.base.commands import move
from pipeline.base.console import UserError
from pipeline.base.files import atomic, current_sha256, write_json, write_lines

NOTE = ".unrecorded_files.json"  # in a models folder: SHA-256s by name of a file without a record

LIST = "SHA256SUMS"  # in a folder to hand over: the files that this pipeline wrote into it
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
    return digest in recorded(path) or digest in noted(path.parent).get(path.name, [])


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


def noted(models_dir: Path) -> dict[str, list[str]]:
    """SHA-256s by name of files whose record may be missing; {} if there is no good note.

    A name has several after several runs that were killed: the last one may have been killed before
    its file was in place.
    """
    try:
        content = json.loads((models_dir / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {name: digests for name, digests in content.items() if isinstance(digests, list)}


def note(path: Path, digest: str) -> None:
    """Notes the SHA-256 of a file that is put in place next, and whose record comes last."""
    before = noted(path.parent)
    write_json(path.with_name(NOTE), {**before, path.name: [*before.get(path.name, []), digest]})


def settle(models_dir: Path) -> None:
    """Removes from the note what no longer counts, because the record of the file is in place."""
    before = noted(models_dir)
    paths = {name: models_dir / name for name in before if Path(name).name == name}
    left = {
        name: before[name]
        for name, path in paths.items()
        if path.is_file() and current_sha256(path) not in recorded(path) and is_ours(path)
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


# --- folders to hand over -------------------------------------------------------------------


def listed(folder: Path) -> set[tuple[str, str]]:
    """Name and SHA-256 of each file in the list that lies in a folder; empty without a list."""
    try:
        lines = (folder / LIST).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    entries = (line.split("  ", 1) for line in lines if line.count("  "))
    return {(name, digest) for digest, name in entries}


def refuse_folder(folder: Path) -> None:
    """Raises UserError if files of the user would be mixed with ours or replaced by them.

    A folder is ours if all that it lists, as far as it is there, is as it was written. Files that
    it does not list may lie beside.
    """
    if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
        return
    entries = listed(folder)
    names = sorted({name for name, _ in entries if (folder / name).is_file()})
    changed = [name for name in names if (name, current_sha256(folder / name)) not in entries]
    if entries and not changed:
        return
    fault = f"{changed[0]} in it was changed" if changed else f"it has no list {LIST} of them"
    raise UserError(
        f"{folder} is not as this pipeline writes such a folder ({fault}); it stays. Name another "
        f"folder, or first: {move(folder, free_name(folder, 'before'))}"
    )


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes files, and the list of them, into a folder that is ours or new.

    The list comes first, with what lies there now and what comes, so that a folder is ours also
    after a run that was killed. `sha256sum -c SHA256SUMS` checks it.

    Args:
        files: content by path in the folder.

    Raises:
        UserError: as `refuse_folder`; or a file of the user's lies where one of ours belongs.
    """
    refuse_folder(folder)
    new = {(name, hashlib.sha256(content).hexdigest()) for name, content in files.items()}
    both = listed(folder) | new
    for name in files:
        path = folder / name
        if os.path.lexists(path) and not (path.is_file() and (name, current_sha256(path)) in both):
            raise UserError(
                f"{path} was not written by this pipeline and stays; first: "
                f"{move(path, free_name(path, 'before'))}"
            )
    write_list(folder, both)
    for name, content in files.items():
        with atomic(folder / name) as temporary:
            temporary.write_bytes(content)
    write_list(folder, new)


def write_list(folder: Path, entries: Iterable[tuple[str, str]]) -> None:
    """Writes the list of a folder's files as sha256sum does."""
    write_lines(folder / LIST, [f"{digest}  {name}" for name, digest in sorted(entries)])
