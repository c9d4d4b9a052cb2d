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
from collections.abc import Callable, Collection
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from pipeline.base import fingerprints, system
from tests.helpers.runs import ROOT

STAGES = ("data_preparation", "training", "pruning", "quantization", "evaluation")
FORMATS = ("synthetic",)  # modules of pipeline/data/formats that read these runs' data sets
MAKERS = ("kept_runs", "runs", "small_runs")  # modules of tests/helpers that make the runs
KEPT = 2  # versions of a run: another process of pytest may read the one before
ENVIRONMENT = ("TF_", "XLA_", "OMP_")  # beginnings of variables that change TensorFlow's results


class RunChanged(Exception):
    """A test wrote into a run that others share."""


def key_of(
    stages: Collection[str], counted: Collection[str] = (), whole_package: bool = False
) -> str:
    """A digest of everything that decides which files a run of these stages writes.

    That is the code of the stages as `fingerprints.of_stage` counts it, versions of packages, the
    folder `base`, which writes the records and counts for no stage, the modules that make the
    runs, and the machine: floating-point sums depend on threads and on the kind of processor.

    Args:
        stages: names of scripts.
        counted: folders of `fingerprints.NEVER` that count all the same.
        whole_package: every module counts, whether a stage's results depend on it or not.
    """
    from pipeline.evaluation.latency import cpu_name

    code = {
        stage: fingerprints.of_stage(ROOT / f"{stage}.py", FORMATS, counted) for stage in stages
    }
    package = "*/**/*.py" if whole_package else "base/*.py"
    modules = [
        *(ROOT / "pipeline").glob(package),
        *(ROOT / "tests" / "helpers" / f"{name}.py" for name in MAKERS),
    ]
    machine = {
        "root": str(ROOT),  # reports and printed lines name it
        "cpu": cpu_name(),
        "threads": system.tensorflow_threads(),
        **{name: value for name, value in os.environ.items() if name.startswith(ENVIRONMENT)},
    }
    digests = {str(path): fingerprints.read(path).digest for path in modules}
    text = json.dumps([code, digests, machine], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class KeptRuns:
    """Runs in one folder, made by one process while the others wait."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.states: dict[Path, dict[str, tuple[int, int]]] = {}  # files of each run at first use

    def get(self, name: str, key: str, make: Callable[[Path], object]) -> Path:
        """The folder of a run; `make` is called with its path if there is none under this key.

        The lock belongs to the operating system, so that it ends with the process that holds it.
        What a killed process left unfinished is made anew.
        """
        path = self.folder / f"{name}-{key}"
        done = self.done_file(path)
        with FileLock(self.lock_file(path)):
            if not done.exists():
                shutil.rmtree(path, ignore_errors=True)
                make(path)
            done.touch()  # again at each use: the runs used last are kept
            self.states.setdefault(path, state_of(path))
        self.remove_old(name)
        return path

    def remove_old(self, name: str) -> None:
        """Removes the versions of a run that were used longest ago, all but `KEPT`."""
        runs = [path for path in self.folder.glob(f"{name}-*.done")]
        for done in sorted(runs, key=lambda file: file.stat().st_mtime_ns)[:-KEPT]:
            path = done.with_suffix("")
            try:
                with FileLock(self.lock_file(path), timeout=0):
                    done.unlink(missing_ok=True)
                    shutil.rmtree(path, ignore_errors=True)
            except Timeout:  # another process makes it at this moment
                continue

    def check(self) -> None:
        """Raises RunChanged if a file of a run that was handed out is not as it was.

        Such a run is made anew next time.
        """
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


def folder_of_runs(config: pytest.Config, base_temp: Path) -> Path:
    """Where runs are kept: in pytest's cache, or among temporary files without a cache."""
    cache = getattr(config, "cache", None)
    if cache is not None:
        return Path(cache.mkdir("runs"))
    folder = (base_temp.parent if "PYTEST_XDIST_WORKER" in os.environ else base_temp) / "runs"
    folder.mkdir(exist_ok=True)
    return folder
