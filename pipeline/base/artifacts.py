"""What the stages hand to each other: the one place for paths and records.

A stage writes its artifact under a temporary name and renames it, and writes a record beside it
(`original_model.h5.json`): settings, hashes of code and inputs, versions, wall time, metrics.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.base import commands, ownership
from pipeline.base.console import UserError
from pipeline.base.files import CHANGED, MISSING, fault_of, is_plain, write_json
from pipeline.variants import VARIANTS

ROOT = commands.ROOT
MODELS_DIR = ROOT / "models"
PRETRAINED_DIR = MODELS_DIR / "pretrained"  # comes with the project; no stage writes there

# Artifact: (file under the models folder, script that writes it).
ARTIFACTS = {
    "dataset": ("dataset/dataset.json", "data_preparation.py"),
    "original": ("original_model.h5", "training.py"),
    "pruned": ("pruned_model.h5", "pruning.py"),
    **{name: (variant.file, "quantization.py") for name, variant in VARIANTS.items()},
    "evaluation": ("evaluation.json", "evaluation.py"),
    "report": ("report.html", "evaluation.py"),
}
# Charts and tables beside the artifacts. They are drawn from a record: one that is missing or was
# edited is drawn again, and reruns nothing.
DRAWN = frozenset(
    {
        *("dataset.jpg", "original_training.csv", "original_training.png", "augmented.jpg"),
        *("pruned_training.csv", "pruned_training.png", "pruned_channels.csv"),
        *("qat_training.csv", "int8_sensitivity.csv", "int8_sensitivity.png"),
        "evaluation.csv",
    }
)
KERAS_MODELS = ("original", "pruned")
MODELS = (*KERAS_MODELS, *VARIANTS)  # every row of the tables, in their order
UNRECORDED = "has no record"  # beside `files.CHANGED`, what may be wrong with a model file
RECORD_KEYS: dict[str, type | tuple[type, ...]] = {  # what every record has
    "sha256": str,
    **dict.fromkeys(("inputs", "settings", "code", "versions", "metrics"), dict),
    "wall_seconds": (int, float),
}


# --- paths and records --------------------------------------------------------------------


def artifact_path(models_dir: Path, name: str) -> Path:
    """Where the artifact called `name` lies (see ARTIFACTS)."""
    return models_dir / ARTIFACTS[name][0]


def made_by(script: str) -> list[str]:
    """Names of the artifacts that a script makes, by its file name."""
    return [name for name, (_, maker) in ARTIFACTS.items() if maker == script]


def command(name: str, models_dir: Path) -> str:
    """The command that makes an artifact, ready to be pasted where the user is."""
    elsewhere = models_dir.resolve() != MODELS_DIR
    where = ["--models-dir", commands.as_operand(models_dir)] if elsewhere else []
    return commands.command(ARTIFACTS[name][1], *where)


def way_to(name: str, models_dir: Path) -> str:
    """The command that makes an artifact, after one that keeps a file of the user's at its path."""
    if models_dir.resolve() == PRETRAINED_DIR:
        return commands.line("git", "checkout", "--", commands.as_operand(models_dir))
    paths = users_files([name], models_dir)
    return " && ".join([*ownership.keeping(paths), command(name, models_dir)])


def users_files(names: Iterable[str], models_dir: Path) -> list[Path]:
    """Files at the paths of these artifacts that this pipeline did not write.

    Only models and the data set's record count. Reports and tables are written again as ever.
    """
    is_ours = {"dataset": ownership.is_record, **dict.fromkeys(MODELS, ownership.is_ours)}
    paths = {name: artifact_path(models_dir, name) for name in names if name in is_ours}
    return [path for name, path in paths.items() if not is_ours[name](path)]


def remedy(path: Path) -> str:
    """How to get a model file that is missing or damaged."""
    names = [name for name, (file, _) in ARTIFACTS.items() if file == path.name]
    return f"make it with: {way_to(names[0], path.parent)}" if names else "name another file"


def record_path(models_dir: Path, name: str) -> Path:
    """The record beside an artifact. The data set's is `dataset.json` itself."""
    path = artifact_path(models_dir, name)
    return path if name == "dataset" else path.with_name(path.name + ".json")


def seal(record: dict[str, Any]) -> str:
    """SHA-256 of all that a record says: a damaged one must not pass for a good one."""
    plain = json.loads(json.dumps(record))  # as it will be read: lists for tuples
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Writes a record and its seal, atomically."""
    record = {key: value for key, value in record.items() if key != "seal"}
    write_json(path, record | {"seal": seal(record)})


def read_record(models_dir: Path, name: str) -> Record:
    """The record of an artifact.

    Raises:
        UserError: artifact or record is missing, or the record is none of this pipeline's.
    """
    artifact, record = artifact_path(models_dir, name), record_path(models_dir, name)
    for path in (artifact, record):
        if path.exists():
            continue
        fault = f"{path} is missing; make it with"
        if path != artifact and users_files([name], models_dir):
            fault = (
                f"{artifact} has no record beside it, so it is not of this pipeline; keep it under "
                "another name and make one with"
            )
        raise UserError(f"{fault}: {way_to(name, models_dir)}")
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):  # no UTF-8, no JSON, or nested without end
        content = None
    fault = "damaged"
    if isinstance(content, dict):
        whole = content.pop("seal", None) in (None, seal(content))  # older ones have none
        if whole and all(isinstance(content.get(key), kind) for key, kind in RECORD_KEYS.items()):
            return Record(models_dir, name, content)
        fault = "of another version of this pipeline" if whole else "damaged, or edited by hand"
    raise UserError(f"{record} is {fault}; make it anew with: {way_to(name, models_dir)}")


class Record(Mapping[str, Any]):
    """What a stage noted of an artifact, as it lies in the record's file. Read-only.

    It holds the hashes of the artifact's files, the identity of the run (settings, inputs, code,
    versions), metrics, and what charts and tables are drawn from, as the history of a training.
    """

    def __init__(self, models_dir: Path, name: str, content: Mapping[str, Any]) -> None:
        self._models_dir, self._name, self._content = models_dir, name, content

    def __getitem__(self, key: str) -> Any:
        return self._content[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)

    @property
    def files(self) -> dict[Path, str]:
        """SHA-256 of every file that the artifact consists of."""
        path = artifact_path(self._models_dir, self._name)
        made = dictionary(self.get("beside")).items()
        hashes = {name: digest for name, digest in made if name not in DRAWN}
        if self._name == "dataset":  # its arrays and its list; the artifact itself is this record
            shards = dictionary(self.get("files")).values()
            listing = self.get("listing")
            hashes |= dict(itertools.chain(*shards, [listing] if listing else []))
        else:
            hashes[path.name] = self["sha256"]
        return {path.with_name(name): hashes[name] for name in hashes if is_plain(name)}

    @property
    def drawn(self) -> dict[str, str]:
        """SHA-256 of the charts and tables that belong to the artifact, by name."""
        older = dictionary(self.get("beside"))  # older versions drew them with the artifact
        now = dictionary(dictionary(self.get("drawn")).get("files"))
        hashes = {**{name: older[name] for name in DRAWN & older.keys()}, **now}
        return {name: digest for name, digest in hashes.items() if is_plain(name)}

    def fault(self) -> str | None:
        """What is wrong with the first file of the artifact that is not whole; None if all are."""
        faults = ((path.name, fault_of(path, digest)) for path, digest in self.files.items())
        return next((f"{name} {fault}" for name, fault in faults if fault), None)

    def rewrite(self, **changes: Any) -> None:
        """Writes the record with other values in some places; this object stays as it is."""
        write_record(record_path(self._models_dir, self._name), {**self, **changes})

    def unchanged_files(self) -> set[Path]:
        """Files of the artifact, its charts and tables that are as they were made."""
        drawn = {self._models_dir / name: digest for name, digest in self.drawn.items()}
        both = {**self.files, **drawn}.items()
        return {path for path, digest in both if not fault_of(path, digest)}


def refuse_foreign(names: Iterable[str], models_dir: Path, command: str) -> None:
    """Raises UserError if a stage would replace a file of the user's, see `users_files`.

    Args:
        names: of the artifacts that the stage writes.
        command: of the stage, which goes on once the files have other names.
    """
    if paths := users_files(names, models_dir):
        raise UserError(ownership.refusal(paths, command))


def claim(path: Path, temporary: Path, record: dict[str, Any]) -> None:
    """Notes that a new model, which is put in place next, is ours.

    Args:
        path: where the model will lie.
        temporary: where it lies.

    Raises:
        UserError: a file of the user's appeared at the path meanwhile. The model and its record
            are kept under another name; the message has the commands that put them in place.
    """
    if ownership.is_ours(path):
        ownership.note(path, record["sha256"])
        return
    other = ownership.free_name(path, "after")
    temporary.replace(other)
    write_record(ownership.record_beside(other), record)
    steps = [*ownership.keeping([path]), commands.move(other, path)]
    steps += [commands.move(*map(ownership.record_beside, (other, path)))]
    raise UserError(
        f"{path} was put there by somebody else meanwhile and stays; the new model is {other}; to "
        f"use it: {' && '.join(steps)}"
    )


def put_record(models_dir: Path, name: str, content: dict[str, Any]) -> None:
    """Puts the record of an artifact in place, whose files are there, and thereby the artifact.

    Files of the artifact that it replaces, and their charts and tables, are removed if nobody
    changed them: curves of a fine-tuning that the new one did not have, arrays of a data set.
    """
    try:
        old_files = read_record(models_dir, name).unchanged_files()
    except UserError:
        old_files = set()
    write_record(record_path(models_dir, name), content)
    for path in old_files - Record(models_dir, name, content).files.keys():
        path.unlink(missing_ok=True)
    if name in MODELS:
        ownership.settle(models_dir)


def fault_beside(path: Path) -> str | None:
    """What is wrong with a file by the record beside it, as `fault_of`; UNRECORDED without one."""
    if not path.is_file():
        return MISSING
    record = path.with_name(f"{path.name}.json")
    try:
        return fault_of(path, json.loads(record.read_text(encoding="utf-8"))["sha256"])
    except FileNotFoundError:
        return UNRECORDED
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return CHANGED


def refuse_changed(path: Path) -> None:
    """Raises UserError if a file has a record beside it and is not what that says."""
    if fault_beside(path) == CHANGED:
        raise UserError(f"{path} {CHANGED}; {remedy(path)}")


def dictionary(value: Any) -> dict[str, Any]:
    """A mapping as a dictionary; anything else as an empty one."""
    return dict(value) if isinstance(value, Mapping) else {}


def stale_reason(models_dir: Path, name: str) -> str | None:
    """Why an artifact is stale, with the command that mends it; None if it is up to date.

    Stale means: it, or an input of it, was made from something other than what lies there now.

    Raises:
        UserError: as `read_record`, for the artifact or an input of it.
    """
    record = read_record(models_dir, name)
    path, remedy = artifact_path(models_dir, name), way_to(name, models_dir)
    if name != "dataset" and fault_of(path, record["sha256"]):
        return f"{path} {CHANGED}; make it anew with: {remedy}"
    for source, digest in record["inputs"].items():
        if source not in ARTIFACTS:  # a folder of pictures: the stage that reads it asks
            continue
        if read_record(models_dir, source)["sha256"] != digest:
            other = artifact_path(models_dir, source).name
            return f"{path} was made from another {other}; make it anew with: {remedy}"
        if reason := stale_reason(models_dir, source):
            return reason
    return None
