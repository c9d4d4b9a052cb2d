"""What the campaigns share: a toy run of all five stages, stages as forked children, damages.

TensorFlow takes seconds to load. So it is loaded once, here, and never started: each stage runs
in a forked child that starts it for itself, and that may be killed, crash or hang.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import json
import mmap
import os
import shutil
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import data_preparation
import evaluation
import pruning
import quantization
import training
from pipeline.base import artifacts, console, system
from pipeline.base.files import sha256
from pipeline.base.lazy import keras, layers, matplotlib_figure
from pipeline.data.formats import synthetic
from pipeline.evaluation import latency, memory
from pipeline.report import charts, overlays, page
from pipeline.training import checkpoints, networks
from pipeline.variants import VARIANTS

SIZE = 32
STAGES = {
    "data_preparation": data_preparation,
    "training": training,
    "pruning": pruning,
    "quantization": quantization,
    "evaluation": evaluation,
}
ASKED = {
    "data_preparation": ("--dataset", "synthetic", "--image-size", SIZE),
    "training": ("--encoder", "scratch", "--epochs", 2, "--batch-size", 4),
    "pruning": ("--epochs", 2, "--batch-size", 4),
    "quantization": ("--calibration-images", 4),
    "evaluation": (),
}
LOADED = (
    *("tensorflow", "tf_keras", "tf_keras.layers", "tensorflow_model_optimization"),
    *("litert_quantizer.quantizer", "litert_quantizer.qtyping", "jinja2", "matplotlib.figure"),
    *(
        "litert_quantizer.algorithm_manager",
        "matplotlib.patches",
        "matplotlib.backends.backend_svg",
    ),
)
PATIENCE = 300  # seconds, after which a stage is said to hang


def load() -> None:
    """Loads the packages, and makes everything small: 22 pictures, a network of five layers."""
    for name in LOADED:
        importlib.import_module(name)
    synthetic.COUNTS = {"train": 24, "test": 4}
    networks.NETWORKS["compact"] = network
    system.START = "fork"
    # The one part of a stage that no child of this process can do:
    latency.in_own_process = memory.in_own_process = measured
    for module in (charts, page):  # drawing takes longer than all else here
        module.curves = lambda *_: matplotlib_figure.Figure((1, 1))
    page.number_charts = lambda *_: []
    overlays.examples = lambda *_: matplotlib_figure.Figure((1, 1))


def network(size: tuple[int, int], classes: int, width: int = 64) -> keras.Model:
    """A U-Net of sorts, with one kernel that is large enough for zeros."""
    plain = {"padding": "same", "bias_initializer": "random_normal"}
    image = layers.Input((*size, 3))
    x = layers.Conv2D(max(4, width // 4), 3, 2, activation="relu", **plain)(image)
    x = layers.DepthwiseConv2D(3, **plain)(x)
    x = layers.Conv2D(width, 3, activation="relu", **plain)(x)
    x = layers.Conv2DTranspose(8, 2, 2, **plain)(x)
    return keras.Model(image, layers.Conv2D(classes, 1, **plain)(x), name="toy")


def measured(function: Callable[..., Any], files: Any, *_: Any) -> Any:
    """Stands in for what evaluation measures in processes of its own.

    Args:
        files: of which latency is measured, by name.
    """
    if function is memory.memory_growth:
        return 1_000_000
    row = {"median": 1.0, "p90": 1.1, "after_another": 1.2, "first": 2.0, "runs": 100}
    return {name: row | {"spread": 0.0, "others": 0.0, "busy": None} for name in files}


def measure_for_real() -> None:
    """Undoes `measured`, in a child that is to start processes as the script does."""
    latency.in_own_process = memory.in_own_process = system.in_own_process
    system.START = "spawn"


# --- one stage in a child -------------------------------------------------------------------


@dataclass
class Result:
    """How a stage ended."""

    code: int  # exit code, or a negative signal
    out: str
    err: str
    seconds: float  # of CPU
    events: int  # how often it renamed, removed or flushed a file
    hung: bool = False

    @property
    def fault(self) -> str | None:
        """What must never be: "traceback", "crash", "hang", "silent" or "many lines"."""
        if self.hung:
            return "hang"
        if "Traceback (most recent call last)" in self.err + self.out:
            return "traceback"
        if self.code in (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE):
            return "crash"
        if self.code in (2, 130, 143):
            lines = self.err.strip().splitlines()
            usage = any(line.startswith("usage:") for line in lines)  # argparse's own
            if not lines:
                return None if "FAILED: " in self.out else "silent"  # a limit that broke
            if len(lines) > 1 and not usage:
                return "many lines"
        return None


def run(
    script: str,
    *arguments: Any,
    before: Callable[[], None] = lambda: None,
    kill: tuple[int, float] | None = None,
    event: tuple[int, int] | None = None,
    cwd: Path | None = None,
    patience: float = PATIENCE,
) -> Result:
    """Runs a stage in a forked child, as `python SCRIPT.py ARGUMENTS` would.

    Args:
        before: called in the child first.
        kill: a signal, and after how many seconds of CPU the child gets it.
        event: a signal that the child sends itself, and at which change of a file: at event n
            right before it if n is even, else right after event n // 2.
    """
    child = start(script, *arguments, before=before, event=event, cwd=cwd)
    return child.wait(kill, patience)


def cpu_of(process: int) -> float:
    """Seconds of CPU that a process has used."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Child:
    """A stage that runs."""

    def __init__(self, pid: int, out: Any, err: Any, events: mmap.mmap) -> None:
        self.pid, self.files, self.events = pid, (out, err), events

    def wait(self, kill: tuple[int, float] | None = None, patience: float = PATIENCE) -> Result:
        """Waits until it ends, and ends it if it does not."""
        ends, hung = time.monotonic() + patience, False
        while True:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                break
            if kill and cpu_of(self.pid) >= kill[1]:
                os.kill(self.pid, kill[0])
                kill = None
            if time.monotonic() > ends:
                os.kill(self.pid, signal.SIGKILL)
                hung = True
            time.sleep(0.003)
        texts = []
        for file in self.files:
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
            file.close()
        said = "\n".join(line for line in texts[1].splitlines() if not from_a_library(line))
        seconds = usage.ru_utime + usage.ru_stime
        code = os.waitstatus_to_exitcode(status)
        return Result(code, texts[0], said, seconds, struct.unpack("q", self.events[:8])[0], hung)


def from_a_library(line: str) -> bool:
    """Whether TensorFlow's logger said it: what it keeps silent depends on how it was loaded."""
    return line.startswith(("WARNING: All log", "I0000", "W0000", "E0000"))


def start(
    script: str,
    *arguments: Any,
    before: Callable[[], None] = lambda: None,
    event: tuple[int, int] | None = None,
    cwd: Path | None = None,
) -> Child:
    """Starts what `run` waits for."""
    out, err = (os.fdopen(os.memfd_create(name), "w+b") for name in ("out", "err"))
    events = mmap.mmap(-1, 8)
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return Child(pid, out, err, events)
    code = 1
    try:
        os.setsid()
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        sys.stdout = io.TextIOWrapper(
            io.FileIO(1, "w", closefd=False), encoding="utf-8", write_through=True
        )
        sys.stderr = io.TextIOWrapper(
            io.FileIO(2, "w", closefd=False), encoding="utf-8", write_through=True
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = [str(ROOT / f"{script}.py"), *map(str, arguments)]
        if cwd:
            os.chdir(cwd)
        count_events(events, event)
        before()
        console.run(STAGES[script].main)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        os._exit(code)


def count_events(events: mmap.mmap, event: tuple[int, int] | None) -> None:
    """Counts in the child what changes files for good, and sends it a signal at one of them."""

    def hooked(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            (number,) = struct.unpack("q", events[:8])
            events[:8] = struct.pack("q", number + 1)
            if event and event[1] == 2 * number:
                os.kill(os.getpid(), event[0])
            result = function(*arguments, **more)
            if event and event[1] == 2 * number + 1:
                os.kill(os.getpid(), event[0])
            return result

        return call

    for name in ("replace", "fsync", "unlink"):
        setattr(os, name, hooked(getattr(os, name)))


# --- whole runs -----------------------------------------------------------------------------


def ask(script: str, models_dir: Path, *more: Any) -> tuple[Any, ...]:
    """The arguments of a stage of the toy run."""
    return (script, *ASKED[script], "--models-dir", models_dir, *more)


def finished(models_dir: Path) -> Path:
    """A toy run of all five stages."""
    for script in STAGES:
        done = run(*ask(script, models_dir))
        if done.code:
            raise SystemExit(f"the toy run failed at {script}: {done.out}{done.err}")
    return models_dir


def stopped(script: str, models_dir: Path, target: Path, *more: Any, state: str = ".") -> Path:
    """A copy of a run in which a stage was killed after its first epoch.

    Args:
        state: how the name of the state begins whose first epoch is meant.
    """
    before = functools.partial(stop_after_an_epoch, state)
    run(*ask(script, copy_of(models_dir, target), *more), before=before)
    return target


def stop_after_an_epoch(state: str) -> None:
    """Kills the process right after a state was saved whose name begins so."""
    save = checkpoints.TrainingState.save

    def save_and_die(self: Any, *arguments: Any) -> None:
        save(self, *arguments)
        if self.path.name.startswith(state):
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoints.TrainingState.save = save_and_die


def copy_of(models_dir: Path, target: Path) -> Path:
    """A fresh copy of a run."""
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(models_dir, target))


def facts(script: str, models_dir: Path) -> dict[str, Any]:
    """What a stage made, as far as a second run makes the same: bytes and accuracy, no times."""
    names = {
        "training": ["original"],
        "pruning": ["pruned"],
        "quantization": list(VARIANTS),
    }
    if script == "data_preparation":
        return {"arrays": sorted(digests(models_dir / "dataset", "*.npy").items())}  # no others
    if script == "evaluation":
        rows = json.loads((models_dir / "evaluation.json").read_text())["models"]
        kept = ("name", "bytes", "mean_iou", "mean_iou_interval", "nonzero_share", "stale")
        return {row["name"]: {key: row[key] for key in kept} for row in rows}
    paths = [artifacts.artifact_path(models_dir, name) for name in names[script]]
    return {path.name: sha256(path) for path in paths}


def digests(folder: Path, pattern: str = "*") -> dict[str, str]:
    """SHA-256 of the files in a folder, by name."""
    found = {path.name: path for path in folder.glob(pattern) if path.is_file()}
    return {name: sha256(path) for name, path in found.items()}


def hidden(models_dir: Path) -> list[str]:
    """Temporary files, locks and states that lie in a folder."""
    return sorted(path.name for path in models_dir.rglob(".*"))
