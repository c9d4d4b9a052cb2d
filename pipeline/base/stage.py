"""One run of a script: what it was asked, whether it must run at all and why, its artifacts.

What an artifact was made of is its identity: settings, inputs, code and package versions. Two
identities are compared reason by reason, so that whoever runs a stage again is told which of
them it was. The same comparison decides whether a stopped training may go on.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.base import fingerprints, system
from pipeline.base.artifacts import (
    artifact_path,
    atomic,
    belongs,
    dictionary,
    read_record,
    record_path,
    sha256,
    stale_reason,
    write_record,
    written_beside,
)
from pipeline.base.console import UserError, say

NO_SETTINGS = {"models_dir", "if_needed", "accept_edits", "resume"}  # flags that change no artifact


class Reason(NamedTuple):
    """Why an artifact is not what the stage would make now."""

    kind: str  # "missing", "changed", "input", "setting", "code" or "package"
    text: str

    @property
    def acceptable(self) -> bool:
        """Whether somebody may know that it changes nothing (`--accept-edits`)."""
        return self.kind in ("code", "package")


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[Reason]:
    """What sets two identities apart, each in a few words.

    `then` comes from a file: whatever in it is no dictionary holds nothing.
    """
    reasons, then = [], dictionary(then)

    def compare(part: str, kind: str, changed: str, gone: str, new: str) -> None:
        old, current = dictionary(then.get(part)), now[part]
        for key in sorted(old.keys() | current.keys()):
            if old.get(key) != current.get(key):
                text = gone if key not in current else new if key not in old else changed
                flag = f"--{key.replace('_', '-')}"
                known = {"key": key, "flag": flag, "old": old.get(key), "now": current.get(key)}
                reasons.append(Reason(kind, text.format(**known)))

    compare("settings", "setting", "{flag} is {now}, was {old}", "{flag} is gone", "{flag} is new")
    compare("inputs", "input", "{key} changed", "{key} is not read any more", "{key} is new")
    compare("code", "code", "{key} was edited", "{key} is not used any more", "{key} is new")
    compare(
        "versions",
        "package",
        "{key} is {now}, was {old}",
        "{key} is not used any more",
        "{key} {now} is new",
    )
    return reasons


class Stage:
    """One run of a script, from its arguments to the records of what it made."""

    def __init__(self, script: str, arguments: argparse.Namespace) -> None:
        self.started = time.time()
        self.script = Path(script)
        self.arguments = arguments
        self.models_dir: Path = arguments.models_dir
        self.code, self.versions = fingerprints.of_stage(self.script)
        self.inputs: dict[str, Any] = {}
        self.accepted: list[str] = []  # differences that --accept-edits let pass
        self.threads_before: list[int] = []  # other numbers that epochs before a kill ran on
        self.settings = {
            key: str(value) if isinstance(value, Path) else value
            for key, value in sorted(vars(arguments).items())
            if key not in NO_SETTINGS
        }

    def require(self, *names: str) -> None:
        """Notes the SHA-256 of each input of the stage.

        Raises:
            UserError: an input is missing, damaged or stale.
        """
        for name in names:
            if reason := stale_reason(self.models_dir, name):
                raise UserError(reason)
            self.inputs[name] = read_record(self.models_dir, name)["sha256"]

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Works in the models folder while no other stage does; raises as `processes.alone`."""
        return system.alone(self.models_dir, self.script.name)

    def part(self, *names: str) -> Stage:
        """This run for an artifact that is made of some of its inputs only."""
        part = copy.copy(self)
        part.inputs = {name: self.inputs[name] for name in names}
        return part

    def apart_from(self, *settings: str) -> Stage:
        """This run for what these settings do not change.

        Edits accepted and threads found by it are in the records of the whole run, too.
        """
        part = copy.copy(self)
        part.settings = {key: self.settings[key] for key in self.settings if key not in settings}
        return part

    def identity(self) -> dict[str, Any]:
        """What decides all that this run will write."""
        return {part: getattr(self, part) for part in ("settings", "inputs", "code", "versions")}

    def reasons(self, *names: str) -> list[Reason]:
        """Why these artifacts are not what this run would make; none if all are."""
        for name in names:
            path = artifact_path(self.models_dir, name)
            try:
                record = read_record(self.models_dir, name)
                stale = stale_reason(self.models_dir, name)
            except UserError as error:
                return [Reason("missing", str(error).split(";")[0])]
            if found := differences(record, self.identity()):
                return found
            beside = [self.models_dir / other for other in dictionary(record.get("beside"))]
            changed = [path] * bool(stale) + [each for each in beside if not belongs(each, record)]
            if changed:
                return [Reason("changed", f"{changed[0].name} was changed after it was made")]
        return []

    def nothing_to_do(self, *names: str) -> bool:
        """Answers `--if-needed` and `--accept-edits` for the artifacts that the stage makes.

        Says why the stage runs, or that it need not. With `--accept-edits`, differences of code
        and packages are noted in the records and let pass, if there is something to keep.

        Raises:
            UserError: with `--accept-edits`, if something else differs too.
        """
        if not (self.arguments.if_needed or self.arguments.accept_edits):
            return False
        reasons = self.reasons(*names)
        whole = all(reason.kind not in ("missing", "changed") for reason in reasons)
        if reasons and whole and self.arguments.accept_edits:
            self.accept(names)
        elif reasons:
            more = f", and {len(reasons) - 1} more reasons" if len(reasons) > 1 else ""
            say(f"{self.script.name}: runs, because {reasons[0].text}{more}")
            return False
        say(f"{self.script.name}: up to date, nothing to do")
        if any(self.models_dir.glob(".*")):  # of a run that was killed right before its end
            with contextlib.suppress(UserError), self.alone():
                pass
        return True

    def accept(self, names: tuple[str, ...]) -> None:
        """Brings the records of artifacts up to this code and these packages, and says so."""
        for name in names:
            reasons = self.reasons(name)
            if others := [reason.text for reason in reasons if not reason.acceptable]:
                raise UserError(
                    "--accept-edits speaks of code and packages only, but for "
                    f"{artifact_path(self.models_dir, name)} {others[0]}; run without it"
                )
        for name in names:
            record, texts = read_record(self.models_dir, name), []
            for reason in self.reasons(name):
                texts.append(reason.text)
                say(f"{self.script.name}: accepted as changing nothing: {reason.text}")
            record |= {"code": self.code, "versions": self.versions}
            record["accepted"] = record.get("accepted", []) + texts
            write_record(record_path(self.models_dir, name), record)

    def may_resume(self, then: dict[str, Any]) -> bool:
        """Whether a stopped run of this identity may go on as this one; says why not.

        With `--accept-edits` code and packages may differ, which the record will say.
        """
        reasons = differences(then, self.identity())
        if self.arguments.accept_edits and all(reason.acceptable for reason in reasons):
            new = [reason.text for reason in reasons if reason.text not in self.accepted]
            self.accepted.extend(new)
        elif reasons:
            say(f"the unfinished run was another one ({reasons[0].text}); beginning anew")
            return False
        return True

    def seconds(self) -> float:
        """Wall time since the stage began."""
        return round(time.time() - self.started, 1)

    def record(self, digest: str, metrics: dict[str, Any]) -> dict[str, Any]:
        """The record of one artifact whose SHA-256 is `digest`."""
        about = {"stage": self.script.stem, "metrics": metrics, "sha256": digest}
        accepted = {"accepted": self.accepted} if self.accepted else {}
        before = {"threads_before": self.threads_before} if self.threads_before else {}
        machine = {"threads": system.tensorflow_threads(), **before}
        cost = {"peak_memory_mb": system.peak_memory_mb(), "wall_seconds": self.seconds()}
        return about | self.identity() | accepted | machine | cost

    @contextlib.contextmanager
    def new_artifact(
        self, name: str, metrics: dict[str, Any], beside: tuple[str, ...] = ()
    ) -> Iterator[list[Path]]:
        """Yields temporary paths to write to, of an artifact and of what belongs to it.

        All are written before one is put in place, and the record, which holds their hashes, goes
        last: a kill in between leaves hashes that do not match, which `stale_reason` and `reasons`
        report, never a wrong file that looks right. What belonged to the artifact before and does
        not now (the curves of a fine-tuning that there is none of any more) is removed after that.

        Args:
            beside: names of files in the models folder.
        """
        left = written_beside(self.models_dir, name) - set(beside)
        with contextlib.ExitStack() as stack:
            paths = [artifact_path(self.models_dir, name), *map(self.models_dir.joinpath, beside)]
            temporary = [stack.enter_context(atomic(path)) for path in paths]
            yield temporary
            digest, *others = map(sha256, temporary)
            record = self.record(digest, metrics) | {"beside": dict(zip(beside, others))}
        write_record(record_path(self.models_dir, name), record)
        for other in left:
            (self.models_dir / other).unlink(missing_ok=True)
