"""What a training needs to go on after a kill: one file, written after each epoch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.artifacts import DAMAGED, atomic
from pipeline.base.console import say
from pipeline.base.lazy import keras
from pipeline.base.stage import Stage, differences
from pipeline.base.system import tensorflow_threads


def state_path(models_dir: Path, name: str) -> Path:
    """Where the state of an unfinished training lies, until its model and record are in place."""
    return models_dir / f".{name}_training_state.npz"


class TrainingState:
    """All that a killed run needs to go on: one file, written after each epoch and renamed."""

    def __init__(self, stage: Stage, name: str, model: keras.Model, optimizer: Any) -> None:
        self.stage, self.path = stage, state_path(stage.models_dir, name)
        self.variables = [*model.variables, *optimizer.variables]
        self.history: list[dict[str, float]] = []
        self.best: list[np.ndarray] = []  # the model's weights at the best epoch

    def save(self, chief: bool = True) -> None:
        """Writes everything after a finished epoch.

        All workers call it: to read a variable they may have to average what each of them
        holds. Only the chief writes.
        """
        values = {f"now{k}": v.numpy() for k, v in enumerate(self.variables)}
        if not chief:
            return
        values |= {f"best{k}": v for k, v in enumerate(self.best)}
        threads = [*self.stage.threads_before, tensorflow_threads()]
        kept = {"identity": self.stage.identity(), "history": self.history, "threads": threads}
        about = json.dumps(kept)
        with atomic(self.path) as temporary:
            np.savez(temporary, about=about, **values)

    def restore(self) -> None:
        """Goes back to the last finished epoch of this very run; else says why it begins anew.

        Nothing is assigned before all of the file was read and found to fit.
        """
        if not self.path.exists():
            return
        try:
            with np.load(self.path) as file:
                values = {name: file[name] for name in file.files}
            about = json.loads(str(values["about"]))
            identity, history = dict(about["identity"]), about["history"]
            threads = [int(number) for number in about["threads"]]
        except DAMAGED:
            say(f"{self.path} is damaged; beginning anew")
            return
        if not self.stage.may_resume(identity):
            return
        now = [values.get(f"now{k}") for k in range(len(self.variables))]
        more = f"now{len(now)}" in values
        if more or any(v is None or v.shape != each.shape for v, each in zip(now, self.variables)):
            say(f"{self.path} is of another network; beginning anew")
            return
        for variable, value in zip(self.variables, now):
            variable.assign(value)
        self.best = [values[f"best{k}"] for k in range(sum(key[:4] == "best" for key in values))]
        self.history = history
        say(f"going on after epoch {len(self.history)}")
        self.stage.threads_before[:] = [n for n in threads if n != tensorflow_threads()]
        if self.stage.threads_before:
            say(
                f"on {tensorflow_threads()} threads, after epochs on {threads[-1]}: the weights "
                "will not be, bit for bit, those of a run that went through"
            )


def forget(stage: Stage, *names: str, ours_only: bool = False) -> None:
    """Removes the states of trainings whose model and record are in place.

    With `ours_only` only those of this very run, which was killed right before it forgot.
    """
    for path in (state_path(stage.models_dir, name) for name in names):
        if path.exists() and (not ours_only or is_ours(stage, path)):
            path.unlink()  # only what is there: on a read-only disk else it would be a fault


def is_ours(stage: Stage, path: Path) -> bool:
    """Whether a state was left by a run of this identity."""
    try:
        with np.load(path) as file:
            identity = json.loads(str(file["about"]))["identity"]
    except DAMAGED:
        return False
    return not differences(identity, stage.identity())
