"""Trials of files that are damaged, of every kind that a run leaves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import toy
from toy import ask, copy_of, facts, hidden, run
from trials import Campaign, Tally

from pipeline.base.artifacts import artifact_path


def cut(content: bytes, random: np.random.Generator) -> bytes:
    """The beginning of a file."""
    return content[: int(random.integers(len(content)))] if content else b""


def flipped(content: bytes, random: np.random.Generator, bits: int = 1) -> bytes:
    """A file with bits turned over."""
    changed = bytearray(content)
    for _ in range(bits):
        changed[int(random.integers(len(changed)))] ^= 1 << int(random.integers(8))
    return bytes(changed)


def garbage(content: bytes, random: np.random.Generator) -> bytes:
    """Noise in the length of a file."""
    return random.bytes(len(content))


def hole(content: bytes, random: np.random.Generator) -> bytes:
    """A file with a page of zeros in it, as a power cut leaves it."""
    start = int(random.integers(max(1, len(content))))
    return content[:start] + bytes(min(4096, len(content) - start)) + content[start + 4096 :]


def other_json(content: bytes, random: np.random.Generator) -> bytes:
    """JSON in which one value is of another kind; other files are cut."""
    try:
        tree = json.loads(content)
        places = [(tree, key) for key in tree]
        while places:
            holder, key = places[int(random.integers(len(places)))]
            if isinstance(holder[key], dict) and holder[key] and random.random() < 0.6:
                places = [(holder[key], each) for each in holder[key]]
                continue
            values = [None, [], {}, -1, 1e308, "x", [[]], True, "\0", {"a": None}]
            holder[key] = values[int(random.integers(len(values)))]
            break
        return json.dumps(tree).encode()
    except (ValueError, TypeError, UnicodeDecodeError):
        return cut(content, random)


DAMAGES: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "cut short": cut,
    "empty": lambda content, random: b"",
    "one bit": flipped,
    "noise": garbage,
    "a hole": hole,
    "another kind of value": other_json,
    "nested too deep": lambda content, random: b"[" * 100_000,
}


READERS = {  # which stages read a file of a finished run, by the beginning of its name
    "dataset/": ("training", "pruning", "quantization", "evaluation"),
    "original_model": ("pruning", "quantization", "evaluation"),
    "original_training": ("evaluation",),
    ".original_training_state": ("training",),
    ".taught_training_state": ("training",),
    "pruned_model": ("quantization", "evaluation"),
    "pruned_training": ("evaluation",),
    "pruned_float32": ("evaluation", "quantization"),
    ".pruned_training_state": ("pruning",),
    ".pruned_channels": ("pruning",),
    "float32": ("evaluation", "quantization"),
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
    for script, state, more in (("training", ".taught", ()), ("pruning", ".pruned", CHANNELS)):
        half = toy.stopped(script, campaign.old, campaign.folder / "half", *more, state=state)
        for name in hidden(half):
            if name.startswith((".original_training_state", ".taught", ".pruned")):
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
        how = list(DAMAGES)[int(random.integers(len(DAMAGES)))]
        models_dir = copy_of(base, campaign.folder / "damaged")
        content = (models_dir / name).read_bytes()
        (models_dir / name).write_bytes(DAMAGES[how](content, random))
        more: tuple[Any, ...] = ()
        if "state" in name or "channels" in name:
            more = ("--resume", *(CHANNELS if script == "pruning" else ()))
            made = {"training": "original", "pruning": "pruned"}[script]
            artifact_path(models_dir, made).unlink()  # else the run is finished
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
    yield tally
