"""Fixtures that several test files share: small finished runs, folders of pictures, a full disk."""

from __future__ import annotations

import gc
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers.file_order import pytest_collection_modifyitems  # noqa: F401
from tests.helpers.kept_runs import STAGES, KeptRuns, key_of, runs_of
from tests.helpers.made_up_evaluation import made_up_evaluation
from tests.helpers.pictures import PhotoFolder
from tests.helpers.runs import SHARED_DATA, make_data_set
from tests.helpers.small_runs import (
    copy_run,
    make_compact_run,
    make_evaluated_run,
    make_finished_run,
    make_own_project,
)

if TYPE_CHECKING:
    from pipeline.base.stage import Stage

# Collections of Keras graphs take a tenth of the time of all tests at Python's own thresholds.
gc.set_threshold(200_000, 20, 20)


# --- finished runs: tests read them only ----------------------------------------------------


@pytest.fixture(scope="session")
def kept_runs(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KeptRuns]:
    """Runs that test files share, from this or an earlier call of pytest."""
    runs = runs_of(pytestconfig, tmp_path_factory.getbasetemp())
    yield runs
    runs.check()


@pytest.fixture(scope="session")
def small_data(kept_runs: KeptRuns) -> Path:
    """A models folder that holds a synthetic data set only. Read only; a copy: `data_copy`."""
    return kept_runs.get("small_data", key_of(STAGES[:1]), make_data_set)


@pytest.fixture(scope="session")
def finished_run(kept_runs: KeptRuns, small_data: Path) -> Path:
    """A models folder after stages 1 to 4, of a small network. Read only; a copy: `run_copy`."""

    def make(models_dir: Path) -> None:
        make_finished_run(models_dir, small_data)

    return kept_runs.get("finished_run", key_of(STAGES[:4]), make)


@pytest.fixture(scope="session")
def compact_run(kept_runs: KeptRuns, small_data: Path) -> Path:
    """A models folder after stages 1 to 4, of the compact network: takes minutes, for slow tests.

    Read only; a copy: `compact_copy`. With the states of a stopped training: `make_compact_run`.
    """

    def make(models_dir: Path) -> None:
        make_compact_run(models_dir, small_data)

    return kept_runs.get("compact_run", key_of(STAGES[:4]), make)


@pytest.fixture(scope="session")
def evaluated_run(kept_runs: KeptRuns, finished_run: Path) -> Path:
    """`finished_run` after all five stages, with made-up latency and memory. Read only."""

    def make(models_dir: Path) -> None:
        make_evaluated_run(models_dir, finished_run)

    return kept_runs.get("evaluated_run", key_of(STAGES, counted=("report",)), make)


@pytest.fixture(scope="session")
def own_project(kept_runs: KeptRuns, small_data: Path) -> Path:
    """A copy of the code with a network and a conversion added, after all five stages. Read only.

    What each script printed: `own_output`.
    """

    def make(project: Path) -> None:
        make_own_project(project, small_data)

    return kept_runs.get("own_project", key_of(STAGES, whole_package=True), make)


@pytest.fixture(scope="session")
def own_output(own_project: Path) -> dict[str, str]:
    """What each script of `own_project` printed, by its name."""
    return {path.stem: path.read_text(encoding="utf-8") for path in own_project.glob("*.log")}


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of the real data set as TFDS wrote it; the test is skipped where there is none."""
    if not (SHARED_DATA / "oxford_iiit_pet").exists():
        pytest.skip(f"the real data set is not in {SHARED_DATA}")
    return SHARED_DATA


# --- what a test may change -----------------------------------------------------------------


@pytest.fixture
def data_copy(small_data: Path, tmp_path: Path) -> Path:
    """A copy of `small_data`."""
    return Path(shutil.copytree(small_data, tmp_path / "models"))


@pytest.fixture
def run_copy(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of `finished_run`."""
    return copy_run(finished_run, tmp_path / "models")


@pytest.fixture
def compact_copy(compact_run: Path, tmp_path: Path) -> Path:
    """A copy of `compact_run`."""
    return copy_run(compact_run, tmp_path / "models")


@pytest.fixture
def folder(tmp_path: Path) -> PhotoFolder:
    """A folder of ten photographs and their masks."""
    return PhotoFolder(tmp_path / "photos")


@pytest.fixture
def numbers() -> dict[str, Any]:
    """The content of a made-up evaluation.json, for tests of reports, tables and gates."""
    return made_up_evaluation()


@pytest.fixture
def make_stage(data_copy: Path) -> Callable[..., Stage]:
    """Makes a training stage of the given arguments on small data; it runs nothing by itself."""
    import training
    from pipeline.base.stage import Stage

    def make(*arguments: str) -> Stage:
        where = ["--models-dir", str(data_copy)]
        return Stage.begin(training.__file__, training.parse([*where, *arguments]))

    return make


@pytest.fixture
def stage(make_stage: Callable[..., Stage]) -> Stage:
    """A training stage without arguments."""
    return make_stage()


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file that this process writes may be longer than a block, as on a disk that is full."""
    resource = pytest.importorskip("resource", reason="only Unix can limit the length of files")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)
