"""Checkpoints: what a training that was stopped needs to continue, in one file per phase."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.base import unfinished
from pipeline.base.artifacts import dictionary
from pipeline.base.console import say
from pipeline.base.files import atomic
from pipeline.base.identity import NOT_RESUMED, Resumption, settings_of
from pipeline.base.lazy import keras, tf
from pipeline.base.stage import Stage
from pipeline.base.system import is_first_worker, tensorflow_threads
from pipeline.data.npz import read_npz
from pipeline.training.workers import check_same_run, from_first_worker, spans_workers

HEADER = "about"  # name of the array that holds the JSON text; the other arrays are weights


def state_path(models_dir: Path, phase: str) -> Path:
    """The file of an unfinished phase. It stays until the model and its record are in place."""
    return models_dir / f".{phase}_training_state.npz"


class TrainingState:
    """The state of one phase of a training. It is saved after each epoch, by an atomic rename."""

    def __init__(
        self,
        stage: Stage,
        phase: str,
        model: keras.Model,
        optimizer: Any,
        resumption: Resumption = NOT_RESUMED,
    ) -> None:
        """Names the file and the variables; reads and writes nothing.

        Args:
            phase: name of the phase, see `state_path`.
            optimizer: built, so that all its variables exist.
            resumption: what the phases before have to tell the record.
        """
        self.stage, self.path = stage, state_path(stage.models_dir, phase)
        self.resumption = resumption
        self.variables = [*model.variables, *optimizer.variables]
        self.weight_shapes = [value.shape for value in model.get_weights()]
        self.history: list[dict[str, Any]] = []
        self.best: list[np.ndarray] = []  # the weights of the best epoch, as `get_weights` orders
        self.saved = False

    def save(self, chief: bool = True) -> None:
        """Writes the state after a finished epoch; that of another run is set aside before.

        All workers call it, because reading a variable may need all of them: one that is averaged
        over the workers, for example.

        Args:
            chief: whether this worker writes the file.
        """
        arrays = {f"now{k}": variable.numpy() for k, variable in enumerate(self.variables)}
        if not chief:
            return
        arrays |= {f"best{k}": value for k, value in enumerate(self.best)}
        if not self.saved and self.path.exists():
            state = read_state(self.path)
            if state is not None and not self.stage.is_this_run(state[0].identity):
                unfinished.set_aside(self.path, state[0].identity)
        header = {
            "identity": self.stage.identity.as_dict(),
            "settings": settings_of(self.stage.arguments),
            "history": self.history,
            "threads": [*self.resumption.threads_before, tensorflow_threads()],
        }
        content: dict[str, Any] = {HEADER: json.dumps(header), **arrays}
        with atomic(self.path) as temporary:
            np.savez(temporary, **content)
        self.saved = True

    def restore(self, resume: bool = True, strategy: tf.distribute.Strategy | None = None) -> None:
        """Continues after the last finished epoch of this same run, or says why it cannot.

        Nothing is assigned before the whole file was read and found to fit. Of several workers the
        first one decides: all continue with its state, or none does.

        Args:
            resume: whether to look for a state.
            strategy: of the training; None: that of one machine.

        Raises:
            OSError: the system does not open the file, which says nothing of its content.
            UserError: as `workers.check_same_run`.
        """
        state = self.fitting_state() if resume and is_first_worker() else None
        if strategy is not None and spans_workers(strategy):
            check_same_run(self.stage, strategy)
            content = from_first_worker(state and packed(*state), strategy)
            state = None if content is None else read_state(io.BytesIO(content))
        if state is not None:
            self.take(*state)

    def fitting_state(self) -> State | None:
        """The state to continue with; None if there is none, or after a line that says why.

        Raises:
            OSError: as `restore`.
        """
        states = read_states(self.path)
        if not states:
            return None
        path = unfinished.nearest(
            {
                path: self.stage.differences(state and state[0].identity)
                for path, state in states.items()
            }
        )
        state = states[path]
        if state is None:
            say(f"{path} is damaged; beginning anew")
            return None
        header, arrays = state
        resumption = self.stage.may_resume(header.identity)
        if resumption is None:
            return None
        current, best = numbered(arrays, "now"), numbered(arrays, "best")
        if not (
            shapes_agree(current, (variable.shape for variable in self.variables))
            and shapes_agree(best, self.weight_shapes)
        ):
            say(f"{path} is of another network; beginning anew")
            return None
        accepted = dict.fromkeys((*self.resumption.accepted, *resumption.accepted))
        self.resumption = self.resumption._replace(accepted=tuple(accepted))
        return state

    def take(self, header: Header, arrays: dict[str, np.ndarray]) -> None:
        """Puts a state that fits into model and optimizer."""
        for variable, value in zip(self.variables, numbered(arrays, "now")):
            variable.assign(value)
        self.best, self.history = numbered(arrays, "best"), header.history
        say(f"going on after epoch {len(self.history)}")
        threads_before = [n for n in header.threads if n != tensorflow_threads()]
        self.resumption = self.resumption._replace(threads_before=tuple(threads_before))
        if threads_before:
            say(
                f"on {tensorflow_threads()} threads, after epochs on {header.threads[-1]}: the "
                "weights will not be bit for bit those of a run without a stop"
            )


class Header(NamedTuple):
    """What a checkpoint holds beside weights."""

    identity: Any  # of the run that wrote it; `Stage.may_resume` takes any value
    settings: dict[str, Any]  # of its command line; empty in older files
    history: list[dict[str, Any]]  # a row per finished epoch
    threads: list[int]  # numbers of TensorFlow threads that the epochs ran on


State = tuple[Header, dict[str, np.ndarray]]  # a checkpoint: its header, its arrays by name


def packed(header: Header, arrays: dict[str, np.ndarray]) -> bytes:
    """A state as the content of its file."""
    content: dict[str, Any] = {**arrays, HEADER: json.dumps(header._asdict())}
    file = io.BytesIO()
    np.savez(file, **content)
    return file.getvalue()


def read_states(path: Path) -> dict[Path, State | None]:
    """The states of the last run of a phase, and of those that were set aside; see `read_state`.

    Raises:
        OSError: the system does not open a file, which says nothing of its content.
    """
    states = {}
    for copy in unfinished.copies(path):
        with copy.open("rb"):
            pass
        states[copy] = read_state(copy)
    return states


def left_by(phases: Mapping[str, Stage]) -> list[unfinished.Left]:
    """The unfinished runs that `--resume` may go on with, by their states.

    Args:
        phases: by name of a phase, the stage whose identity its state has.
    """
    runs = []
    for phase, stage in phases.items():
        if stage.arguments.resume:
            states = read_states(state_path(stage.models_dir, phase)).values()
            runs += [stage.left_by(state[0]._asdict()) for state in states if state is not None]
    return runs


def read_state(path: Path | io.BytesIO) -> State | None:
    """The state in a file; None if the file is damaged."""
    arrays = read_npz(path)
    header = None if arrays is None else parse_header(arrays)
    return None if arrays is None or header is None else (header, arrays)


def parse_header(arrays: dict[str, np.ndarray]) -> Header | None:
    """The header of a checkpoint; None if it is missing, damaged or of another form."""
    if HEADER not in arrays:
        return None
    try:
        content = json.loads(str(arrays[HEADER]))
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    history, threads = content.get("history"), content.get("threads")
    if not (isinstance(history, list) and isinstance(threads, list) and threads):
        return None
    rows_fit = all(
        isinstance(row, dict) and isinstance(row.get("mean_iou"), (int, float)) for row in history
    )
    if not rows_fit or not all(isinstance(number, int) for number in threads):
        return None
    return Header(content.get("identity"), dictionary(content.get("settings")), history, threads)


def numbered(arrays: dict[str, np.ndarray], prefix: str) -> list[np.ndarray]:
    """The arrays called `prefix`0, `prefix`1 and so on, without those that are missing."""
    names = (f"{prefix}{k}" for k in range(len(arrays)))
    return [arrays[name] for name in names if name in arrays]


def shapes_agree(arrays: Sequence[np.ndarray], shapes: Iterable[Any]) -> bool:
    """Whether there are as many arrays as shapes, each of its shape, and all hold numbers."""
    expected = [tuple(shape) for shape in shapes]
    return [array.shape for array in arrays] == expected and all(
        np.issubdtype(array.dtype, np.number) or array.dtype == bool for array in arrays
    )


def forget(stage: Stage, *phases: str, ours_only: bool = False) -> None:
    """Removes the checkpoints of phases, once the model and its record are in place.

    Args:
        ours_only: remove only a checkpoint of this same run, which was killed after its record
            was written and before it could remove the checkpoint.
    """
    for phase in phases:
        for path in unfinished.copies(state_path(stage.models_dir, phase)):
            if not ours_only or is_ours(stage, path):
                path.unlink()


def is_ours(stage: Stage, path: Path) -> bool:
    """Whether a checkpoint was written by a run of the same identity."""
    state = read_state(path)
    return state is not None and stage.is_this_run(state[0].identity)
