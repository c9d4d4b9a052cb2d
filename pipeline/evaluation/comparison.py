"""What differs between two evaluations: settings, code, and each model with paired intervals.

Numbers only; their words are in pipeline/report/changes.py.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.artifacts import ARTIFACTS, artifact_path, command, dictionary
from pipeline.base.console import UserError, say
from pipeline.data.dataset import load_split
from pipeline.evaluation import finished
from pipeline.evaluation.bootstrap import bootstrap_iou, interval
from pipeline.evaluation.finished import Finished, Kept
from pipeline.evaluation.latency import measure_files
from pipeline.inference.iou import iou_per_class, mean_iou

SHOWN_MODEL = "int8"  # whose photos are shown, if it changed; else the first model that did
CHANGED_PHOTOS = 4  # photos whose mean IoU changed most


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --against."""
    parser.add_argument(
        "--against",
        type=Path,
        metavar="DIR",
        help="compare with another models folder, which evaluation.py has measured, and time the "
        "files of both in turns; this folder is measured first if its evaluation is not up to date",
    )


def since(kept: Kept, evaluation: dict[str, Any], counts: Mapping[str, np.ndarray]) -> Any:
    """What differs between the evaluation before and this one, see `compare`. Raises nothing.

    Returns:
        None if there is none before, or it cannot be compared, which a note says.
    """
    if kept.evaluation is None:
        return None
    try:
        return compare(kept.evaluation, Finished(evaluation, dict(counts)))
    except Exception as error:  # of another version of this pipeline: whatever it lacks
        reason = f"{type(error).__name__}: {error}"
        say(f"note: this evaluation could not be compared with the one before ({reason})")
        return None


def against(folder: Path, there: Finished, models_dir: Path) -> dict[str, Any]:
    """What differs between another models folder and this one, with times. See `compare`.

    The files that differ are timed in turns, in one process.

    Args:
        folder: the other one, and `there`, its evaluation, as from `finished.of_folder`.

    Returns:
        As `compare`, with `against`, the folder; and in the rows `latency_ms`, [then, now] as from
        `latency.latency_runs`, or instead `not_timed`, why there are no times.

    Raises:
        UserError: the other evaluation lacks what is compared.
    """
    here = finished.here(models_dir)
    try:
        result = compare(there, here) | {"against": str(folder)}
    except (KeyError, TypeError, AttributeError, ValueError):
        raise UserError(
            f"--against {folder}: its evaluation is of another version of this pipeline; measure "
            f"it again with: {command('evaluation', folder)}"
        ) from None
    sizes = [one.numbers["dataset"].get("image_size") for one in (there, here)]
    if sizes[0] != sizes[1]:
        return result | {"not_timed": "the pictures are of another size"}
    files = {}
    for row in result["models"]:
        for when, place in (("then", folder), ("now", models_dir)):
            files[f"{when} {row['name']}"] = artifact_path(place, row["name"])
    try:
        times = measure_files(files, 1, load_split(models_dir, "test")[0][0]) if files else {}
    except (UserError, ValueError, RuntimeError) as error:  # a process that died, say
        return result | {"not_timed": str(error).partition("\n")[0]}
    for row in result["models"]:
        row["latency_ms"] = [times[f"{when} {row['name']}"] for when in ("then", "now")]
    return result


def compare(then: Finished, now: Finished) -> dict[str, Any]:
    """What differs between two evaluations.

    Returns:
        `settings`: [script, flag, value then, value now] of each that differs. `code`: by
        "edited", "new" and "gone", names of files. `packages`: [name, version then, version now].
        `data`: whether the data set is another. `same_pictures`: whether the test pictures and
        masks are the same. `same`: names of the models that did not change, `new` and `gone`:
        those that only one has. `models`: a row for each that changed, with [then, now] of
        `bytes`, `activation_kb`, `validation` (mean IoU), `mean_iou` and, by class, `iou`; and
        95 % intervals of now minus then, `interval` and by class `iou_intervals`, None where the
        pictures differ. `photos`: the `model`, and [row of the test split, mean IoU then, now].
    """
    numbers = json.loads(json.dumps(now.numbers))  # as it will be read: lists for tuples
    before = {row["name"]: row for row in then.numbers["models"]}
    after = {row["name"]: row for row in numbers["models"]}
    pictures = have_same_pictures(then, Finished(numbers, now.counts))
    both = [name for name in after if name in before]
    changed = [name for name in both if not is_same(name, then, Finished(numbers, now.counts))]
    pairs = {
        f"{when} {name}": one.counts[name]
        for name in changed
        for when, one in (("then", then), ("now", now))
    }
    samples = bootstrap_iou(pairs, numbers["seed"]) if pictures and pairs else {}
    rows = []
    for name in changed:
        old, new = before[name], after[name]
        row: dict[str, Any] = {"name": name, "interval": None, "iou_intervals": None}
        for key in ("bytes", "activation_kb", "mean_iou"):
            row[key] = [old.get(key), new.get(key)]
        row["validation"] = [validation_of(one, name) for one in (then.numbers, numbers)]
        row["iou"] = {key: [old["iou"].get(key), value] for key, value in new["iou"].items()}
        if samples:
            sampled = [samples[f"{when} {name}"] for when in ("then", "now")]
            row["interval"] = interval(mean_iou(sampled[1]) - mean_iou(sampled[0]))
            apart = (sampled[1] - sampled[0]).T
            row["iou_intervals"] = dict(zip(new["iou"], map(interval_of_class, apart)))
        rows.append(row)
    return {
        "against": None,
        **origin_of_changes(then.numbers, numbers),
        "same_pictures": pictures,
        "same": [name for name in both if name not in changed],
        "new": [name for name in after if name not in before],
        "gone": [name for name in before if name not in after],
        "models": rows,
        "photos": changed_photos(changed, then, now) if pictures else None,
    }


def interval_of_class(samples: np.ndarray) -> list[float] | None:
    """The interval of a class's IoU; None if resamples without the class left nothing to say."""
    defined = samples[np.isfinite(samples)]
    return interval(defined) if len(defined) else None


def have_same_pictures(then: Finished, now: Finished) -> bool:
    """Whether two evaluations counted the same pixels: pictures, masks, classes and split."""
    data = [one.numbers["dataset"] for one in (then, now)]
    key = "test_pictures" if all("test_pictures" in part for part in data) else "fingerprint"
    shapes = [{array.shape for array in one.counts.values()} for one in (then, now)]
    alike = all(data[0].get(k) == data[1].get(k) for k in (key, "split", "class_names"))
    return alike and shapes[0] == shapes[1] and len(shapes[0]) == 1


def is_same(name: str, then: Finished, now: Finished) -> bool:
    """Whether a model is the same file in both evaluations, and was counted alike."""
    digests = [
        dictionary(dictionary(one.numbers.get("stages")).get(name)).get("sha256")
        for one in (then, now)
    ]
    known = digests[0] is not None and digests[0] == digests[1]
    return known and np.array_equal(then.counts[name], now.counts[name])


def validation_of(numbers: dict[str, Any], name: str) -> float | None:
    """Mean IoU on the validation split, where the stage that made the model measured it."""
    metrics = dictionary(numbers.get("stages")).get(name, {}).get("metrics", {})
    return metrics.get("validation_mean_iou")


def origin_of_changes(then: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Settings, code, packages and data that differ, see `compare`.

    An evaluation of an older version holds no code: then it is not known whether that differs.
    """
    settings: list[list[Any]] = []
    stages = [dictionary(one.get("stages")) for one in (then, now)]
    for name, stage in stages[1].items():
        old, new = dictionary(dictionary(stages[0].get(name)).get("settings")), stage["settings"]
        # A flag that the older one lacks is newer than it, unless it was used now.
        for flag in old.keys() & new | {flag for flag in new if old and new[flag]}:
            entry = [ARTIFACTS[name][1], flag, old.get(flag), new[flag]]
            if entry[2] != entry[3] and entry not in settings:  # one stage makes several models
                settings.append(entry)
    if then.get("seed") != now.get("seed"):
        settings.append([ARTIFACTS["evaluation"][1], "seed", then.get("seed"), now.get("seed")])
    code: dict[str, set[str]] = {"edited": set(), "new": set(), "gone": set()}
    codes = [dictionary(one.get("code")) for one in (then, now)]
    for script in codes[0].keys() & codes[1]:
        old, new = (dictionary(of_stages[script]) for of_stages in codes)
        code["new"] |= new.keys() - old.keys()
        code["gone"] |= old.keys() - new.keys()
        code["edited"] |= {file for file in new.keys() & old if new[file] != old[file]}
    packages = [
        dictionary(dictionary(one.get("environment")).get("versions")) for one in (then, now)
    ]
    both = sorted(packages[0].keys() & packages[1])
    data = [dictionary(one["dataset"]).get("fingerprint") for one in (then, now)]
    order = list(dict.fromkeys(script for _, script in ARTIFACTS.values()))
    return {
        "settings": sorted(settings, key=lambda entry: (order.index(entry[0]), entry[1])),
        "code": {kind: sorted(files) for kind, files in code.items()},
        "code_known": bool(codes[0] and codes[1]),
        "packages": [
            [name, *(part[name] for part in packages)]
            for name in both
            if packages[0][name] != packages[1][name]
        ],
        "data": data[0] != data[1],
    }


def changed_photos(changed: list[str], then: Finished, now: Finished) -> dict[str, Any] | None:
    """The test pictures on which a model's mean IoU changed most; None if none did."""
    if not changed:
        return None
    model = SHOWN_MODEL if SHOWN_MODEL in changed else changed[0]
    scores = [mean_iou(iou_per_class(one.counts[model])) for one in (then, now)]
    apart = np.abs(scores[1] - scores[0])
    ranking = np.argsort(-apart, kind="stable")[:CHANGED_PHOTOS]
    rows = [[int(row), *(round(float(part[row]), 5) for part in scores)] for row in ranking]
    rows = [row for row, number in zip(rows, ranking) if apart[number] > 0]
    return {"model": model, "rows": rows} if rows else None
