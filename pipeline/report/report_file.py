"""Writes report.html, when what it shows changed, and only then."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pipeline.base.artifacts import ARTIFACTS, read_record
from pipeline.base.console import say
from pipeline.base.files import sha256
from pipeline.base.stage import Stage
from pipeline.report import gallery, other_models_table, page


def draw(stage: Stage, evaluation: dict[str, Any], changes: dict[str, Any] | None) -> None:
    """Writes report.html, unless it shows these numbers, drawn by this code, already.

    Args:
        stage: the run of evaluation.py.
        changes: the comparison that this run prints, see `comparison.compare`; None: no section.
    """
    models_dir = stage.models_dir
    drawing = Stage.begin(page.__file__, stage.arguments, counted=("report",))
    drawing = drawing.ignoring(*vars(stage.arguments))
    inputs = {"evaluation": read_record(models_dir, "evaluation")["sha256"]}
    if listing := read_record(models_dir, "dataset").get("listing"):
        inputs["the list of pictures"] = listing[1]
    if changes and changes["against"] is not None:  # the other comparison is in evaluation.json
        numbers = json.dumps(changes, sort_keys=True).encode()
        inputs["the comparison with another folder"] = hashlib.sha256(numbers).hexdigest()
    others = other_models_table.kept(models_dir)
    if others:
        inputs["models of others"] = sha256(models_dir / other_models_table.FILE)
    drawing = drawing.with_inputs(inputs)
    reasons = drawing.reasons("report")
    if not reasons:
        return
    say(f"drawing {ARTIFACTS['report'][0]}, because {reasons[0].text}")
    photos = gallery.photo_grid(models_dir, evaluation)
    changed = gallery.changed_photos(models_dir, evaluation, changes)
    with drawing.new_artifact("report", {}) as (path,):
        html = page.page(evaluation, models_dir, photos, changes, changed, others)
        path.write_text(html, encoding="utf-8")
