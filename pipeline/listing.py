"""Which picture each prepared example was: a list beside the arrays of a data set.

A CSV of split, number in the split, and file, counted from the folder of the source. It is no part
of the data set's fingerprint: a picture that is only called otherwise trains nothing anew.
"""

from __future__ import annotations

import csv
import hashlib
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path

from pipeline.artifacts import artifact_path, atomic, command, read_record, sha256
from pipeline.console import UserError
from pipeline.dataset import SPLITS

HEAD = "split,number,picture\n"


class ListWriter:
    """Takes the names of examples in the order of the arrays; none of them stays in memory."""

    def __init__(self) -> None:
        text = {"encoding": "utf-8", "errors": "replace", "newline": ""}  # names may be any bytes
        self.parts = {
            split: tempfile.TemporaryFile("w+", **text)  # noqa: SIM115 (gone with the writer)
            for split in SPLITS
        }
        self.number = dict.fromkeys(SPLITS, 0)
        self.named = False

    def add(self, split: str, name: str) -> None:
        """The next example of a split; the name is empty where its source has none."""
        row = split, self.number[split], name
        csv.writer(self.parts[split], lineterminator="\n").writerow(row)
        self.number[split] += 1
        self.named |= bool(name)

    def write(self, folder: Path) -> list[str] | None:
        """Writes the list, named by its content so that an old one stays; its name and SHA-256.

        None, and no file, where no example has a name.
        """
        if not self.named:
            return None
        digest = hashlib.sha256(HEAD.encode())
        for part in self.parts.values():
            part.seek(0)
            for line in part:
                digest.update(line.encode())
        path = folder / f"examples-{digest.hexdigest()[:8]}.csv"
        with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(HEAD)
            for part in self.parts.values():
                part.seek(0)
                shutil.copyfileobj(part, file)
        return [path.name, digest.hexdigest()]


def names_of(models_dir: Path, split: str, numbers: Collection[int]) -> dict[int, str]:
    """What the pictures of some examples are called, by their number in a split.

    Those that have no name are left out, as are all of a data set without a list.

    Raises:
        UserError: the list is missing or not the one that was written.
    """
    known = read_record(models_dir, "dataset").get("listing")
    if not known:
        return {}
    name, digest = known
    path = artifact_path(models_dir, "dataset").with_name(name)
    if not path.exists() or sha256(path) != digest:
        raise UserError(
            f"{path} is missing or was changed after it was made; "
            f"make it anew with: {command('dataset', models_dir)}"
        )
    with path.open(encoding="utf-8", newline="") as file:
        rows = (row for row in csv.reader(file) if row[0] == split)
        return {int(k): name for _, k, name in rows if name and int(k) in numbers}
