"""Provokes faults on toy runs, counts what must never happen, writes docs/reliability.json.

    python tests/campaigns/campaign.py --seconds 1800 --write kills signals corruptions flips \
        flags disk pairs cases memory

Each kind of fault is drawn by a seed; the same seed draws the same faults. --share 0.05 tries a
twentieth of each. What is tried and found is in docs/reliability.md, whose table is made from the
JSON by `python tests/test_readme.py`.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import functools
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import toy
from toy import ROOT, STAGES, Result, ask, copy_of, facts, hidden, run

from pipeline import artifacts, console, keras_models, photos, timing

JSON = ROOT / "docs" / "reliability.json"
NEVER = ("traceback", "crash", "hang", "silent", "many lines", "lost", "wrong", "code run", "left")
COLUMNS = {  # of the table: what is added up in it
    "tracebacks, or silent": ("traceback", "silent", "many lines"),
    "artifacts lost": ("lost", "left"),
    "wrong without a word": ("wrong",),
    "crashes, hangs": ("crash", "hang"),
    "code run": ("code run",),
}
UNSHARED = 0x00020000  # CLONE_NEWNS
READ_ONLY, REMOUNT = 1, 32  # MS_RDONLY, MS_REMOUNT


class Tally:
    """What was tried of one kind, and how it ended."""

    def __init__(self, what: str) -> None:
        self.what, self.tried, self.seconds = what, 0, 0.0
        self.ends: Counter[str] = Counter()
        self.found: list[str] = []

    def add(self, about: str, end: str, *faults: str | None, said: str = "") -> None:
        """One try: how it ended, and which faults of NEVER were seen in it."""
        self.tried += 1
        self.ends[end] += 1
        for fault in filter(None, faults):
            assert fault in NEVER, fault
            self.ends[fault] += 1
            self.found.append(f"{fault}: {about}: {said.strip()[-600:]}")
            print(f"  {fault}: {about}: {said.strip()[-2000:]}", flush=True)

    def row(self) -> dict[str, Any]:
        """For the JSON."""
        faults = {fault: self.ends[fault] for fault in NEVER if self.ends[fault]}
        ends = {end: number for end, number in self.ends.items() if end not in NEVER}
        seconds = round(self.seconds)
        return {"what": self.what, "tried": self.tried, "ended": ends, "faults": faults} | {
            "cpu_seconds": seconds
        }


class Campaign:
    """A seed, a time limit, and the toy run that all kinds begin with."""

    def __init__(self, folder: Path, seed: int, share: float, ends: float) -> None:
        self.folder, self.seed, self.share, self.ends = folder, seed, share, ends
        self.old = toy.finished(folder / "old")
        self.new: dict[str, tuple[dict[str, Any], Result]] = {}

    def times(self, number: int) -> range:
        """So often a kind is tried, as --share allows."""
        return range(max(1, round(number * self.share)))

    def late(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() > self.ends

    def random(self, kind: str) -> np.random.Generator:
        """The generator of one kind: others tried before it do not change it."""
        return np.random.default_rng([self.seed, *kind.encode()])

    def undisturbed(self, script: str) -> tuple[dict[str, Any], Result]:
        """What a stage makes with another seed, when nothing comes in between."""
        if script not in self.new:
            models_dir = copy_of(self.old, self.folder / "new")
            done = run(*ask(script, models_dir, "--seed", 8))
            assert done.code == 0, done.out + done.err
            self.new[script] = facts(script, models_dir), done
        return self.new[script]

    def check_whole(self, script: str, models_dir: Path) -> list[str]:
        """Faults of a folder in which a stage was stopped: each artifact is old, new or gone for
        good reason, each record and table can be read, and what is half done is seen as stale.
        """
        known = [facts(script, self.old), self.undisturbed(script)[0]]
        try:
            now = facts(script, models_dir)
            for path in models_dir.glob("*.json"):
                json.loads(path.read_text())
            for name in artifacts.MODELS:
                artifacts.stale_reason(models_dir, name)
        except (OSError, ValueError, console.UserError) as error:
            return [f"lost: {error!r}"]
        if script == "data_preparation":  # arrays of both may lie there; the record names one set
            whole = [set(map(tuple, each["arrays"])) <= set(now["arrays"]) for each in known]
            return [] if any(whole) else ["lost: neither data set is whole"]
        wrong = [key for key in now if now[key] not in [each.get(key) for each in known]]
        return [f"lost: {key} is neither old nor new" for key in wrong]

    def check_rerun(self, script: str, models_dir: Path) -> tuple[list[str], Result]:
        """Runs a stopped stage again, as `make` does; it must end as if nothing had been."""
        state = any(name.endswith("_state.npz") for name in hidden(models_dir))
        more = ("--resume",) if script in ("training", "pruning", "quantization") else ()
        again = run(*ask(script, models_dir, "--seed", 8, "--if-needed", *more))
        faults = [again.fault] if again.fault else []
        if again.code:
            faults.append("lost")
        elif facts(script, models_dir) != self.undisturbed(script)[0]:
            faults.append("wrong")
        elif state and "going on after epoch" not in again.out:
            faults.append("lost")  # epochs that were finished
        if left := hidden(models_dir):
            faults.append("left")
            again.err += f"left: {left}"
        return faults, again


# --- kinds ----------------------------------------------------------------------------------


def stops(campaign: Campaign, what: str, number: int, signals: dict[int, int]) -> Tally:
    """Stages stopped by a signal: half of them at a random moment, half at a change of a file."""
    tally, random = Tally(what), campaign.random(what)
    for k in campaign.times(number):
        if campaign.late():
            break
        script = list(STAGES)[k % len(STAGES)]
        sent = list(signals)[(k // len(STAGES)) % len(signals)]
        _, reference = campaign.undisturbed(script)
        models_dir = copy_of(campaign.old, campaign.folder / "stopped")
        if (k // len(STAGES) // len(signals)) % 2:
            moment = float(random.uniform(0, reference.seconds))
            done = run(*ask(script, models_dir, "--seed", 8), kill=(sent, moment))
            about = f"{script}, signal {sent} after {moment:.2f} s of CPU"
        else:
            place = int(random.integers(2 * reference.events))
            done = run(*ask(script, models_dir, "--seed", 8), event=(sent, place))
            about = f"{script}, signal {sent} at change {place / 2:.1f}"
        faults = [done.fault]
        if done.code not in (0, signals[sent], -sent) and not done.fault:
            faults.append("silent" if sent != signal.SIGKILL else "crash")
        if sent != signal.SIGKILL and done.code == -sent:
            faults.append("silent")  # it ended without our line
        whole = campaign.check_whole(script, models_dir)
        faults += ["lost"] * bool(whole)
        again_faults, again = campaign.check_rerun(script, models_dir)
        said = f"{whole} {done.out}{done.err} AGAIN {again.out}{again.err}"
        end = "ended before" if done.code == 0 else "stopped"
        tally.add(about, end, *dict.fromkeys([*faults, *again_faults]), said=said)
        tally.seconds += done.seconds + again.seconds
    return tally


def kills(campaign: Campaign) -> Iterator[Tally]:
    """SIGKILL."""
    yield stops(campaign, "SIGKILL, five stages", 100, {signal.SIGKILL: -signal.SIGKILL})


def signals(campaign: Campaign) -> Iterator[Tally]:
    """SIGTERM, and Ctrl-C, also while packages are imported."""
    codes = {signal.SIGTERM: 143, signal.SIGINT: 130}
    yield stops(campaign, "SIGTERM and SIGINT, five stages", 60, codes)
    tally, random = Tally("SIGINT while packages are imported"), campaign.random("imports")
    for k in campaign.times(10):
        script = list(STAGES)[k % len(STAGES)]
        models_dir = copy_of(campaign.old, campaign.folder / "stopped")
        command = [sys.executable, ROOT / f"{script}.py", *ask(script, models_dir)[1:]]
        process = subprocess.Popen(
            list(map(str, command)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        moment = float(random.uniform(0.2, 2.0))
        child = toy.Child(process.pid, None, None, None)  # type: ignore[arg-type]
        while process.poll() is None and child.cpu() < moment:
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=toy.PATIENCE)
        done = Result(process.returncode, out, err, moment, 0)
        faults = [done.fault] + ["silent"] * (done.code not in (0, 130))
        tally.add(f"{script} after {moment:.2f} s of CPU", f"exit {done.code}", *faults, said=err)
        tally.seconds += moment
    yield tally


READERS = {  # which stages read a file of a finished run, by the beginning of its name
    "dataset/": ("training", "pruning", "quantization", "evaluation"),
    "original_model": ("pruning", "evaluation"),
    "original_training": ("evaluation",),
    ".original_training_state": ("training",),
    "pruned_model": ("quantization", "evaluation"),
    "pruned_training": ("evaluation",),
    "pruned_float32": ("evaluation",),
    ".pruned_training_state": ("pruning",),
    ".pruned_channels": ("pruning",),
    "float32": ("evaluation",),
    "dynamic": ("evaluation", "quantization"),
    "int8": ("evaluation", "quantization"),
    "float16": ("evaluation", "quantization"),
    "evaluation": ("evaluation",),
    "report": ("evaluation",),
    "counts": ("evaluation",),
}
CHANNELS = ("--channels", 0.3)


def corruptions(campaign: Campaign) -> Iterator[Tally]:
    """Every kind of file damaged, and read by a stage that reads it."""
    tally, random = Tally("damaged files, read by the next stage"), campaign.random("corruptions")
    base = copy_of(campaign.old, campaign.folder / "with_states")
    for script, more in (("training", ()), ("pruning", CHANNELS)):  # stopped after an epoch
        half = copy_of(campaign.old, campaign.folder / "half")
        run(*ask(script, half, *more), kill=(signal.SIGKILL, 1e9), before=stop_after_an_epoch)
        for name in hidden(half):
            if name.startswith((".original_training_state", ".pruned")):
                shutil.copy(half / name, base / name)
    files = sorted(
        path.relative_to(base).as_posix()
        for path in base.rglob("*")
        if path.is_file() and path.suffix not in (".jpg", ".png")
    )
    kinds = sorted({name.split("-")[0] for name in files})
    expected: dict[str, dict[str, Any]] = {}
    for k in campaign.times(200):
        if campaign.late():
            break
        kind = kinds[k % len(kinds)]
        chosen = [name for name in files if name.split("-")[0] == kind]
        name = chosen[int(random.integers(len(chosen)))]
        readers = next(readers for start, readers in READERS.items() if name.startswith(start))
        script = readers[int(random.integers(len(readers)))]
        how = list(toy.DAMAGES)[int(random.integers(len(toy.DAMAGES)))]
        models_dir = copy_of(base, campaign.folder / "damaged")
        content = (models_dir / name).read_bytes()
        (models_dir / name).write_bytes(toy.DAMAGES[how](content, random))
        more: tuple[Any, ...] = ()
        if "state" in name or "channels" in name:
            more = ("--resume", *(CHANNELS if script == "pruning" else ()))
        elif script == "evaluation" or random.random() < 0.5:
            more = ("--if-needed",) if random.random() < 0.7 else ()
        done = run(*ask(script, models_dir, *more))
        faults, end = [done.fault], "refused in one line" if done.code == 2 else "made anew"
        if done.code == 0 and not done.fault:
            key = script + str("--channels" in more)
            if key not in expected:
                plain = copy_of(campaign.old, campaign.folder / "plain")
                run(*ask(script, plain, *(each for each in more if each != "--resume")))
                expected[key] = facts(script, plain)
            now = facts(script, models_dir)
            differs = [part for part in now if now[part] != expected[key].get(part)]
            marked = script == "evaluation" and all(now[part]["stale"] for part in differs)
            if differs and not marked:
                faults.append("wrong")
            end = "marked as stale" if differs else "right all the same, or made anew"
        elif done.code not in (0, 2):
            faults.append("silent" if not done.fault else None)
        about = f"{name}, {how}, read by {script} {' '.join(map(str, more))}"
        tally.add(about, end, *faults, said=done.out[-500:] + done.err)
        tally.seconds += done.seconds
    yield tally


def stop_after_an_epoch() -> None:
    """Kills the process right after its first state was saved."""
    from pipeline import fitting

    save = fitting.TrainingState.save

    def save_and_die(self: Any, *arguments: Any) -> None:
        save(self, *arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    fitting.TrainingState.save = save_and_die


def flips(campaign: Campaign) -> Iterator[Tally]:
    """Bits turned over in model files that are opened as somebody else's, and run once."""
    picture = np.zeros((toy.SIZE, toy.SIZE, 3), np.uint8)

    def look(path: Path) -> str:
        """How a user of --model would fare: "refused", "opened", or the fault."""
        try:
            *_, scores = photos.open_scorer(path)
            scores(picture)
        except console.UserError as error:
            return "refused in one line" if "\n" not in str(error) else "many lines"
        except Exception as error:
            return f"traceback {error!r}"[:300]
        return "opened, and ran"

    for suffix in (".tflite", ".h5"):
        tally = Tally(f"bits turned over in somebody else's {suffix}")
        random = campaign.random("flips" + suffix)
        source = campaign.folder / f"small{suffix}"
        small_models(campaign.folder)
        content, left = source.read_bytes(), len(campaign.times(1000))
        while left > 0 and not campaign.late():
            part = min(50, left)
            paths = []
            for k in range(part):
                paths.append(campaign.folder / f"flipped{k}{suffix}")
                bits = int(random.integers(1, 9)) if k % 2 else 1
                paths[-1].write_bytes(toy.flipped(content, random, bits))
            place = campaign.folder / "looked.json"
            place.unlink(missing_ok=True)

            def look_at_all(paths: list[Path] = paths, place: Path = place) -> None:
                ends: list[str] = []
                for path in paths:
                    place.write_text(json.dumps([*ends, f"crash {path.name}"]))
                    ends.append(look(path))
                place.write_text(json.dumps(ends))
                raise SystemExit(0)

            done = run("evaluation", before=look_at_all)
            ends = json.loads(place.read_text())
            for path, end in zip(paths, ends):
                fault = next(
                    (word for word in ("traceback", "crash") if end.startswith(word)), None
                )
                if fault:
                    shutil.copy(path, campaign.folder / f"kept_{tally.tried}{suffix}")
                tally.add(f"{suffix} {tally.tried}", "a fault" if fault else end, fault, said=end)
            left -= len(ends)
            tally.seconds += done.seconds
        yield tally
    yield hostile(campaign)


def small_models(folder: Path) -> None:
    """A network of few weights as small.h5 and small.tflite: most of their bytes are structure."""
    if (folder / "small.tflite").exists():
        return

    def write() -> None:
        from pipeline.conversion import convert

        model = toy.network((toy.SIZE, toy.SIZE), 3, 8)
        keras_models.save_model(model, folder / "small.h5")
        calibration = np.random.default_rng(0).random((2, toy.SIZE, toy.SIZE, 3), np.float32)
        (folder / "small.tflite").write_bytes(convert(model, "int8", calibration))
        raise SystemExit(0)

    done = run("evaluation", before=write)
    assert done.code == 0, done.err


def hostile(campaign: Campaign) -> Tally:
    """Models that would run code: Lambda layers, functions of TensorFlow, objects of modules."""
    tally, mark = Tally("models that would run code"), campaign.folder / "code_ran"

    def write(path: Path, kind: str) -> None:
        from pipeline.packages import layers, tf

        image = toy.layers.Input((toy.SIZE, toy.SIZE, 3))
        text = str(mark)
        made = {
            "Lambda": lambda: layers.Lambda(
                lambda x: (__import__("pathlib").Path(text).touch(), x)[1]
            )(image),
            "function": lambda: tf.io.write_file(text, tf.strings.as_string(tf.reduce_sum(image))),
            "read": lambda: image + tf.cast(tf.strings.length(tf.io.read_file(text)), tf.float32),
        }
        x = made[kind]()
        mark.unlink(missing_ok=True)
        output = x if kind != "function" else layers.Conv2D(3, 1)(image)
        toy.keras.Model(image, [output, x] if kind == "function" else output).save(path)
        raise SystemExit(0)

    for k in campaign.times(30):
        kind = ("Lambda", "read", "module", "custom", "initializer")[k % 5]
        path = campaign.folder / f"hostile_{kind}.h5"
        if kind in ("Lambda", "read"):
            mark.write_text("x")
            done = run("evaluation", before=functools.partial(write, path, kind))
            if not path.exists():
                tally.add(kind, "could not be made")
                continue
        else:
            forge(campaign.folder / "small.h5", path, kind, mark)
        mark.unlink(missing_ok=True)

        def use(path: Path = path) -> None:
            *_, scores = photos.open_scorer(path)
            scores(np.zeros((toy.SIZE, toy.SIZE, 3), np.uint8))

        done = run("evaluation", before=functools.partial(wrapped, use))
        end = "refused in one line" if done.code == 2 else f"exit {done.code}"
        wrong = "wrong" if done.code == 0 and not mark.exists() else None
        ran = "code run" if mark.exists() else None
        tally.add(kind, end, done.fault, ran, wrong, said=done.out + done.err)
    return tally


def wrapped(function: Callable[[], None]) -> None:
    """Runs a function in place of a script's main."""

    def main() -> int:
        function()
        return 0

    console.run(main)


def forge(source: Path, target: Path, kind: str, mark: Path) -> None:
    """A model file whose configuration names something that must not be made."""
    import h5py

    shutil.copy(source, target)
    with h5py.File(target, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        layer = config["config"]["layers"][1]
        foreign = {"module": "os", "class_name": "system", "config": {"command": f"touch {mark}"}}
        if kind == "module":
            layer |= foreign
        elif kind == "custom":
            layer |= {"class_name": "Lambda2", "registered_name": "evil>Lambda2"}
        else:
            layer["config"]["kernel_initializer"] = foreign
        file.attrs["model_config"] = json.dumps(config)


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
        tally.seconds += done.seconds
    yield tally


def parser_of(module: Any) -> argparse.ArgumentParser:
    """The parser that a script's `parse` builds."""
    found: list[argparse.ArgumentParser] = []
    plain = argparse.ArgumentParser.parse_args

    def catch(self: argparse.ArgumentParser, *_: Any) -> argparse.Namespace:
        found.append(self)
        return plain(self, [])

    argparse.ArgumentParser.parse_args = catch  # type: ignore[method-assign]
    try:
        module.parse([])
    finally:
        argparse.ArgumentParser.parse_args = plain  # type: ignore[method-assign]
    return found[0]


def bad_values(action: argparse.Action) -> tuple[str, ...]:
    """Ten values that a flag cannot mean."""
    if action.nargs == 0 or action.choices:
        return WORDS
    if action.type is Path:
        return PATHS
    return tuple(value for value in NUMBERS if action.dest != "max_bytes" or value != "9" * 30)


def disk(campaign: Campaign) -> Iterator[Tally]:
    """A file system that fills up under each stage, one that cannot be written, and no right to."""
    tally, random = Tally("full disk, five stages"), campaign.random("disk")
    place = campaign.folder / "mounted"
    place.mkdir(exist_ok=True)
    private = ctypes.CDLL(None).unshare(UNSHARED) == 0
    if private:
        subprocess.run(["mount", "--make-rprivate", "/"], check=False, capture_output=True)
    for k in campaign.times(30):
        if campaign.late():
            break
        script = list(STAGES)[k % len(STAGES)]
        campaign.undisturbed(script)
        free = int(random.integers(1, 600)) * 1024
        if private:
            mount(place, "size=64m")
            models_dir = copy_of(campaign.old, place / "models")
            ballast = place / "ballast"
            room = os.statvfs(place)
            ballast.write_bytes(bytes(max(0, room.f_bavail * room.f_frsize - free)))
        else:
            models_dir, ballast = copy_of(campaign.old, campaign.folder / "full"), None
        done = run(
            *ask(script, models_dir, "--seed", 8),
            before=functools.partial(limit_files, None if private else free),
        )
        whole = campaign.check_whole(script, models_dir)
        temporary = [name for name in hidden(models_dir) if "state" not in name]
        if ballast:
            ballast.unlink()
        faults, again = campaign.check_rerun(script, models_dir)
        end = "refused in one line" if done.code == 2 else f"exit {done.code}"
        faults = [done.fault, *["lost"] * bool(whole), *["left"] * bool(temporary), *faults]
        said = f"{whole} {temporary} {done.out[-500:]}{done.err} AGAIN {again.out}{again.err}"
        about = f"{script} with {free // 1024} KiB"
        tally.add(about, end, *dict.fromkeys(faults), said=said)
        tally.seconds += done.seconds + again.seconds
        if private:
            unmount(place)
    yield tally
    yield not_writable(campaign, place, private)


def limit_files(size: int | None) -> None:
    """Where no file system can be mounted, no file of this process may grow beyond a size."""
    if size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def not_writable(campaign: Campaign, place: Path, private: bool) -> Tally:
    """Folders mounted read-only, and folders of somebody else."""
    tally = Tally("read-only folder, no permission")
    for script in list(STAGES)[: len(campaign.times(5))]:
        for how in ("read-only", "somebody else's"):
            if how == "read-only" and private:
                mount(place, "size=64m")
                models_dir = copy_of(campaign.old, place / "models")
                ctypes.CDLL(None).mount(None, os.fsencode(place), None, READ_ONLY | REMOUNT, None)
                before = functools.partial(limit_files, None)
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
            tally.seconds += done.seconds + asked.seconds
            if how == "read-only":
                unmount(place)
    return tally


def mount(place: Path, options: str) -> None:
    """A file system in memory."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", place], check=True)


def unmount(place: Path) -> None:
    """Takes it away."""
    subprocess.run(["umount", "-l", place], check=True)


def pairs(campaign: Campaign) -> Iterator[Tally]:
    """Two stages at once in a folder, in every pair."""
    tally = Tally("two at once, every pair of stages")
    every = [(first, second) for first in STAGES for second in STAGES]
    for first, second in every[:: max(1, round(1 / campaign.share))]:
        if campaign.late():
            break
        models_dir = copy_of(campaign.old, campaign.folder / "shared")
        campaign.undisturbed(first)
        child = toy.start(*ask(first, models_dir, "--seed", 8))
        deadline = time.monotonic() + 60
        while not (models_dir / ".lock").exists() and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(child.pid, signal.SIGSTOP)  # in the middle of its work
        late = run(*ask(second, models_dir, "--seed", 8))
        os.kill(child.pid, signal.SIGCONT)
        done = child.wait()
        faults = [done.fault, late.fault]
        if done.code or facts(first, models_dir) != campaign.undisturbed(first)[0]:
            faults.append("wrong")
        told = late.code == 2 and f"{first}.py (process {child.pid}) works in" in late.err
        if not told:
            faults.append("silent")
        if hidden(models_dir):
            faults.append("left")
        said = f"{done.out[-300:]}{done.err} SECOND {late.code} {late.out[-300:]}{late.err}"
        end = "the second was told, the first was right" if told else "otherwise"
        tally.add(f"{first} and {second}", end, *dict.fromkeys(faults), said=said)
        tally.seconds += done.seconds + late.seconds
    yield tally


def cases(campaign: Campaign) -> Iterator[Tally]:
    """Public reports of others' faults: the commands of ../shared/cases, where that is there."""
    tally, place = Tally("commands of public fault reports"), ROOT.parent / "shared" / "cases"
    sandbox = campaign.folder / "sandbox"
    if place.exists():
        sandbox.mkdir()
        shutil.copytree(place, sandbox / "cases")
        (sandbox / "out").mkdir()
        (sandbox / "models").mkdir()
        (sandbox / "models" / "demo").symlink_to(campaign.old)
        for script in STAGES:
            (sandbox / f"{script}.py").symlink_to(ROOT / f"{script}.py")
    for case in sorted(place.glob("*/cmd.txt")):
        text = case.read_text()
        if campaign.late() or "TFDS_DATA_DIR" in text or "kill_worker" in text or "sh " in text:
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
    tally = Tally("50 conversions and 50 evaluations in one process")
    place = campaign.folder / "memory.json"

    def work() -> None:
        from pipeline import accuracy
        from pipeline.conversion import convert
        from pipeline.dataset import load_split

        model = keras_models.load_model(campaign.old, "pruned")
        images, masks = load_split(campaign.old, "test")
        calibration = images[:2].astype(np.float32) / 255
        seen: dict[str, list[int]] = {"conversion": [], "evaluation": []}
        for _ in campaign.times(50):
            convert(model, "int8", calibration)
            seen["conversion"].append(timing.resident_bytes("VmRSS"))
        for _ in campaign.times(50):
            for name in ("original", "int8"):
                accuracy.confusion_per_image(campaign.old, name, images, masks)
            seen["evaluation"].append(timing.resident_bytes("VmRSS"))
        place.write_text(json.dumps(seen))
        raise SystemExit(0)

    done = run("evaluation", before=work, patience=3600)
    seen = json.loads(place.read_text())
    for kind, values in seen.items():
        half = len(values) // 2
        each = (np.mean(values[-5:]) - np.mean(values[half : half + 5])) / max(1, half - 5) / 1e6
        end = f"{kind}: {values[half] / 1e6:.0f} MB half-way, {values[-1] / 1e6:.0f} at the end"
        tally.add(kind, end, "wrong" if half > 5 and each > 2 else None, said=f"{each:.2f} MB each")
    tally.seconds = done.seconds
    yield tally


KINDS: dict[str, Callable[[Campaign], Iterator[Tally]]] = {
    each.__name__: each
    for each in (kills, signals, corruptions, flips, flags, disk, pairs, cases, memory)
}


# --- what was found -------------------------------------------------------------------------


def markdown(record: dict[str, Any]) -> str:
    """The rows of a campaign as a table."""
    head = ["what was tried", "how often", *COLUMNS, "how it ended"]
    lines = [head, ["---", *["---:"] * (1 + len(COLUMNS)), "---"]]
    for row in record["rows"]:
        sums = [str(sum(row["faults"].get(key, 0) for key in keys)) for keys in COLUMNS.values()]
        ends = "; ".join(
            f"{number} {end}" if number > 1 or row["tried"] > 1 else end
            for end, number in sorted(row["ended"].items(), key=lambda item: -item[1])
        )
        lines.append([row["what"], str(row["tried"]), *sums, ends])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> int:
    """Runs the kinds that are named; the exit code says whether a fault was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], default=list(KINDS))
    parser.add_argument("--seconds", type=float, default=1800, help="wall time, for all kinds")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--share", type=float, default=1.0, help="of the number of tries")
    parser.add_argument("--write", nargs="?", type=Path, const=JSON, help="the JSON to write")
    parser.add_argument("--keep", type=Path, help="work here, and leave it")
    arguments = parser.parse_args()
    toy.load()
    with tempfile.TemporaryDirectory() as folder:
        place = arguments.keep or Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(0o755)
        ends = time.monotonic() + arguments.seconds
        campaign = Campaign(place, arguments.seed, arguments.share, ends)
        rows = []
        for kind in arguments.kinds:
            for tally in KINDS[kind](campaign):
                rows.append({"kind": kind, **tally.row()})
                print(json.dumps(rows[-1]), flush=True)
    record = {
        "campaign": {"seed": arguments.seed, "share": arguments.share},
        "date": datetime.date.today().isoformat(),
        "system": platform.platform(),
        "cpu": timing.cpu_name(),
        "rows": rows,
    }
    if arguments.write:
        artifacts.write_json(arguments.write, record)
    return int(any(row["faults"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
