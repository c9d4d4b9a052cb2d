"""Trials of what surrounds a run: command lines, disks, permissions, memory, public reports."""

from __future__ import annotations

import argparse
import ctypes
import functools
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import toy
from toy import ROOT, STAGES, ask, copy_of, hidden, run
from trials import Campaign, Tally

from pipeline.base import artifacts
from pipeline.base.unfinished import mark_path
from pipeline.data.dataset import load_split
from pipeline.evaluation import accuracy
from pipeline.evaluation.memory import resident_bytes
from pipeline.inference import keras_files
from pipeline.quantization.convert import convert
from pipeline.variants import VARIANTS

UNSHARED = 0x00020000  # CLONE_NEWNS
READ_ONLY, REMOUNT = 1, 32  # MS_RDONLY, MS_REMOUNT
FLAT = 0.5  # MB that memory may grow by in one conversion or evaluation

NUMBERS = ("nan", "inf", "-inf", "-1e9", "", "much", "0x10", "1,5", "9" * 30, "9" * 5000)
PATHS = (
    *("", "/dev/null", "/dev/null/x", "x" * 300, "/proc/1/mem", "~nobody/x", "a\nb", "/proc"),
    *("\udcff", "-"),
)
WORDS = ("", "much", "NONE", "auto ", "\udcff", "a\nb", "-", "0", "x" * 5000, "None")


def flags(campaign: Campaign) -> Iterator[Tally]:
    """Every flag of every script at ten bad values."""
    tally, cwd = Tally("every flag at 10 bad values"), campaign.folder / "elsewhere"
    cwd.mkdir(exist_ok=True)
    tries = [
        (script, action, value)
        for script, module in STAGES.items()
        for action in parser_of(module)._actions
        if action.option_strings and action.dest != "help"
        for value in bad_values(action)
    ]
    step = max(1, round(1 / campaign.share))
    for script, action, value in tries[:: step if step % 10 else step + 1]:
        if campaign.late():
            break
        where = () if action.dest == "models_dir" else ("--models-dir", campaign.folder / "none")
        flag = f"{action.option_strings[-1]}={value}"
        extra = ("--dataset", "folder") if action.dest == "data_dir" else ()
        if action.dest in ("image", "model"):
            extra = () if action.dest == "image" else ("--image", "/dev/null")
        done = run(script, *where, *extra, flag, cwd=cwd, patience=60)
        faults = [done.fault] + ["wrong"] * (done.code == 0)
        about = f"{script} {flag[:60]!r}"
        tally.add(about, f"exit {done.code}", *faults, said=done.out[-300:] + done.err)
    yield tally


class Built(Exception):
    """Ends a script's `parse` as soon as its parser is there."""


def parser_of(module: Any) -> argparse.ArgumentParser:
    """The parser that a script's `parse` builds."""
    parsers: list[argparse.ArgumentParser] = []
    plain = argparse.ArgumentParser.parse_args

    def catch(self: argparse.ArgumentParser, *_: Any) -> NoReturn:
        parsers.append(self)
        raise Built

    argparse.ArgumentParser.parse_args = catch  # type: ignore[method-assign, assignment]
    try:
        module.parse([])
    except Built:
        return parsers[0]
    finally:
        argparse.ArgumentParser.parse_args = plain  # type: ignore[method-assign]
    raise AssertionError(f"{module.__name__}.parse uses no parser")


def bad_values(action: argparse.Action) -> tuple[str, ...]:
    """Ten values that a flag cannot mean."""
    if action.nargs == 0 or action.choices:
        return WORDS
    if action.type is Path:
        return PATHS
    return tuple(value for value in NUMBERS if action.dest != "max_bytes" or value != "9" * 30)


def disk(campaign: Campaign) -> Iterator[Tally]:
    """A file system that fills up under each stage, one that cannot be written, and no right to."""
    place = campaign.folder / "mounted"
    place.mkdir(exist_ok=True)
    private = ctypes.CDLL(None).unshare(UNSHARED) == 0
    if private:
        subprocess.run(["mount", "--make-rprivate", "/"], check=False, capture_output=True)
    yield full(campaign, place, private, "full disk, five stages", list(STAGES), 30, 160)
    saving = "disk full from the moment that a model is saved"
    yield full(campaign, place, private, saving, ["training", "pruning"], 8, 90, saving=True)
    yield not_writable(campaign, place, private)


def full(
    campaign: Campaign,
    place: Path,
    private: bool,
    what: str,
    scripts: list[str],
    number: int,
    most: int,
    saving: bool = False,
) -> Tally:
    """Stages on a disk with 1 to `most` KiB left, from their start on or from saving a model on."""
    tally, random = Tally(what), campaign.random(what)
    for k in campaign.times(number):
        if campaign.late():
            break
        script, free = scripts[k % len(scripts)], int(random.integers(1, most)) * 1024
        campaign.undisturbed(script)
        if private:
            mount(place, "size=64m")
        where = place if private else campaign.folder
        models_dir = copy_of(campaign.old, where / "full")
        fill = functools.partial(leave, where / "ballast" if private else None, free)
        before = functools.partial(at_the_end, fill) if saving else fill
        done = run(*ask(script, models_dir, "--seed", 8), before=before)
        whole = campaign.check_whole(script, models_dir)
        mark = mark_path(models_dir, script).name  # with it --resume knows the run
        temporary = [name for name in hidden(models_dir) if "state" not in name and name != mark]
        (where / "ballast").unlink(missing_ok=True)
        faults, again = campaign.check_rerun(script, models_dir)
        if saving and done.code and "going on after epoch 2" not in again.out:
            faults.append("lost")
        end = "refused in one line" if done.code == 2 else f"exit {done.code}"
        faults = [done.fault, *["lost"] * bool(whole), *["left"] * bool(temporary), *faults]
        said = f"{whole} {temporary} {done.out[-500:]}{done.err} AGAIN {again.out}{again.err}"
        about = f"{script} with {free // 1024} KiB"
        tally.add(about, end, *dict.fromkeys(faults), said=said)
        if private:
            unmount(place)
    return tally


def leave(ballast: Path | None, free: int) -> None:
    """Fills the disk but for some bytes; without a disk of its own, no file may be longer."""
    if ballast is None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (free, free))
        return
    room = os.statvfs(ballast.parent)
    ballast.write_bytes(bytes(max(0, room.f_bavail * room.f_frsize - free)))


def at_the_end(fill: Callable[[], None]) -> None:
    """Fills the disk when the finished model is to be saved."""
    save = keras_files.save_model

    def save_on_a_full_disk(*arguments: Any) -> None:
        fill()
        save(*arguments)

    keras_files.save_model = save_on_a_full_disk


def not_writable(campaign: Campaign, place: Path, private: bool) -> Tally:
    """Folders mounted read-only, and folders of somebody else."""
    tally = Tally("read-only folder, no permission")
    for script in list(STAGES)[: len(campaign.times(5))]:
        for how in ("read-only", "somebody else's"):
            if how == "read-only" and private:
                mount(place, "size=64m")
                models_dir = copy_of(campaign.old, place / "models")
                ctypes.CDLL(None).mount(None, os.fsencode(place), None, READ_ONLY | REMOUNT, None)
                before = functools.partial(os.umask, 0o22)
            elif how != "read-only" and os.getuid() == 0:
                models_dir = copy_of(campaign.old, campaign.folder / "theirs")
                campaign.folder.chmod(0o755)
                before = functools.partial(os.seteuid, 65534)
            else:
                continue
            earlier = toy.digests(models_dir)
            done = run(*ask(script, models_dir, "--seed", 8), before=before)
            asked = run(*ask(script, models_dir, "--if-needed"), before=before)
            lost = "lost" if toy.digests(models_dir) != earlier else None
            kept = "lost" if asked.code else None  # what is up to date need not be written
            end = "refused in one line" if done.code == 2 else f"exit {done.code}"
            said = done.out[-300:] + done.err + "IF NEEDED " + asked.out[-300:] + asked.err
            faults = dict.fromkeys([done.fault, asked.fault, lost, kept])
            tally.add(f"{script}, {how}", end, *faults, said=said)
            if how == "read-only":
                unmount(place)
    return tally


def mount(place: Path, options: str) -> None:
    """A file system in memory."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", place], check=True)


def unmount(place: Path) -> None:
    """Takes it away."""
    subprocess.run(["umount", "-l", place], check=True)


def cases(campaign: Campaign) -> Iterator[Tally]:
    """Public reports of others' faults: the commands of ../shared/cases, where that is there."""
    tally, place = Tally("commands of public fault reports"), ROOT.parent / "shared" / "cases"
    sandbox = campaign.folder / "sandbox"
    if place.exists():
        shutil.rmtree(sandbox, ignore_errors=True)
        (sandbox / "out").mkdir(parents=True)
        copy_of(place, sandbox / "cases")
        copy_of(campaign.old, sandbox / "models" / "demo")
        copy_of(ROOT / "pipeline", sandbox / "pipeline")  # so that its models/ is the default
        for script in STAGES:
            shutil.copy(ROOT / f"{script}.py", sandbox)
    for case in sorted(place.glob("*/cmd.txt")):
        # Those with scripts of their own, or on a large data set, are in tests/ only.
        text = case.read_text().replace("cd / && python", "python")
        if campaign.late() or "TFDS_DATA_DIR" in text or ".sh " in text:
            continue
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "-c", text], cwd=sandbox, env=environment, capture_output=True, text=True
        )
        fault = "traceback" if "Traceback (most" in done.stdout + done.stderr else None
        tally.add(case.parent.name, "no traceback", fault, said=done.stderr)
    yield tally


def memory(campaign: Campaign) -> Iterator[Tally]:
    """Fifty conversions and fifty evaluations in one process: its memory stays flat."""
    place, times = campaign.folder / "memory.json", campaign.times(50)

    def work() -> None:
        model = keras_files.load_model(campaign.old, "pruned")
        images, masks = load_split(campaign.old, "test")
        calibration = images[:2].astype(np.float32) / 255
        seen: dict[str, list[int]] = {"conversions": [], "evaluations": []}
        for k in times:
            convert(model, list(VARIANTS)[k % len(VARIANTS)], calibration)
            seen["conversions"].append(resident_bytes("VmRSS"))
        for _ in times:
            for name in artifacts.MODELS:
                accuracy.measure(campaign.old, name, images, masks, 3)
            seen["evaluations"].append(resident_bytes("VmRSS"))
        place.write_text(json.dumps(seen))
        raise SystemExit(0)

    done = run("evaluation", before=work, patience=3600)
    assert place.exists(), done.out + done.err
    for kind, values in json.loads(place.read_text()).items():
        tally, fifth = Tally(f"{kind} in one process"), max(1, len(values) // 5)
        warm = values[fifth : 2 * fifth] or values  # what is loaded once has been loaded
        early, late = (np.mean(part) / 1e6 for part in (warm, values[-fifth:]))
        each = (late - early) / max(1, len(values) - 2 * fifth)
        end = f"resident memory: {early:.0f} MB in the second fifth, {late:.0f} MB in the last"
        for _ in values:
            tally.add(kind, end)
        if len(values) >= 50 and each > FLAT:
            tally.add("growth", "grew", "wrong", said=f"{each:.2f} MB each")
        yield tally
