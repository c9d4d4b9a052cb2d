"""What decides the content of an artifact, and the reasons why two artifacts differ."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.base.artifacts import artifact_path, dictionary, read_record
from pipeline.base.console import UserError, say

# Flags that change no artifact.
NO_SETTINGS = {"models_dir", "if_needed", "accept_edits", "resume"}


class Reason(NamedTuple):
    """Why an artifact is not what the stage would make now."""

    kind: str  # "missing", "changed", "input", "setting", "code" or "package"
    text: str

    @property
    def acceptable(self) -> bool:
        """Whether a user may know that it changes nothing (`--accept-edits`)."""
        return self.kind in ("code", "package")


@dataclass(frozen=True)
class Identity:
    """What decides the content of an artifact."""

    settings: Mapping[str, Any]  # by flag, without dashes
    inputs: Mapping[str, Any]  # SHA-256 by name of artifact; others by what they are called
    code: Mapping[str, str]  # fingerprint by file, see `fingerprints.of_stage`
    versions: Mapping[str, str]  # by distribution

    def as_dict(self) -> dict[str, Any]:
        """The identity as a record or a checkpoint holds it."""
        return asdict(self)


class Resumption(NamedTuple):
    """What the record of a resumed run has to tell beside its identity."""

    accepted: tuple[str, ...] = ()  # edits that --accept-edits let pass
    threads_before: tuple[int, ...] = ()  # other numbers of threads that earlier epochs ran on


NOT_RESUMED = Resumption()


def differences(
    then: Any, now: dict[str, Any], defaults: Mapping[str, Any] | None = None
) -> list[Reason]:
    """What sets two identities apart, each reason in a few words.

    Args:
        then: an identity as a file holds it. Whatever in it is no dictionary counts as empty.
        now: the identity of this run, see `Identity.as_dict`.
        defaults: settings of an empty command line. A setting that `then` lacks, because its flag
            is newer, had this value.
    """
    reasons: list[Reason] = []
    then = dictionary(then)

    def compare(part: str, kind: str, changed: str, gone: str, new: str) -> None:
        old, current = dictionary(then.get(part)), now[part]
        if part == "settings":
            newer = current.keys() & (defaults or {}).keys() - old.keys()
            old = old | {key: (defaults or {})[key] for key in newer}
        for key in sorted(old.keys() | current.keys()):
            if old.get(key) != current.get(key):
                text = gone if key not in current else new if key not in old else changed
                flag = f"--{key.replace('_', '-')}"
                names = {"key": key, "flag": flag, "old": old.get(key), "now": current.get(key)}
                reasons.append(Reason(kind, text.format(**names)))

    compare("settings", "setting", "{flag} is {now}, was {old}", "{flag} is gone", "{flag} is new")
    compare("inputs", "input", "{key} changed", "{key} is no longer read", "{key} is new")
    compare("code", "code", "{key} was edited", "{key} is no longer used", "{key} is new")
    compare(
        "versions",
        "package",
        "{key} is {now}, was {old}",
        "{key} is no longer used",
        "{key} {now} is new",
    )
    return reasons


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The flags that may change an artifact, with their values as JSON holds them."""
    return {
        key: str(value) if isinstance(value, Path) else value
        for key, value in sorted(vars(arguments).items())
        if key not in NO_SETTINGS
    }


def accept(
    models_dir: Path, script: str, parts: Mapping[str, tuple[Identity, list[Reason]]]
) -> None:
    """Brings the records of artifacts up to this code and these packages, and prints it.

    Args:
        script: its file name.
        parts: by name of an artifact, its identity now and what sets the record apart from it.

    Raises:
        UserError: a record differs in more than code and packages.
    """
    for name, (_, reasons) in parts.items():
        if others := [reason.text for reason in reasons if not reason.acceptable]:
            raise UserError(
                "--accept-edits covers code and packages only, but for "
                f"{artifact_path(models_dir, name)} {others[0]}; run without it"
            )
    for name, (identity, reasons) in parts.items():
        record = read_record(models_dir, name)
        texts = [reason.text for reason in reasons]
        for text in texts:
            say(f"{script}: accepted as changing nothing: {text}")
        now = {key: identity.as_dict()[key] for key in ("code", "versions")}
        record.rewrite(**now, accepted=record.get("accepted", []) + texts)
