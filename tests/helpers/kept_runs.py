"""Finished runs that many tests share, made once and kept between test runs.

They lie in pytest's cache folder (.pytest_cache), each under a key of everything that decides
what is in it. After an edit that changes the key, the run is made anew; old ones are removed.
Tests read them only: one that writes copies the folder first.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Collection
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from pipeline.base import fingerprints, system
from tests.helpers.runs import ROOT

STAGES = ("data_preparation", "training", "pruning", "quantization", "evaluation")
FORMATS = ("synthetic",)  # modules of pipeline/data/formats that read these runs' data sets
MAKERS = ("kept_runs", "runs", "small_network", "small_runs")  # modules of tests/helpers
KEPT = 2  # versions of a run that stay, however old they are
UNUSED_SECONDS = 3600  # until a version is removed: another process of pytest may read it
ENVIRONMENT = ("TF_", "XLA_", "OMP_")  # beginnings of variables that change TensorFlow's results


STARTED = time.time()  # this module is imported before the package's modules are


class RunChanged(Exception):
    """A test wrote into a run that others share."""


def key_of(
    stages: Collection[str],
    counted: Collection[str] = (),
    whole_package: bool = False,
    root: Path = ROOT,
) -> str:
    """A digest of everything that decides which files a run of these stages writes.

    That is the code of the stages as `fingerprints.of_stage` counts it, versions of packages, the
    folder `base`, which writes the records and counts for no stage, the modules that make the
    runs, and the machine: floating-point sums depend on threads and on the kind of processor.

    Args:
        stages: names of scripts.
        counted: folders of `fingerprints.NEVER` that count all the same.
        whole_package: every module counts, whether a stage's results depend on it or not.
        root: the project whose code counts.
    """
    from pipeline.evaluation.processor import cpu_name

    code = {
        stage: fingerprints.of_stage(root / f"{stage}.py", FORMATS, counted) for stage in stages
    }
    modules = [
        *(root / "pipeline").glob("**/*.py" if whole_package else "base/*.py"),
        *(ROOT / "tests" / "helpers" / f"{name}.py" for name in MAKERS),
    ]
    machine = {
        "root": str(root),  # reports and printed lines name it
        "cpu": cpu_name(),
        "threads": system.tensorflow_threads(),
        **{name: value for name, value in os.environ.items() if name.startswith(ENVIRONMENT)},
    }
    digests = {str(path): fingerprints.read(path).digest for path in modules}
    text = json.dumps([code, digests, machine], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def edited_since(moment: float) -> bool:
    """Whether the pipeline was edited since, so that this process may run older code than it."""
    files = [*ROOT.glob("*.py"), *(ROOT / "pipeline").rglob("*.py")]
    return any(path.stat().st_mtime > moment for path in files)


class KeptRuns:
    """Runs in one folder, made by one process while the others wait.

    Args:
        kept: where runs stay after this call of pytest.
        temporary: where they are made after an edit of the pipeline while the tests run: nobody
            knows then which code made them.
    """

    def __init__(self, kept: Path, temporary: Path) -> None:
        self.kept, self.temporary = kept, temporary
        self.states: dict[Path, dict[str, tuple[int, int]]] = {}  # files of each run at first use
        self.mixed: list[Path] = []  # runs that were made while the pipeline was edited

    def get(self, name: str, key: str, make: Callable[[Path], object]) -> Path:
        """The folder of a run; `make` is called with its path if there is none under this key.

        The lock belongs to the operating system, so that it ends with the process that holds it.
        What a killed process left unfinished is made anew.
        """
        folder = self.temporary if edited_since(STARTED) else self.kept
        path = folder / f"{name}-{key}"
        done = self.done_file(path)
        with FileLock(self.lock_file(path)):
            if not done.exists():
                shutil.rmtree(path, ignore_errors=True)
                make(path)
                if folder == self.kept and edited_since(STARTED):
                    self.mixed.append(path)
            done.touch()  # again at each use: the runs used last are kept
            self.states.setdefault(path, state_of(path))
        self.remove_old(name)
        return path

    def remove_old(self, name: str) -> None:
        """Removes old versions of a run, and what killed processes left of unfinished ones."""
        last_used = {
            path.with_suffix(""): self.last_use(path) for path in self.kept.glob(f"{name}-*.lock")
        }
        newest_first = sorted(last_used, key=lambda path: -last_used[path])
        for path in newest_first[KEPT:]:
            if time.time() - last_used[path] < UNUSED_SECONDS:
                continue
            lock = self.lock_file(path)
            try:
                with FileLock(lock, timeout=0):
                    self.done_file(path).unlink(missing_ok=True)
                    shutil.rmtree(path, ignore_errors=True)
                    lock.unlink(missing_ok=True)
            except Timeout:  # another process makes it at this moment
                continue

    def last_use(self, lock: Path) -> float:
        """When a run was last handed out, or began to be made; in seconds since 1970."""
        done = self.done_file(lock.with_suffix(""))
        return (done if done.exists() else lock).stat().st_mtime

    def check(self) -> None:
        """Raises RunChanged if a file of a run that was handed out is not as it was.

        Such a run is made anew next time, as is one that was made while the pipeline was edited.
        """
        for path in self.mixed:
            self.done_file(path).unlink(missing_ok=True)
        for path, before in self.states.items():
            now = state_of(path)
            if now != before and self.done_file(path).exists():
                self.done_file(path).unlink()
                names = sorted(
                    name for name in before.keys() | now.keys() if before.get(name) != now.get(name)
                )
                raise RunChanged(
                    f"a test wrote into a run that other tests read ({', '.join(names[:5])} in "
                    f"{path}); let it write to a copy: the fixtures run_copy and data_copy"
                )

    @staticmethod
    def done_file(path: Path) -> Path:
        """The empty file that says that a run is finished."""
        return path.with_name(f"{path.name}.done")

    @staticmethod
    def lock_file(path: Path) -> Path:
        """The file that a process locks while it makes, looks at or removes a run."""
        return path.with_name(f"{path.name}.lock")


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Size in bytes and time of change of every file below a folder, by its name."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    return {
        name: (path.stat().st_size, path.stat().st_mtime_ns)
        for name, path in files.items()
        if path.is_file() and "__pycache__" not in path.parts
    }


def runs_of(config: pytest.Config, base_temp: Path) -> KeptRuns:
    """Runs in pytest's cache folder; among temporary files if pytest has no cache.

    Args:
        base_temp: the folder of temporary files of this process of pytest.
    """
    shared = base_temp.parent if "PYTEST_XDIST_WORKER" in os.environ else base_temp
    temporary = shared / "runs"
    temporary.mkdir(exist_ok=True)
    cache = getattr(config, "cache", None)
    return KeptRuns(Path(cache.mkdir("runs")) if cache else temporary, temporary)
