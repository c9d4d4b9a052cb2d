"""What the stages hand to each other: the one place for paths, atomic files, records.

A stage writes its artifact under a temporary name and renames it, and writes a record beside it
(`original_model.h5.json`): settings, hashes of code and inputs, versions, wall time, metrics.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.base.console import UserError
from pipeline.variants import VARIANTS

ROOT = Path(__file__).resolve().parents[2]
MODELS_DIR = ROOT / "models"

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
        "dataset.jpg",
        *("original_training.csv", "original_training.png"),
        *("pruned_training.csv", "pruned_training.png", "pruned_channels.csv"),
        *("qat_training.csv", "int8_sensitivity.csv", "int8_sensitivity.png"),
        "evaluation.csv",
    }
)
KERAS_MODELS = ("original", "pruned")
MODELS = (*KERAS_MODELS, *VARIANTS)  # every row of the tables, in their order
RECORD_KEYS: dict[str, type | tuple[type, ...]] = {  # what every record has
    "sha256": str,
    **dict.fromkeys(("inputs", "settings", "code", "versions", "metrics"), dict),
    "wall_seconds": (int, float),
}


# --- files --------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside `path`, renamed to it only if the block succeeds.

    The name keeps the suffix, because Keras picks the format by it. A rename within a folder is
    atomic (POSIX `rename`), so that a killed run leaves the old file or the new one.

    Raises:
        UserError: a library could not write; NumPy and Pillow do not say what the system said.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    sweep(path.parent, path.stem)
    try:
        yield temporary
        with temporary.open("rb+") as file:  # Windows syncs no file that is open for reading
            os.fsync(file.fileno())  # before the name: after a power cut, too, old or new
        os.replace(temporary, path)
    except OSError as error:
        if error.strerror:
            raise
        raise UserError(f"{path} cannot be written ({error}); is the disk full?") from None
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path, stem: str = "*") -> None:
    """Removes temporary files (of this stem) of processes that were killed while they wrote."""
    for leftover in folder.glob(f".{stem}.*.*"):
        writer = leftover.name.split(".")[-2]
        if writer.isdecimal() and not is_running(int(writer)):
            leftover.unlink(missing_ok=True)


def is_running(process: int) -> bool:
    """Whether a process of this number lives, other than this one."""
    if process == os.getpid():
        return False
    import psutil  # here: 0.05 s, which is needed only where something was left behind

    try:
        return psutil.pid_exists(process)
    except OverflowError:  # larger than any process number
        return False


def write_json(path: Path, content: Any) -> None:
    """Writes `content` as indented JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes rows as a table, atomically; what one lacks stays empty."""
    with (
        atomic(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="replace", newline="") as file,
    ):
        writer = csv.DictWriter(file, dict.fromkeys(key for row in rows for key in row))
        writer.writeheader()
        writer.writerows(rows)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


# --- paths and records --------------------------------------------------------------------


def artifact_path(models_dir: Path, name: str) -> Path:
    """Where the artifact called `name` lies (see ARTIFACTS)."""
    return models_dir / ARTIFACTS[name][0]


def command(name: str, models_dir: Path) -> str:
    """The command that makes an artifact, ready to be pasted where the user is."""
    script = Path(ARTIFACTS[name][1])
    if Path.cwd() != ROOT:
        script = ROOT / script
    default = models_dir.resolve() == MODELS_DIR
    where = "" if default else f" --models-dir {shlex.quote(str(models_dir))}"
    return f"python {shlex.quote(str(script))}{where}"


def remedy(path: Path) -> str:
    """How to get a model file that is missing or damaged."""
    names = [name for name, (file, _) in ARTIFACTS.items() if file == path.name]
    return f"make it with: {command(names[0], path.parent)}" if names else "name another file"


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


def read_record(models_dir: Path, name: str) -> dict[str, Any]:
    """The record of an artifact.

    Raises:
        UserError: artifact or record is missing, or the record is none of this pipeline's.
    """
    record = record_path(models_dir, name)
    for path in (artifact_path(models_dir, name), record):
        if not path.exists():
            raise UserError(f"{path} is missing; make it with: {command(name, models_dir)}")
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):  # no UTF-8, no JSON, or nested without end
        content = None
    fault = "damaged"
    if isinstance(content, dict):
        whole = content.pop("seal", None) in (None, seal(content))  # older ones have none
        if whole and all(isinstance(content.get(key), kind) for key, kind in RECORD_KEYS.items()):
            return content
        fault = "of another version of this pipeline" if whole else "damaged, or edited by hand"
    raise UserError(f"{record} is {fault}; make it anew with: {command(name, models_dir)}")


def is_recorded(path: Path) -> bool:
    """Whether a file is the one that the record beside it is of."""
    try:
        record = path.with_name(path.name + ".json").read_text(encoding="utf-8")
        digest = json.loads(record)["sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
    return digest == sha256(path)


def refuse_changed(path: Path) -> None:
    """Raises UserError if a file has a record beside it and is not what that says."""
    if path.is_file() and path.with_name(f"{path.name}.json").exists() and not is_recorded(path):
        raise UserError(f"{path} was changed after it was made; {remedy(path)}")


def dictionary(value: Any) -> dict[str, Any]:
    """The value if it is a dictionary, else an empty one."""
    return value if isinstance(value, dict) else {}


def sidecar_hashes(record: dict[str, Any]) -> dict[str, str]:
    """SHA-256 by name of the files beside an artifact: those made with it and those drawn after."""
    drawn = dictionary(dictionary(record.get("drawn")).get("files"))
    names = {**dictionary(record.get("beside")), **drawn}
    return {name: digest for name, digest in names.items() if Path(name).name == name}


def written_beside(models_dir: Path, name: str) -> set[str]:
    """Names of the files in the folder that belong to an artifact and were not changed since."""
    try:
        hashes = sidecar_hashes(read_record(models_dir, name))
    except UserError:
        return set()
    return {file for file, digest in hashes.items() if is_file_of(models_dir / file, digest)}


def is_file_of(path: Path, digest: str) -> bool:
    """Whether there is a file of this SHA-256."""
    return path.is_file() and sha256(path) == digest


def changed_companion(models_dir: Path, name: str, record: dict[str, Any]) -> str | None:
    """A file that was made with an artifact, and that is missing or was changed; None if none is.

    Charts and tables do not count.
    """
    for file, digest in sidecar_hashes(record).items():
        if file not in DRAWN and not is_file_of(models_dir / file, digest):
            return file
    return None


def stale_reason(models_dir: Path, name: str) -> str | None:
    """Why an artifact is stale, with the command that mends it; None if it is up to date.

    Stale means: it, or an input of it, was made from something other than what lies there now.

    Raises:
        UserError: as `read_record`, for the artifact or an input of it.
    """
    record = read_record(models_dir, name)
    path, remedy = artifact_path(models_dir, name), command(name, models_dir)
    if name != "dataset" and sha256(path) != record["sha256"]:
        return f"{path} was changed after it was made; make it anew with: {remedy}"
    for source, digest in record["inputs"].items():
        if source not in ARTIFACTS:  # a folder of pictures: the stage that reads it asks
            continue
        if read_record(models_dir, source)["sha256"] != digest:
            other = artifact_path(models_dir, source).name
            return f"{path} was made from another {other}; make it anew with: {remedy}"
        if reason := stale_reason(models_dir, source):
            return reason
    return None
