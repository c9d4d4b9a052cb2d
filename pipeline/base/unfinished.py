"""Runs that were stopped: the mark that one began, and files of another run, which are kept.

`--resume` must cost no work. So a run that begins anew does not write over what a run of other
settings left; that is set aside, and removed when the new run is finished.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.base.cli import flags_of
from pipeline.base.console import UserError
from pipeline.base.files import write_json
from pipeline.base.identity import Reason

SHOWN = 3  # reasons that a message lists


class Left(NamedTuple):
    """An unfinished run, as a checkpoint or the mark of its beginning tells of it."""

    reasons: list[Reason]  # what sets it apart from the run that asks; empty: it is the same
    settings: Mapping[str, Any]  # of its command line


# --- files --------------------------------------------------------------------------------


def copies(path: Path) -> list[Path]:
    """The file of the last run, if there is one, and those that were set aside."""
    aside = sorted(path.parent.glob(f"{path.stem}-????????{path.suffix}"))
    return [path] * path.exists() + aside


def remove(path: Path) -> None:
    """Removes the files of all runs, once what they were for is in place."""
    for copy in copies(path):
        copy.unlink()


def set_aside(path: Path, identity: Any) -> None:
    """Renames the file of a run of another identity, so that this run can write its own."""
    text = json.dumps(identity, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    path.replace(path.with_name(f"{path.stem}-{digest}{path.suffix}"))


def nearest(runs: Mapping[Path, Sequence[Reason]]) -> Path:
    """The file of the run that may go on most likely: the same one, or one of other code only.

    Args:
        runs: by file, the last run's first, what sets the run apart.
    """

    def distance(path: Path) -> int:
        return 2 if not all(reason.acceptable for reason in runs[path]) else len(runs[path]) > 0

    return min(runs, key=distance)


def write(path: Path, identity: Mapping[str, Any], content: Mapping[str, Any]) -> None:
    """Writes a JSON file of a run; that of another run is set aside before."""
    plain = json.loads(json.dumps(identity))  # as it is read: lists for tuples
    before = read_json(path).get("identity", plain) if path.is_file() else plain
    if before != plain:
        set_aside(path, before)
    write_json(path, {"identity": identity, **content})


def mark_path(models_dir: Path, script: str) -> Path:
    """The file that says that a run of a script began and is not finished."""
    return models_dir / f".{script}_run.json"


@contextlib.contextmanager
def marked(path: Path, identity: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[None]:
    """Writes the mark of a run, and removes it at the end.

    It stays if the run is stopped: one that is stopped in its first epoch leaves nothing else. It
    goes if the run ends with a fault that the user can mend, because another command follows.
    """
    write_json(path, {"identity": identity, "settings": settings})
    try:
        yield
    except UserError:
        path.unlink(missing_ok=True)
        raise
    path.unlink(missing_ok=True)


def read_mark(path: Path) -> list[dict[str, Any]]:
    """The content of a mark; [] if there is none, or it is damaged."""
    content = read_json(path) if path.is_file() else {}
    return [content] if content else []


def read_json(path: Path) -> dict[str, Any]:
    """A dictionary from a file; {} if it is damaged. Raises OSError if it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):  # no UTF-8, no JSON, or nested too deeply
        return {}
    return content if isinstance(content, dict) else {}


# --- what cannot go on --------------------------------------------------------------------


class Asked(NamedTuple):
    """The run that asks whether it may go on, as messages name it."""

    script: str  # without its suffix
    command: str  # the script and its folder, ready to be pasted
    settings: Mapping[str, Any]
    defaults: Mapping[str, Any]  # settings of an empty command line

    def with_settings(self, settings: Mapping[str, Any]) -> str:
        """The command with other settings."""
        return " ".join([self.command, *flags_of(self.script, settings, self.defaults)])

    def __str__(self) -> str:
        """The command with its settings."""
        return self.with_settings(self.settings)


def refuse(left: Sequence[Left], finished: Sequence[Reason], asked: Asked) -> None:
    """Raises UserError: neither an unfinished run nor the finished one is the run that asks.

    Args:
        left: the unfinished runs.
        finished: what sets the finished run apart.
    """
    anew = f"begin anew with: {asked}"
    if not left:
        raise UserError(
            f"no run is unfinished, and the finished one is another ({listed(finished)}); {anew}"
        )
    nearest = min(left, key=lambda run: (len(run.reasons), run.reasons))
    texts = listed(nearest.reasons)
    if any(reason.kind == "input" for reason in nearest.reasons):
        raise UserError(f"the unfinished run cannot go on ({texts}); {anew}")
    edits = " --accept-edits" * any(reason.acceptable for reason in nearest.reasons)
    old = f"{asked.with_settings(nearest.settings)} --resume{edits}"
    raise UserError(
        f"the unfinished run is another one ({texts}); go on with that: {old}; or {anew}"
    )


def listed(reasons: Sequence[Reason]) -> str:
    """Reasons in one line, the first SHOWN of them."""
    more = f" and {len(reasons) - SHOWN} more" if reasons[SHOWN:] else ""
    return ", ".join(reason.text for reason in reasons[:SHOWN]) + more
