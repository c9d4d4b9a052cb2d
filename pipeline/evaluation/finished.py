"""Finished evaluations: the one that a new one replaces is kept, that of another folder is read."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.base.artifacts import (
    ARTIFACTS,
    MODELS,
    PRETRAINED_DIR,
    artifact_path,
    command,
    dictionary,
    read_record,
)
from pipeline.base.console import UserError, say
from pipeline.base.files import atomic, fault_of
from pipeline.base.stage import Stage
from pipeline.data.npz import read_npz

NUMBERS_FILE = ARTIFACTS["evaluation"][0]
COUNTS_FILE = "counts_per_image.npz"  # by model, as `iou.class_counts`
PREVIOUS_FILES = ("evaluation.previous.json", "evaluation.previous.npz")


class Finished(NamedTuple):
    """A finished evaluation."""

    numbers: dict[str, Any]  # the content of evaluation.json
    counts: dict[str, np.ndarray]  # by model, as `iou.class_counts`


class Kept(NamedTuple):
    """The evaluation that a new one is compared with, and the SHA-256 of its two files."""

    evaluation: Finished | None = None
    digests: tuple[str, ...] = ()


def keep(stage: Stage) -> Kept:
    """Copies the evaluation that is about to be replaced to PREVIOUS_FILES. Raises nothing.

    It is called before the new one is put in place, so that a stop in between loses neither. A
    run that was stopped while it put its files in place may have replaced some of them: the record
    still names the old ones, which then are the copies. An evaluation that only measures the same
    files again, by the same code, keeps the one before.

    Returns:
        An empty one if there is none; a note is printed if it is damaged or cannot be copied.
    """
    folder = stage.models_dir
    try:
        record = read_record(folder, "evaluation")
    except UserError:
        return Kept()
    digests = (record["sha256"], dictionary(record.get("beside")).get(COUNTS_FILE, ""))
    if stage.is_this_run(record):
        digests = tuple(record.get("previous") or ())
    if not digests:
        return Kept()
    try:
        contents = [
            whole(folder, names, digest)
            for names, digest in zip(zip((NUMBERS_FILE, COUNTS_FILE), PREVIOUS_FILES), digests)
        ]
        for name, content in zip(PREVIOUS_FILES, contents):
            with atomic(folder / name) as path:
                path.write_bytes(content)
        return Kept(parsed(*contents), digests)
    except (UserError, OSError, ValueError, RecursionError) as error:
        say(f"note: nothing is compared with the evaluation before: {error}")
        return Kept()


def put(stage: Stage, finished: Finished, before: Kept) -> None:
    """Puts a new evaluation in place; its record names the one before.

    Args:
        before: what `keep` returned, right before.
    """
    with stage.new_artifact(
        "evaluation", {}, tables={"previous": list(before.digests)}, companions=(COUNTS_FILE,)
    ) as (numbers, counts):
        numbers.write_text(json.dumps(finished.numbers, indent=1) + "\n", encoding="utf-8")
        np.savez_compressed(counts, allow_pickle=False, **finished.counts)


def whole(folder: Path, names: tuple[str, str], digest: str) -> bytes:
    """The content of the first of these files that has this SHA-256; raises UserError."""
    for name in names:
        path = folder / name
        if path.is_file():
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() == digest:
                return content
    raise UserError(f"{folder / names[0]} is damaged, or was changed after it was made")


def parsed(numbers: bytes, counts: bytes) -> Finished:
    """An evaluation from the content of its two files; raises ValueError if one is damaged."""
    content, arrays = json.loads(numbers), read_npz(io.BytesIO(counts))
    if not isinstance(content, dict) or arrays is None:
        raise ValueError("its files are damaged")
    return Finished(content, arrays)


def of_folder(folder: Path, seen_from: Path) -> Finished:
    """The finished evaluation of another models folder, whose model files are as it found them.

    Args:
        seen_from: the present models folder.

    Raises:
        UserError: there is none, or it is not finished, or a file was changed since, or its
            classes are others.
    """
    if not folder.is_dir():
        raise UserError(f"--against {folder}: there is no such folder")
    if folder.resolve() == seen_from.resolve():
        raise UserError(
            f"--against {folder} is the models folder itself; name a copy of an earlier state, "
            "as made with: cp -r models models_before"
        )
    if folder.resolve() == PRETRAINED_DIR:
        raise UserError(f"--against {folder}: the model that comes with the project is no run")
    if not any(artifact_path(folder, name).exists() for name in ("dataset", *MODELS)):
        raise UserError(
            f"--against {folder} is no models folder: it holds neither models nor a data set"
        )
    record, remedy = read_record(folder, "evaluation"), command("evaluation", folder)
    fault = record.fault()
    for name, digest in record["inputs"].items():
        if name in MODELS and not fault:
            path = artifact_path(folder, name)
            if reason := fault_of(path, digest):
                fault = f"{path.name} {reason.replace('made', 'measured')}"
    if fault:
        raise UserError(f"--against {folder}: {fault}; measure it again with: {remedy}")
    try:
        there = here(folder)
        classes = there.numbers["dataset"]["class_names"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"--against {folder}: {error}; measure it again with: {remedy}") from None
    ours = read_record(seen_from, "dataset")["class_names"]
    if classes != ours:
        raise UserError(
            f"--against {folder}: its classes are {', '.join(classes)}, and here they are "
            f"{', '.join(ours)}; such models cannot be compared"
        )
    return there


def here(models_dir: Path) -> Finished:
    """The evaluation of a folder; raises OSError, or ValueError as `parsed`."""
    files = [(models_dir / name).read_bytes() for name in (NUMBERS_FILE, COUNTS_FILE)]
    return parsed(*files)


# --- the test pictures ----------------------------------------------------------------------


def test_pictures(models_dir: Path) -> str:
    """A SHA-256 of the pictures and masks of the test split, whatever the other splits hold."""
    files = read_record(models_dir, "dataset")["files"]
    parts = [digest for kind in ("images", "masks") for _, digest in files[f"test_{kind}"]]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def reads(models_dir: Path, pictures: str, fingerprint: str) -> dict[str, int]:
    """How often this folder's models were measured on a test split, this time included.

    The number is carried from one evaluation.json to the next, and with a copy of the folder.

    Args:
        pictures: of the test split, as from `test_pictures`.
        fingerprint: of the data set. An evaluation of it by an older version, which did not count,
            is one time.

    Returns:
        By `test_pictures`, this one and those that were measured here before.
    """
    found: dict[str, int] = {}
    for name in (NUMBERS_FILE, PREVIOUS_FILES[0]):
        try:
            content = dictionary(json.loads((models_dir / name).read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError):
            continue
        same_data = dictionary(content.get("dataset")).get("fingerprint") == fingerprint
        uncounted = {pictures: 1} if same_data else {}
        for key, number in dictionary(content.get("test_reads", uncounted)).items():
            if isinstance(number, int):
                found[key] = max(number, found.get(key, 0))
    return found | {pictures: found.get(pictures, 0) + 1}
