"""Provokes faults on toy runs, counts what must never happen, writes docs/reliability.json.

    python tests/campaigns/campaign.py --write                     # all kinds: KINDS below
    python tests/campaigns/campaign.py kills disk --share 0.1      # a tenth of two of them

Each kind is drawn by a seed; the same seed draws the same faults. Where TensorFlow is not part of
what is tried, it is loaded once and stages run in forks (toy.py). The table of
docs/reliability.md is made from the JSON by `python tests/test_readme.py`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import toy
from figures import busy, figures
from files import corruptions
from foreign import flips, hostile
from stops import kills, pairs, signals
from surroundings import cases, disk, flags, memory
from toy import ROOT
from trials import Campaign, Tally

from pipeline.base.files import write_json
from pipeline.base.lazy import versions
from pipeline.evaluation import processor

JSON = ROOT / "docs" / "reliability.json"
COLUMNS = {  # of the table: what is added up in it
    "tracebacks, or silent": ("traceback", "silent", "many lines"),
    "artifacts lost": ("lost", "left"),
    "wrong without a word": ("wrong",),
    "crashes, hangs": ("crash", "hang"),
    "code run": ("code run",),
}
KINDS: dict[str, Callable[[Campaign], Iterator[Tally]]] = {
    each.__name__: each
    for each in (
        *(kills, signals, pairs, corruptions, flips, hostile, figures, flags, disk, busy),
        *(cases, memory),
    )
}


def markdown(record: dict[str, Any]) -> str:
    """The rows of a campaign as a table."""
    head = ["what was tried", "how often", *COLUMNS, "how it ended"]
    lines = [head, ["---", *["---:"] * (1 + len(COLUMNS)), "---"]]
    for row in record["rows"]:
        sums = [str(sum(row["faults"].get(key, 0) for key in keys)) for keys in COLUMNS.values()]
        ended = sorted(row["ended"].items(), key=lambda item: -item[1])
        alone = len(ended) == 1
        ends = "; ".join(end if alone else f"{number} {end}" for end, number in ended)
        lines.append([row["what"], str(row["tried"]), *sums, ends])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def cpu_seconds() -> float:
    """Of this process and all that it has waited for."""
    parts = (resource.getrusage(each) for each in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(part.ru_utime + part.ru_stime for part in parts)


def main() -> int:
    """Runs the kinds that are named; the exit code says whether a fault was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], default=list(KINDS))
    parser.add_argument("--seconds", type=float, default=7200, help="wall time, for all kinds")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--share", type=float, default=1.0, help="of the number of tries")
    parser.add_argument(
        "--write",
        nargs="?",
        type=Path,
        const=JSON,
        help="the JSON to write, in which other kinds stay as they are",
    )
    parser.add_argument("--keep", type=Path, help="work here, and leave it")
    arguments = parser.parse_args()
    asked = ["git", "-C", ROOT, "describe", "--always", "--exclude=*", "--dirty"]
    commit = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    about = {"commit": commit, "date": datetime.date.today().isoformat()}
    about |= {"seed": arguments.seed, "share": arguments.share}
    toy.load()
    with tempfile.TemporaryDirectory() as folder:
        place = arguments.keep or Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(0o755)
        ends = time.monotonic() + arguments.seconds
        campaign, rows = Campaign(place, arguments.seed, arguments.share, ends), []
        for kind in arguments.kinds:
            began = cpu_seconds()
            for tally in KINDS[kind](campaign):
                spent, began = cpu_seconds() - began, cpu_seconds()
                rows.append({"kind": kind, **tally.row(), "cpu_seconds": round(spent), **about})
                print(json.dumps(rows[-1]), flush=True)
    if arguments.write:
        old = json.loads(arguments.write.read_text())["rows"] if arguments.write.exists() else []
        every = rows + [row for row in old if row["kind"] not in arguments.kinds]
        record = {
            "campaign": "tests/campaigns/campaign.py",
            "system": platform.platform(),
            "cpu": processor.cpu_name(),
            "versions": versions(),
            "rows": sorted(every, key=lambda row: list(KINDS).index(row["kind"])),
        }
        write_json(arguments.write, record)
    return int(any(row["faults"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
