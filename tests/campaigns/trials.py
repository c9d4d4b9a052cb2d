"""What all trials share: the count of what happened, and the toy run that they begin with."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import toy
from toy import Result, ask, copy_of, facts, hidden, run

from pipeline.base import artifacts, console

NEVER = ("traceback", "crash", "hang", "silent", "many lines", "lost", "wrong", "code run", "left")


class Tally:
    """What was tried of one kind, and how it ended."""

    def __init__(self, what: str) -> None:
        self.what, self.tried = what, 0
        self.ends: Counter[str] = Counter()

    def add(self, about: str, end: str, *faults: str | None, said: str = "") -> None:
        """One try: how it ended, and which faults of NEVER were seen in it."""
        self.tried += 1
        self.ends[end] += 1
        for fault in filter(None, faults):
            assert fault in NEVER, fault
            self.ends[fault] += 1
            print(f"  {fault}: {about}: {said.strip()[-2000:]}", flush=True)

    def row(self) -> dict[str, Any]:
        """For the JSON."""
        faults = {fault: self.ends[fault] for fault in NEVER if self.ends[fault]}
        ends = {end: number for end, number in self.ends.items() if end not in NEVER}
        return {"what": self.what, "tried": self.tried, "ended": ends, "faults": faults}


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
        elif state and not any(said in again.out for said in ("going on after", "up to date")):
            faults.append("lost")  # epochs that were finished
        if left := hidden(models_dir):
            faults.append("left")
            again.err += f"left: {left}"
        return faults, again
