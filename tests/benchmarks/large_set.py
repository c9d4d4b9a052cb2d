"""Prepares and trains on more pictures than the memory that the processes may have.

    python tests/benchmarks/large_set.py --folder /tmp/large         (3.2 GB prepared, 2 GB allowed)
    python tests/benchmarks/large_set.py --folder /tmp/large --pictures 1000

Draws a few pictures of 256 x 256 pixels, links them under many names into a folder, prepares them
and trains one epoch. As root on Linux both run in a control group that may have --limit of
memory, its cache of files included, and are killed if they need more; elsewhere only the peak of
their resident memory is told, which counts pages of mapped files that could be given back.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
DRAWN = 200  # pictures that differ
SIDE = 256  # pixels
CONTROL = Path("/sys/fs/cgroup/memory/large_set"), Path("/sys/fs/cgroup/large_set")  # v1, v2


def draw(folder: Path, pictures: int) -> None:
    """Pictures of two classes: a bright disc on noise."""
    rows, columns = np.indices((SIDE, SIDE))
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for number in range(pictures):
        image = folder / "images" / f"{number:06}.jpg"
        mask = folder / "masks" / f"{number:06}.png"
        if number >= DRAWN:
            first = f"{number % DRAWN:06}"
            os.link(folder / "images" / f"{first}.jpg", image)
            os.link(folder / "masks" / f"{first}.png", mask)
            continue
        random = np.random.default_rng(number)
        y, x, radius = random.uniform((60, 60, 20), (196, 196, 60))
        disc = np.hypot(rows - y, columns - x) < radius
        pixels = random.integers(0, 120, (SIDE, SIDE, 3)) + 120 * disc[..., None]
        Image.fromarray(pixels.astype(np.uint8)).save(image)
        Image.fromarray(disc.astype(np.uint8)).save(mask)


@contextmanager
def limited(most: int) -> Iterator[Path | None]:
    """A control group of at most `most` bytes of memory; None where none can be made."""
    for group, file in zip(CONTROL, ("memory.limit_in_bytes", "memory.max")):
        try:
            group.mkdir()
            (group / file).write_text(str(most))
        except OSError:
            continue
        try:
            yield group
        finally:
            group.rmdir()
        return
    yield None


def run(group: Path | None, *command: object) -> None:
    """Runs a script of the pipeline, inside the group; raises if it fails or is killed."""

    def enter() -> None:
        if group:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    started = time.monotonic()
    line = [sys.executable, *map(str, command)]
    subprocess.run(line, check=True, preexec_fn=enter, stdout=subprocess.DEVNULL)
    print(f"  {Path(line[1]).name}: {time.monotonic() - started:.0f} s", flush=True)


def main() -> None:
    """Draws, prepares, trains, and says what it took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="must not exist; stays")
    parser.add_argument("--pictures", type=int, default=16_000)
    parser.add_argument("--limit", type=float, default=2.0, help="GB (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=8)
    arguments = parser.parse_args()
    photos, models = arguments.folder / "photos", arguments.folder / "models"
    draw(photos, arguments.pictures)
    with limited(round(arguments.limit * 1e9)) as group:
        print(f"at most {arguments.limit} GB" if group else "no limit could be set", flush=True)
        common = ("--models-dir", models)
        run(
            group,
            *(ROOT / "data_preparation.py", *common, "--data", photos, "--image-size", SIDE),
        )
        run(
            group,
            *(ROOT / "training.py", *common, "--enlarge", 1, "--epochs", 1),
            *("--batch-size", arguments.batch_size),
        )
    size = sum(path.stat().st_size for path in (models / "dataset").glob("*.npy"))
    print(f"prepared: {size / 1e9:.2f} GB in {arguments.pictures} pictures")
    for record in ("dataset/dataset.json", "original_model.h5.json"):
        peak = json.loads((models / record).read_text())["peak_memory_mb"]
        print(f"{record}: peak of resident memory {peak} MB")


if __name__ == "__main__":
    main()
