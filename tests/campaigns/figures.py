"""Trials of figures that could mislead: what they are of has changed, or is no number."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import toy
from toy import ROOT, STAGES, Result, ask, copy_of, facts, hidden, run
from trials import Campaign, Tally

from pipeline.base import artifacts, console, system
from pipeline.data import dataset
from pipeline.evaluation import accuracy
from pipeline.inference import keras_files

BUSY = ("--max-latency-ms", 1e6)


def figures(campaign: Campaign) -> Iterator[Tally]:
    """What figures are of has changed, or is no number."""
    yield changed_pictures(campaign)
    yield swapped_files(campaign)
    yield killed_workers(campaign)
    yield silenced_errors(campaign)
    yield diverging(campaign)
    yield edited_code(campaign)
    yield gates(campaign)


def told(tally: Tally, about: str, done: Result, code: int, says: str, *faults: str) -> None:
    """Adds a run that must end with this exit code and say this."""
    right = done.code == code and says in done.out + done.err
    end = {0: "right", 1: "exit 1", 2: "refused in one line"}.get(code, f"exit {code}")
    said = done.out[-500:] + done.err
    wrong = None if right else "wrong"
    tally.add(about, end if right else f"exit {done.code}", done.fault, wrong, *faults, said=said)


def changed_pictures(campaign: Campaign) -> Tally:
    """Arrays of the data set replaced, and a data set that was made anew."""
    tally = Tally("pictures mirrored, half of them deleted, or prepared anew")
    changes: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "mirrored": lambda array: array[:, :, ::-1],
        "half of them": lambda array: array[: len(array) // 2],
    }
    readers = {"test": ("evaluation",), "train": ("training", "pruning", "quantization")}
    pairs = [(split, script) for split, scripts in readers.items() for script in scripts]
    tries = [(change, *pair) for change in changes for pair in pairs]
    for change, split, script in tries[: len(campaign.times(len(tries)))]:
        models_dir = copy_of(campaign.old, campaign.folder / "pictures")
        for path in (models_dir / "dataset").glob(f"{split}_*.npy"):
            if change != "mirrored" or "images" in path.name:
                np.save(path, changes[change](np.load(path)))
        told(tally, f"{split} {change}, {script}", run(*ask(script, models_dir)), 2, "dataset")
        if facts(script, models_dir) != facts(script, campaign.old):
            tally.add(f"{split} {change}, {script}", "written", "wrong")
    models_dir = copy_of(campaign.old, campaign.folder / "pictures")
    run(*ask("data_preparation", models_dir, "--seed", 9))
    done = run(*ask("evaluation", models_dir))
    told(tally, "prepared anew, evaluation", done, 0, "stale")
    if not all(row["stale"] for row in facts("evaluation", models_dir).values()):
        tally.add("prepared anew", "not marked", "wrong")
    return tally


def swapped_files(campaign: Campaign) -> Tally:
    """Files replaced by others while they are measured, after latency was."""
    tally = Tally("a file replaced during evaluation")
    for name in ("original_model.h5", "int8_quantized_model.tflite", "dataset/test_images*.npy"):
        models_dir = copy_of(campaign.old, campaign.folder / "swapped")
        path = next(models_dir.glob(name))
        other = campaign.folder / f"other{path.suffix}"
        shutil.copy(models_dir / "float32_model.tflite", other)
        if path.suffix == ".h5":
            shutil.copy(models_dir / "pruned_model.h5", other)
        elif path.suffix == ".npy":
            np.save(other, np.load(path)[:, ::-1])
        swap = functools.partial(at_first_count, functools.partial(os.replace, other, path))
        told(tally, name, run(*ask("evaluation", models_dir), before=swap), 2, "changed")
        if toy.digests(models_dir, "evaluation.*") != toy.digests(campaign.old, "evaluation.*"):
            tally.add(name, "written", "wrong")
    return tally


def at_first_count(event: Callable[[], None]) -> None:
    """Calls `event` once accuracy begins to be measured."""
    measure = accuracy.measure

    def measure_later(*arguments: Any) -> Any:
        with contextlib.suppress(FileNotFoundError):  # from the second time on
            event()
        return measure(*arguments)

    accuracy.measure = measure_later


def killed_workers(campaign: Campaign) -> Tally:
    """A process that evaluation starts dies at a random moment."""
    tally, random = Tally("a process of evaluation killed, or crashed"), campaign.random("workers")
    for k in campaign.times(4):
        sent = (signal.SIGKILL, signal.SIGSEGV)[k % 2]
        models_dir = copy_of(campaign.old, campaign.folder / "worker")
        child = toy.start(*ask("evaluation", models_dir), before=toy.measure_for_real)
        moment, worker, first = float(random.uniform(0.2, 3.0)), None, None
        ends = time.monotonic() + toy.PATIENCE
        while time.monotonic() < ends:
            worker = next(iter(workers(child.pid)), None)
            first = first or worker
            if worker and (worker != first or toy.cpu_of(worker) >= moment):
                break  # the second one at once, if the first was done before its moment
            time.sleep(0.01)
        os.kill(worker, sent)
        says = "probably because memory ran out" if sent == signal.SIGKILL else "crashed"
        told(tally, f"signal {sent} after {moment:.1f} s", child.wait(), 2, says)
        numbers = [toy.digests(each, "evaluation.*") for each in (models_dir, campaign.old)]
        if numbers[0] != numbers[1] or hidden(models_dir):
            tally.add("its folder", "changed", "left", said=str(hidden(models_dir)))
    return tally


def workers(process: int) -> list[int]:
    """Processes that a stage has started to measure in."""
    found = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="utf-8").split()
    commands = {number: Path(f"/proc/{number}/cmdline") for number in found}
    return [int(number) for number, path in commands.items() if b"spawn_main" in read(path)]


def read(path: Path) -> bytes:
    """A file of /proc, empty if its process is gone."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def silenced_errors(campaign: Campaign) -> Tally:
    """What is said on stderr after LiteRT's own lines were kept off it, by four threads at once."""
    tally = Tally("stderr after the accuracy step")

    def work() -> int:
        images, masks = dataset.load_split(campaign.old, "test")
        accuracy.cores = lambda: 4
        for _ in campaign.times(16):
            accuracy.measure(campaign.old, "int8", images, masks, 3)
            os.write(2, b"here\n")
        return 0

    done = run("evaluation", before=functools.partial(console.run, work))
    lines = done.err.splitlines().count("here")
    for k in campaign.times(16):
        tally.add(str(k), "came through", None if k < lines else "silent", said=done.err)
    return tally


def diverging(campaign: Campaign) -> Tally:
    """Trainings whose loss is no number: nothing is written."""
    tally = Tally("a training that diverges")
    tries = [(script, rate) for rate in ("1e30", "1e6") for script in ("training", "pruning")]
    for script, rate in tries[: len(campaign.times(4))]:
        models_dir = copy_of(campaign.old, campaign.folder / "diverging")
        done = run(*ask(script, models_dir, "--learning-rate", rate))
        if done.code == 0:  # it went through: then it must be numbers that it wrote
            model = run("evaluation", before=functools.partial(all_finite, models_dir, script))
            told(tally, f"{script} {rate}, finite", model, 0, "")
            continue
        told(tally, f"{script} {rate}", done, 2, "not finite")
        if facts(script, models_dir) != facts(script, campaign.old):
            tally.add(f"{script} {rate}", "written", "lost")
    return tally


def all_finite(models_dir: Path, script: str) -> None:
    """Ends with 0 if no weight of a model is NaN or infinite."""
    model = keras_files.load_model(models_dir, {"training": "original"}.get(script, "pruned"))
    raise SystemExit(0 if all(np.isfinite(part).all() for part in model.get_weights()) else 1)


def edited_code(campaign: Campaign) -> Tally:
    """A training stopped after an epoch goes on only as what it was."""
    tally, place = Tally("a training stopped, something changed, and resumed"), campaign.folder
    changes = ("nothing", "code", "setting", "data set")
    tries = [(script, change) for change in changes for script in ("training", "pruning")]
    for script, change in tries[: len(campaign.times(len(tries)))]:
        stopped = toy.stopped(script, campaign.old, place / "edited")
        artifact = {"training": "original", "pruning": "pruned"}[script]
        artifacts.artifact_path(stopped, artifact).unlink()  # else the run is finished
        more, before = (), functools.partial(edit, script, place)
        if change == "setting":
            more = ("--batch-size", 3)
        elif change == "data set":
            run(*ask("data_preparation", stopped, "--seed", 9))
            run(*ask("training", stopped)) if script == "pruning" else None
        done = run(
            *ask(script, stopped, "--resume", *more),
            before=before if change == "code" else lambda: None,
        )
        says = {
            "nothing": "going on after epoch 1",
            "code": f"another one ({script}.py was edited); go on with that",
            "setting": "another one (--batch-size is 3, was 4); go on with that",
            "data set": "changed); begin anew with",
        }
        told(tally, f"{script}, {change}", done, 0 if change == "nothing" else 2, says[change])
        if change == "nothing" and facts(script, stopped) != facts(script, campaign.old):
            tally.add(f"{script}, {change}", "another model", "wrong")
    return tally


def edit(script: str, place: Path) -> None:
    """Lets a stage find its own file edited."""
    copy = place / "code" / f"{script}.py"
    copy.parent.mkdir(exist_ok=True)
    copy.write_text((ROOT / f"{script}.py").read_text() + "\nEDITED = True\n")
    STAGES[script].__file__ = str(copy)


def gates(campaign: Campaign) -> Tally:
    """A gate that failed fails again, measured anew and not."""
    tally = Tally("a gate that fails, asked twice")
    limits = (("--min-mean-iou", 0.99), ("--max-bytes", 10), ("--gate", "int8", "--max-bytes", 10))
    for limit in limits[: len(campaign.times(3))]:
        models_dir = copy_of(campaign.old, campaign.folder / "gate")
        for more in ((), ("--if-needed",), ()):
            done = run(*ask("evaluation", models_dir, *limit, *more))
            told(tally, f"{limit} {more}", done, 1, "int8 breaks")
    return tally


def busy(campaign: Campaign) -> Iterator[Tally]:
    """Latency beside programs that take every core: marked, and no gate passes on it."""
    tally = Tally("latency on a busy machine")
    for _ in campaign.times(2):
        models_dir = copy_of(campaign.old, campaign.folder / "busy")
        loop = [sys.executable, "-c", "while True: pass"]
        others = [subprocess.Popen(loop) for _ in range(system.cores())]
        try:
            done = run(*ask("evaluation", models_dir, *BUSY), before=toy.measure_for_real)
        finally:
            for other in others:
                other.kill()
                other.wait()
        told(tally, "gate", done, 2, "cannot be compared with --max-latency-ms")
        rows = json.loads((models_dir / "evaluation.json").read_text())["models"]
        page = (models_dir / "report.html").read_text()
        if not all(row["latency_ms"]["busy"] for row in rows) or "busy" not in page:
            tally.add("marks", "not marked", "wrong")
    yield tally
