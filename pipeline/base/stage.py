"""One run of a script: its settings, whether it has to run and why, and the artifacts it writes.

The identity of a run is what decides the content of its artifacts: settings, inputs, code and
package versions. Two identities are compared reason by reason, so that a user who reruns a stage
reads what changed. The same comparison decides whether a stopped training may continue.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.base import fingerprints, ownership, system, unfinished
from pipeline.base.artifacts import (
    MODELS,
    artifact_path,
    claim,
    command,
    dictionary,
    made_by,
    put_record,
    read_record,
    refuse_foreign,
    stale_reason,
)
from pipeline.base.console import UserError, say
from pipeline.base.files import atomic, sha256
from pipeline.base.identity import (
    NOT_RESUMED,
    Identity,
    Reason,
    Resumption,
    accept,
    differences,
    settings_of,
)
from pipeline.base.unfinished import Left


@dataclass(frozen=True)
class Stage:
    """One run of a script, from its arguments to the records of its artifacts. Never changes."""

    script: Path
    arguments: argparse.Namespace
    identity: Identity
    defaults: Mapping[str, Any]  # settings of an empty command line
    started: float  # `time.monotonic()`, seconds
    # By artifact, the identity of one that only a part of the inputs and settings decides.
    parts: Mapping[str, Identity] = field(default_factory=dict)

    @classmethod
    def begin(
        cls,
        script: str | Path,
        arguments: argparse.Namespace,
        defaults: argparse.Namespace | None = None,
        *,
        formats: Collection[str] = (),
        counted: Collection[str] = (),
    ) -> Stage:
        """The run of a script that was called with these arguments.

        Args:
            defaults: what the script's parser makes of an empty command line.
            formats, counted: see `fingerprints.of_stage`.
        """
        code, versions = fingerprints.of_stage(Path(script), formats, counted)
        identity = Identity(settings_of(arguments), {}, code, versions)
        usual = settings_of(defaults) if defaults else {}
        return cls(Path(script), arguments, identity, usual, time.monotonic())

    @property
    def models_dir(self) -> Path:
        """The folder of the artifacts."""
        return self.arguments.models_dir

    # --- narrower and wider identities -----------------------------------------------------

    def require(self, *names: str) -> Stage:
        """This stage with the SHA-256 of these artifacts among its inputs.

        Raises:
            UserError: an artifact is missing, damaged or stale.
        """
        for name in names:
            if reason := stale_reason(self.models_dir, name):
                raise UserError(reason)
        digests = {name: read_record(self.models_dir, name)["sha256"] for name in names}
        return self.with_inputs(digests)

    def with_inputs(self, inputs: Mapping[str, Any]) -> Stage:
        """This stage with more inputs, by name."""
        more = {**self.identity.inputs, **inputs}
        return replace(self, identity=replace(self.identity, inputs=more))

    def with_part(self, name: str, *inputs: str, ignoring: Collection[str] = ()) -> Stage:
        """This stage, which makes an artifact that only a part of its identity decides.

        Args:
            inputs: those that the artifact is made of.
            ignoring: settings that do not change it.
        """
        fewer = {source: self.identity.inputs[source] for source in inputs}
        identity = replace(self.ignoring(*ignoring).identity, inputs=fewer)
        return replace(self, parts={**self.parts, name: identity})

    def part(self, name: str) -> Stage:
        """This stage with the identity of one of its artifacts, see `with_part`."""
        return replace(self, identity=self.parts.get(name, self.identity))

    def ignoring(self, *settings: str) -> Stage:
        """This stage with an identity that ignores the given settings."""
        left = {k: value for k, value in self.identity.settings.items() if k not in settings}
        return replace(self, identity=replace(self.identity, settings=left))

    # --- whether to run ----------------------------------------------------------------------

    @property
    def mark(self) -> Path:
        """The file that says that a run of this script began."""
        return unfinished.mark_path(self.models_dir, self.script.stem)

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Holds the models folder, and marks this run as unfinished until it ends.

        Raises:
            UserError: another stage works there, or the user's own files lie where this one writes.
        """
        mark: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if hasattr(self.arguments, "resume") and system.is_first_worker():
            identity, settings = self.identity.as_dict(), settings_of(self.arguments)
            mark = unfinished.marked(self.mark, identity, settings)
        with self.lock():
            self.refuse_foreign()
            with mark:
                yield

    def refuse_foreign(self) -> None:
        """Raises UserError if a file of the user's lies where this stage writes one."""
        names = made_by(self.script.name)
        if names and system.is_first_worker():
            again = str(self.asked()) + " --resume" * getattr(self.arguments, "resume", False)
            refuse_foreign(names, self.models_dir, again)

    def asked(self) -> unfinished.Asked:
        """This run, as messages name it."""
        where = command(made_by(self.script.name)[0], self.models_dir)
        return unfinished.Asked(self.script.stem, where, settings_of(self.arguments), self.defaults)

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Holds the models folder while no other stage works in it; raises as `system.lock`."""
        return system.lock(self.models_dir, self.script.name)

    def reasons(self, *names: str) -> list[Reason]:
        """Why these artifacts are not what this run would make; charts and tables do not count."""
        for name in names:
            try:
                record = read_record(self.models_dir, name)
                stale = stale_reason(self.models_dir, name)
            except UserError as error:
                return [Reason("missing", str(error).split(";")[0])]
            identity = self.part(name).identity
            if reasons := differences(record, identity.as_dict(), self.defaults):
                return reasons
            if fault := record.fault() or stale:
                return [Reason("changed", fault.split(";")[0])]
        return []

    def nothing_to_do(self, *names: str, left: Sequence[Left] = ()) -> bool:
        """Answers `--if-needed`, `--accept-edits` and `--resume` for the artifacts of the stage.

        Prints why the stage runs, or that it need not. With `--accept-edits`, differences of code
        and packages are noted in the records and let pass, if there are artifacts to keep.
        `--resume` without `--if-needed` never begins anew where something is to be lost.

        Args:
            left: what `--resume` may go on with; see `left_by`.

        Raises:
            UserError: with `--accept-edits`, something else differs too; with `--resume`, the
                unfinished run or the finished one is another.
        """
        asked = self.arguments
        resume = getattr(asked, "resume", False) and not asked.if_needed
        if not (asked.if_needed or asked.accept_edits or resume):
            return False
        reasons = self.reasons(*names)
        whole = all(reason.kind not in ("missing", "changed") for reason in reasons)
        if resume and reasons and system.is_first_worker():
            left = [*left, *map(self.left_by, unfinished.read_mark(self.mark))]
            if any(self.may_pass(run.reasons) for run in left):
                return False
            if left or (whole and not self.may_pass(reasons)):
                unfinished.refuse(left, reasons, self.asked())
        if reasons and whole and asked.accept_edits:
            parts = {name: (self.part(name).identity, self.reasons(name)) for name in names}
            accept(self.models_dir, self.script.name, parts)
        elif reasons:
            self.refuse_foreign()
            more = f", and {len(reasons) - 1} more reasons" if len(reasons) > 1 else ""
            say(f"{self.script.name}: runs, because {reasons[0].text}{more}")
            return False
        end = "this run is finished, nothing to go on with" if resume else "nothing to do"
        say(f"{self.script.name}: up to date, {end}")
        if any(self.models_dir.glob(".*")):  # left by a run that was killed right before its end
            with contextlib.suppress(UserError), self.lock():
                if any(not self.left_by(mark).reasons for mark in unfinished.read_mark(self.mark)):
                    self.mark.unlink(missing_ok=True)
                ownership.settle(self.models_dir)
        return True

    def may_pass(self, reasons: Sequence[Reason]) -> bool:
        """Whether there are no reasons, or `--accept-edits` covers all of them."""
        return all(self.arguments.accept_edits and reason.acceptable for reason in reasons)

    def may_resume(self, then: Any) -> Resumption | None:
        """Whether a stopped run of the identity `then` may continue as this one.

        With `--accept-edits` code and packages may differ, which the record will tell.

        Returns:
            None if it may not, after printing why.
        """
        reasons = self.differences(then)
        if self.may_pass(reasons):
            return Resumption(tuple(reason.text for reason in reasons))
        say(f"the unfinished run was another one ({reasons[0].text}); beginning anew")
        return None

    def is_this_run(self, then: Any) -> bool:
        """Whether `then`, an identity as a file holds it, is that of this run."""
        return not self.differences(then)

    def differences(self, then: Any) -> list[Reason]:
        """What sets `then`, an identity as a file holds it, apart from this run."""
        return differences(then, self.identity.as_dict(), self.defaults)

    def left_by(self, content: Mapping[str, Any]) -> Left:
        """An unfinished run, from the `identity` and `settings` in what it left."""
        settings = content.get("settings") or dictionary(content.get("identity")).get("settings")
        return Left(self.differences(content.get("identity")), dictionary(settings))

    # --- artifacts ---------------------------------------------------------------------------

    def seconds(self) -> float:
        """Wall time since the stage began."""
        return round(time.monotonic() - self.started, 1)

    def record(
        self, digest: str, metrics: dict[str, Any], resumption: Resumption = NOT_RESUMED
    ) -> dict[str, Any]:
        """The record of one artifact whose SHA-256 is `digest`."""
        about = {"stage": self.script.stem, "metrics": metrics, "sha256": digest}
        resumed = {"accepted": resumption.accepted, "threads_before": resumption.threads_before}
        kept = {key: list(values) for key, values in resumed.items() if values}
        threads = {"threads": system.tensorflow_threads()}
        cost = {"peak_memory_mb": system.peak_memory_mb(), "wall_seconds": self.seconds()}
        return about | self.identity.as_dict() | kept | threads | cost

    @contextlib.contextmanager
    def new_artifact(
        self,
        name: str,
        metrics: dict[str, Any],
        *,
        tables: Mapping[str, Any] | None = None,
        companions: tuple[str, ...] = (),
        resumption: Resumption = NOT_RESUMED,
    ) -> Iterator[list[Path]]:
        """Yields temporary paths for an artifact and the files that are made with it.

        All are written before one is put in place, and the record, which holds their hashes, goes
        last. A kill in between leaves hashes that do not match, which `stale_reason` reports.

        Charts and tables are drawn later, from the record (report/sidecars.py): none can cost the
        artifact.

        Args:
            tables: what the record holds beside the metrics: the history of a training, say.
            companions: names of further files in the models folder that belong to the artifact.
        """
        with contextlib.ExitStack() as stack:
            paths = [artifact_path(self.models_dir, name)]
            paths += map(self.models_dir.joinpath, companions)
            temporary = [stack.enter_context(atomic(path)) for path in paths]
            yield temporary
            digest, *others = map(sha256, temporary)
            record = self.part(name).record(digest, metrics, resumption) | dict(tables or {})
            record["beside"] = dict(zip(companions, others))
            if name in MODELS:
                claim(paths[0], temporary[0], record)
        put_record(self.models_dir, name, record)
