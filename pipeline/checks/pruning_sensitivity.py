"""pruning.py --sensitivity: how much mean IoU each layer loses, pruned alone. Prunes nothing."""

from __future__ import annotations

from pipeline.base import console
from pipeline.base.files import write_csv
from pipeline.base.stage import Stage
from pipeline.data.dataset import load_split
from pipeline.inference import keras_files
from pipeline.pruning import magnitude
from pipeline.report import charts, sidecars


def write(stage: Stage) -> None:
    """Prunes each layer of the original network alone, on validation images, and plots the loss."""
    split = (part[: magnitude.SCAN_IMAGES] for part in load_split(stage.models_dir, "validation"))
    rows = magnitude.scan_sensitivity(keras_files.load_model(stage.models_dir, "original"), *split)
    picture = stage.models_dir / "pruned_sensitivity.png"
    write_csv(picture.with_suffix(".csv"), rows)
    sidecars.drawn(picture, lambda path: charts.save(charts.pruning_sensitivity(rows), path))
    level = f"{magnitude.SCAN_LEVELS[-1]:.0%}"
    worst = sorted(rows, key=lambda row: -row[level])[:3]
    named = ", ".join(f"{row['layer']} ({row[level]:+.3f})" for row in worst)
    console.say(f"most sensitive: {named}")
    console.say(f"wrote {picture} and the table beside it in {stage.seconds()} s")
