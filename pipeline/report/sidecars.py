"""Charts and tables beside an artifact, drawn from its record once that is in place.

None of them can end a stage or set it off again: one that cannot be drawn is a note, and one that
is missing, was edited or would look different now is drawn by the next run of its stage.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from pipeline.base import fingerprints
from pipeline.base.artifacts import Record, dictionary, read_record
from pipeline.base.console import UserError, say
from pipeline.base.files import CHANGED, fault_of, sha256
from pipeline.base.stage import Stage

Drawings = dict[Path, Callable[[Path], object]]  # by file, what writes it


def draw(stage: Stage, name: str, drawings: Drawings, code: str) -> None:
    """Draws the files that belong to an artifact and are not up to date. Raises nothing.

    Args:
        name: of the artifact, whose record is in place.
        drawings: what writes each file, atomically.
        code: `__file__` of the module that draws; an edit of it draws the files again.
    """
    try:
        record = read_record(stage.models_dir, name)
        digests, _ = fingerprints.of_stage(Path(code), counted=("report",))
        files = {}
        for path, write in drawings.items():
            if reason_to_draw(record, path, digests) and not drawn(path, write):
                continue
            files[path.name] = sha256(path)
        state = {"files": files, "code": digests}
        if record.get("drawn") != state:
            record.rewrite(drawn=state)
    except (UserError, OSError) as error:
        say(f"note: the charts and tables of {name} could not be noted: {error}")


def draw_again(stage: Stage, name: str, drawings: Drawings, code: str) -> None:
    """Draws what is missing or out of date beside an artifact that is up to date.

    Says what and why, and does nothing while another stage works in the folder.
    """
    record = read_record(stage.models_dir, name)
    digests, _ = fingerprints.of_stage(Path(code), counted=("report",))
    reasons = {path: reason_to_draw(record, path, digests) for path in drawings}
    if not any(reasons.values()):
        return
    for path, reason in reasons.items():
        if reason:
            say(f"{stage.script.name}: draws {path.name}, because {reason}")
    with contextlib.suppress(UserError), stage.lock():
        draw(stage, name, drawings, code)


def drawn(path: Path, write: Callable[[Path], object]) -> bool:
    """Writes one file and returns whether that worked; a failure is printed as a note."""
    try:
        write(path)
    except Exception as error:  # whatever a library raises: no chart may cost a model
        text = str(error).partition("\n")[0] or type(error).__name__
        say(f"note: {path} could not be drawn: {text}")
        return False
    return True


def reason_to_draw(record: Record, path: Path, digests: dict[str, str]) -> str | None:
    """Why a file that is drawn from a record has to be drawn again; None if it need not."""
    state, digest = dictionary(record.get("drawn")), record.drawn.get(path.name)
    if not path.is_file():
        return "it is missing"
    if digest is None:
        return "it is of an earlier run"
    if fault_of(path, digest) == CHANGED:
        return "it was changed after it was drawn"
    code = dictionary(state.get("code"))
    edited = sorted(name for name in code.keys() | digests if code.get(name) != digests.get(name))
    return f"{edited[0]} was edited" if edited else None
