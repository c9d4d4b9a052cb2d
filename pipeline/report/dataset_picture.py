"""dataset.jpg: a few examples of the prepared data set, as the network sees them.

Of one's own pictures also those that are stored otherwise than most: an eye sees on them what no
rule finds, such as a mask that lies upside down.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.base.artifacts import MODELS_DIR, ROOT, read_record
from pipeline.data.dataset import load_classes, load_split
from pipeline.data.formats.registry import PETS
from pipeline.report import charts, overlays
from pipeline.report.sidecars import Drawings

SHOWN = 6  # training examples, evenly spaced: neighbours may be similar


def drawings(models_dir: Path) -> Drawings:
    """What draws dataset.jpg from the finished data set."""
    record = read_record(models_dir, "dataset")
    width, height = record["image_size"]
    # dataset.jpg of the pets, from the default models folder, is beside the scripts.
    pets = record["settings"].get("data") == PETS[0]
    beside_scripts = pets and models_dir.resolve() == MODELS_DIR

    def draw_examples(path: Path) -> None:
        rows = np.linspace(0, record["splits"]["train"]["examples"] - 1, SHOWN).astype(int)
        shown = {("train", int(row)): "" for row in np.unique(rows)}
        if not pets:
            odd = record.get("odd_pictures") or []
            shown |= {(split, number): why for split, number, why in odd}
        splits = {split: load_split(models_dir, split) for split in {split for split, _ in shown}}
        images, masks = (
            np.stack([splits[split][part][row] for split, row in shown]) for part in (0, 1)
        )
        title = f"{record['source']}, {width} x {height} pixels"
        classes = load_classes(models_dir)
        reasons = list(shown.values())
        charts.save(overlays.examples(images, masks, title, classes, reasons), path)

    return {(ROOT if beside_scripts else models_dir) / "dataset.jpg": draw_examples}
