"""What the five stages share: paths, records, faults and the flags that every script has.

Each stage writes its artifact under a temporary name and renames it, and writes a record
beside it (`original_model.h5.json`): settings, seed, SHA-256 of the artifact and of every
input, package versions, wall time, metrics. The records answer two questions by content,
not by file time: is this artifact stale, and would running the stage again change anything?

Nothing slow is imported, so that asking is quick.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.metadata
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# TFMOT speaks Keras 2 only, and TensorFlow reads these variables once, when it is imported:
# every script therefore imports this module first.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # hides the INFO lines about CPU features

CLASSES = ("pet", "background", "border")
ROOT = Path(__file__).resolve().parent
MODELS_DIR = ROOT / "models"
SEED = 7

# The one place for paths. Artifact: (file under the models folder, script that writes it).
ARTIFACTS = {
    "dataset": ("dataset/dataset.json", "data_preparation.py"),
    "original": ("original_model.h5", "training.py"),
    "pruned": ("pruned_model.h5", "pruning.py"),
    "dynamic": ("dynamic_quantized_model.tflite", "quantization.py"),
    "int8": ("int8_quantized_model.tflite", "quantization.py"),
    "float16": ("float16_quantized_model.tflite", "quantization.py"),
    "float32": ("float32_model.tflite", "evaluation.py"),
    "pruned_float32": ("pruned_float32_model.tflite", "evaluation.py"),
    "evaluation": ("evaluation.json", "evaluation.py"),
}
PACKAGES = ("tensorflow", "tf-keras", "tensorflow-model-optimization", "tensorflow-datasets",
            "ai-edge-litert", "numpy")  # fmt: skip


class UserError(Exception):
    """A fault the user can mend. The message says what is wrong, where, and how to mend it."""


# --- the command line ---------------------------------------------------------------------


def argument_parser(doc: str) -> argparse.ArgumentParser:
    """A parser with a script's docstring as its help and the flags that all scripts share."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models-dir", type=Path, default=MODELS_DIR, metavar="DIR",
                        help="where artifacts are read and written (default: models/)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=SEED, help="random seed (default: %(default)s)")
    parser.add_argument("--if-needed", action="store_true",
                        help="do nothing if script, settings and inputs are as they were")  # fmt: skip
    return parser


def bounded(kind: Callable[[str], Any], low: float, high: float = float("inf")) -> Callable[[str], Any]:
    """An argparse type: `kind` restricted to low..high, both included."""

    def convert(text: str) -> Any:
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not between {low} and {high}")
        return value

    convert.__name__ = kind.__name__  # argparse names the type in its own messages
    return convert


def run(main: Callable[[], None]) -> None:
    """Runs a script's `main`; a UserError becomes one line on stderr and exit code 2."""
    try:
        sys.exit(main())
    except UserError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"\n{Path(sys.argv[0]).name}: interrupted; earlier artifacts are untouched", file=sys.stderr)
        sys.exit(130)


def say(text: str) -> None:
    """Prints a line at once, also into a log file."""
    print(text, flush=True)


def progress(label: str, total: int, unit: str) -> Any:
    """A tqdm bar with rate and time left; nothing where stderr is no terminal."""
    from tqdm import tqdm

    return tqdm(desc=label, total=total, unit=f" {unit}", leave=False, disable=None)


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Keeps C++ chatter (TensorFlow's start, the converter) off the terminal; exceptions come through."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


# --- files --------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside `path`, renamed to it only if the block succeeds.

    The name keeps the suffix, because Keras picks the format by it. Rename within a folder is
    atomic (POSIX `rename`), so a killed run leaves the old file or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    for leftover in path.parent.glob(f".{path.stem}.*{path.suffix}"):  # of a run that was killed while it wrote
        if leftover.name.split(".")[-2].isdigit():
            leftover.unlink()
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Writes `content` as indented JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def artifact_path(models_dir: Path, name: str) -> Path:
    """Where the artifact called `name` lies (see ARTIFACTS)."""
    return models_dir / ARTIFACTS[name][0]


def command(name: str, models_dir: Path) -> str:
    """The command that makes an artifact."""
    where = "" if models_dir.resolve() == MODELS_DIR else f" --models-dir {models_dir}"
    return f"python {ARTIFACTS[name][1]}{where}"


# --- records ------------------------------------------------------------------------------


def record_path(artifact: Path) -> Path:
    """The record beside an artifact."""
    return artifact.with_name(artifact.name + ".json")


def read_record(models_dir: Path, name: str) -> dict[str, Any]:
    """The record of an artifact. The data set's is `dataset.json` itself.

    Raises:
        UserError: artifact or record is missing, or the record is not JSON.
    """
    artifact = artifact_path(models_dir, name)
    record = artifact if name == "dataset" else record_path(artifact)
    for path in (artifact, record):
        if not path.exists():
            raise UserError(f"{path} is missing; make it with: {command(name, models_dir)}")
    try:
        content = json.loads(record.read_text())
        content["sha256"], content["inputs"], content["settings"]  # what every record has
        return content
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{record} is damaged; make it anew with: {command(name, models_dir)}") from None


def stale_reason(models_dir: Path, name: str) -> str | None:
    """Why an artifact is stale, with the command that mends it; None if it is up to date.

    Stale means: it, or an input of it, was made from something other than what lies there now.
    """
    record = read_record(models_dir, name)
    path = artifact_path(models_dir, name)
    if name != "dataset" and sha256(path) != record["sha256"]:
        return f"{path} was changed after it was made; make it anew with: {command(name, models_dir)}"
    for source, digest in record["inputs"].items():
        if read_record(models_dir, source)["sha256"] != digest:
            other = artifact_path(models_dir, source)
            return f"{path} was made from another {other.name}; make it anew with: {command(name, models_dir)}"
        if reason := stale_reason(models_dir, source):
            return reason
    return None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape an artifact."""
    return {"python": sys.version.split()[0], **{name: importlib.metadata.version(name) for name in PACKAGES}}


class Stage:
    """One run of a script: what it was asked to do, and how its artifacts are put in place."""

    def __init__(self, script: str, arguments: argparse.Namespace, *without: str) -> None:
        """`without` names flags that do not change what is written."""
        self.started = time.time()
        self.script = Path(script)
        self.script_sha256 = sha256(self.script)  # now: the file may be edited while the stage runs
        self.models_dir: Path = arguments.models_dir
        self.inputs: dict[str, str] = {}
        apart = {"models_dir", "if_needed", "resume", *without}
        self.settings = {key: str(value) if isinstance(value, Path) else value
                         for key, value in sorted(vars(arguments).items()) if key not in apart}  # fmt: skip

    def require(self, *names: str) -> None:
        """Notes the SHA-256 of each input of the stage.

        Raises:
            UserError: an input is missing, damaged or stale.
        """
        for name in names:
            if reason := stale_reason(self.models_dir, name):
                raise UserError(reason)
            self.inputs[name] = read_record(self.models_dir, name)["sha256"]

    def up_to_date(self, *names: str) -> bool:
        """Whether running the stage again would change nothing: same script, settings and inputs.

        File times are brought up to date then, which is what `make` looks at.
        """
        for name in names:
            try:
                record = read_record(self.models_dir, name)
                if stale_reason(self.models_dir, name):
                    return False
            except UserError:
                return False
            then = record.get("script_sha256"), record["settings"], record["inputs"]
            if then != (self.script_sha256, self.settings, self.inputs):
                return False
        for name in names:
            artifact_path(self.models_dir, name).touch()
        say(f"{self.script.name}: up to date, nothing to do")
        return True

    def seconds(self) -> float:
        """Wall time since the stage began."""
        return round(time.time() - self.started, 1)

    def record(self, digest: str, metrics: dict[str, Any]) -> dict[str, Any]:
        """The record of one artifact whose SHA-256 is `digest`."""
        return {
            "stage": self.script.stem, "settings": self.settings, "metrics": metrics,
            "sha256": digest, "inputs": self.inputs, "script_sha256": self.script_sha256,
            "versions": versions(), "wall_seconds": self.seconds(),
        }  # fmt: skip

    @contextlib.contextmanager
    def new_artifact(self, name: str, metrics: dict[str, Any]) -> Iterator[Path]:
        """Yields a temporary path to write an artifact to; puts it and its record in place.

        The artifact goes first: a kill between the two leaves a record whose hash does not
        match, which `stale_reason` reports, never a wrong file that looks right.
        """
        path = artifact_path(self.models_dir, name)
        with atomic(path) as temporary:
            yield temporary
            record = self.record(sha256(temporary), metrics)
        write_json(record_path(path), record)
