"""Stage 1 of 5: prepare the data set.

Reads   --data, which is one of
        pets                Oxford-IIIT Pet 4.0.0 from TensorFlow Datasets (the default; 773 MiB
                            are downloaded once, or read from TFDS_DATA_DIR or --data-dir)
        synthetic           drawn animals, no download, 3 classes; synthetic:2, synthetic:6
        my_photos           a folder with images/ and masks/, or under other usual names, one mask
                            per image; splits are folders train/, val/, test/ or lists of names
                            train.txt ...; Pascal VOC, CVAT, Cityscapes, labelme, YOLO polygons
        my_photos.json      COCO JSON with polygons or run lengths (or the folder it lies in)
        data.yaml           of Ultralytics: semantic segmentation, or polygons
        tfds:NAME           any data set of TensorFlow Datasets with photographs and masks
        or --images DIR --masks DIR: folders of any names
Writes  models/dataset/     images and masks as uint8 arrays, which later stages memory-map;
                            dataset.json, which describes them; examples-*.csv, which lists the
                            file and the split of each example, in the order of the arrays
        dataset.jpg         a few photos, masks and overlays (of the pets: beside this script)

    python data_preparation.py
    python data_preparation.py --data synthetic         (about 15 s)
    python data_preparation.py --data my_photos --names cat,dog,other --image-size 256

The pets give 3312 training, 368 validation and 3669 test examples and take about half a minute,
once TFDS has the data. Splits of a data set are kept. A missing test split is a fifth of the
training split, a missing validation split a tenth of the rest: the pictures of the lowest hashes of
--seed and name, so that one more or less moves at most one other across each border. --group keeps
the pictures of a patient, a video or a scene in one split. Only evaluation.py reads the test split.

Mask values are class indices: 0, 1, 2 ... (or 1, 2, 3 ... if there is no 0), in grey or palette
PNG or .npy. All masks are checked before anything is written; a table shows the values.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))  # python -P and -I leave it out

from pipeline.base import artifacts, cli, console

if __name__ == "__main__":
    console.guard_imports()  # before the slow ones

import numpy as np

from pipeline.base.artifacts import Record
from pipeline.base.files import write_lines
from pipeline.base.stage import Stage
from pipeline.data import (
    audit,
    dataset,
    dataset_writer,
    fitting,
    folder_flags,
    image_size,
    label_flags,
    label_mapping,
    lost_classes,
    odd_pictures,
    orientation,
    sample_source,
    split_rules,
    split_selection,
)
from pipeline.data.formats import registry
from pipeline.report import dataset_picture, dataset_summary, sidecars
from pipeline.report.dataset_summary import LEFT_OUT

IMAGE_SIZE = "128"  # pixels, a square: images and masks are resized to it
# Share of faulty samples that is skipped without --skip-bad. The pets have few faults, which are
# their authors'; more of them mean a damaged copy.
SKIPPED, SKIPPED_PETS = 0.0, 0.01


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parses the command line (`sys.argv` if `argv` is None)."""
    parser = cli.argument_parser(__doc__, __file__)
    parser.add_argument("--data", metavar="X", help="data set to read; see above (default: pets)")
    parser.add_argument(
        "--dataset",
        choices=("oxford_iiit_pet", "synthetic", "folder"),
        help="old spelling: --dataset folder --data-dir DIR is --data DIR",
    )
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="the folder of TensorFlow Datasets"
    )
    folder_flags.add_flags(parser)
    label_flags.add_flags(parser)
    parser.add_argument(
        "--mask-orientation",
        choices=(orientation.STORED, orientation.SHOWN),
        help="what masks were drawn on where EXIF data turn a photograph and nothing tells: its "
        "pixels as stored, or the photograph as shown (default: like the others of the set)",
    )
    parser.add_argument(
        "--image-key", metavar="KEY", help="feature with the photograph in tfds:NAME"
    )
    parser.add_argument("--mask-key", metavar="KEY", help="feature with the mask in tfds:NAME")
    parser.add_argument(
        "--image-size",
        type=image_size.parse_size,
        default=IMAGE_SIZE,
        metavar="PIXELS",
        help=f"side, or WIDTHxHEIGHT like 480x352; multiples of {image_size.STRIDE} "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--fit",
        choices=fitting.FITS,
        default="stretch",
        help="how pictures with another aspect ratio are resized: distorted, with black bars that "
        "are ignored, or with two sides cut off (default: %(default)s)",
    )
    parser.add_argument(
        "--skip-bad",
        type=cli.bounded(float, 0, 1),
        metavar="SHARE",
        help="skip faulty examples, up to this share of all (default: "
        f"{SKIPPED:g}; for the pets {SKIPPED_PETS:g}); {LEFT_OUT} lists them",
    )
    split_rules.add_flags(parser)
    arguments = parser.parse(label_flags.with_negative_values(argv))
    folder_flags.check(parser, arguments)
    if arguments.data and arguments.dataset:
        parser.error("--dataset is the old spelling of --data; give one of them")
    if arguments.dataset == "folder":
        if not arguments.data_dir:
            parser.error("--dataset folder needs --data-dir DIR; or use --data DIR")
        arguments.data, arguments.data_dir = str(arguments.data_dir), None
    if arguments.images:
        arguments.data = str(arguments.images)
    arguments.data = arguments.data or arguments.dataset or registry.PETS[0]
    if arguments.data in registry.PETS:
        arguments.data = registry.PETS[0]
    del arguments.dataset
    return arguments


def open_data(arguments: argparse.Namespace) -> sample_source.Collection:
    """Opens the data set that the command line names, without reading a mask."""
    width, height = arguments.image_size
    keys = arguments.image_key, arguments.mask_key
    folders = folder_flags.folders_of(arguments)
    collection = registry.open_source(
        arguments.data, arguments.data_dir, keys, (height, width), arguments.seed, folders
    )
    return registry.with_flags(
        collection,
        arguments.names,
        arguments.ignore_index,
        arguments.label_mapping,
    )


class Plan(NamedTuple):
    """What is decided before anything is written."""

    findings: audit.Findings  # faults that decoding finds are added to it
    number: int  # of samples, faulty ones included
    skipped_share: float  # of faulty samples that may be skipped
    meaning: label_mapping.Meaning
    rule: split_rules.Rule
    codes: dict[str, np.ndarray]  # split of every sample, see `split_selection.cut`


def decide(arguments: argparse.Namespace, source: sample_source.Collection) -> Plan:
    """Checks all masks and prints the values that they hold; decides on classes and splits."""
    pets = arguments.data == registry.PETS[0]
    usual = SKIPPED_PETS if pets else SKIPPED
    skipped_share = usual if arguments.skip_bad is None else arguments.skip_bad
    rule = split_rules.rule_of(source, arguments.seed, arguments.group, pets or source.synthetic)

    for line in source.notes:
        console.say(line)
    findings = audit.scan(source, arguments.mask_orientation)
    number = sum(map(len, findings.mask_values.values())) + len(source.faults)
    if not findings.first_mask:
        split_selection.refuse(findings.faults, number, 0)
    meaning = None
    try:
        meaning = audit.judge(source, findings, arguments.fit == "pad")
    finally:
        for line in [*audit.table(source.labels, findings, meaning), *findings.notes]:
            console.say(line)
    split_selection.refuse(findings.faults, number, skipped_share)
    split_selection.note_unlabelled(source, findings, meaning)
    codes = split_selection.cut(findings, rule.choose, meaning)
    if meaning.unused:
        names = ", ".join(meaning.unused)
        console.say(f"left out, because no mask holds them: the classes {names}")
    if missing := split_rules.missing_splits(source):
        console.say(f"cut from the training pictures, {rule.text}: {' and '.join(missing)}")
    if not skipped_share:
        split_selection.refuse_absent(source.labels, findings, meaning, codes, rule.with_seed)
    return Plan(findings, number, skipped_share, meaning, rule, codes)


def write(
    stage: Stage, arguments: argparse.Namespace, source: sample_source.Collection, plan: Plan
) -> Record:
    """Decodes and resizes the samples, a few at a time, and writes arrays, list and record."""
    width, height = arguments.image_size
    faults = plan.findings.faults
    folder = artifacts.artifact_path(stage.models_dir, "dataset").parent
    with dataset_writer.rollback(folder):
        writer = dataset_writer.DataSetWriter(folder, plan.meaning.classes)
        names: dict[str, list[str]] = {split: [] for split in dataset.SPLITS}
        resizing = (height, width), arguments.fit
        rare, odd = odd_pictures.pick(plan.findings, plan.codes), []
        for example in split_selection.decoded(
            source, plan.codes, plan.meaning, plan.findings, *resizing
        ):
            writer.add(example.split, example.image, example.mask, example.held)
            names[example.split].append(example.id)
            if example.origin in rare:
                odd.append([example.split, len(names[example.split]) - 1, rare[example.origin]])
        split_selection.refuse(faults, plan.number, plan.skipped_share)
        splits, fingerprint = writer.describe()
        about = {
            "source": source.title,
            "formats": registry.format_of(arguments.data, folder_flags.folders_of(arguments)),
            "synthetic": source.synthetic,
            "image_size": [width, height],
            "fit": arguments.fit,
            **({"photos": photos} if (photos := plan.findings.photos.record()) else {}),
            "splits": splits,
            "split_rules": split_rules.record(source, plan.rule),
            "fingerprint": fingerprint,
            "same_pictures": writer.same_pictures(names if source.named else None),
            "lost_classes": lost_classes.record(
                source, plan.codes, plan.meaning, plan.findings, resizing, writer
            ),
            "odd_pictures": odd,
            "listing": dataset_writer.write_list(folder, names) if source.named else None,
            **writer.facts(),
        }
        metrics = {"audit": audit.record(plan.findings, plan.meaning)}
        content = {**about, **stage.record(fingerprint, metrics)}
        artifacts.put_record(stage.models_dir, "dataset", content)
    record = artifacts.read_record(stage.models_dir, "dataset")
    dataset_writer.remove_leftovers(folder, record)
    return record


def prepare(stage: Stage, arguments: argparse.Namespace, source: sample_source.Collection) -> None:
    """Writes the data set; then lists what is not in it, draws examples and prints a summary."""
    plan = decide(arguments, source)
    record = write(stage, arguments, source, plan)
    folder = artifacts.artifact_path(stage.models_dir, "dataset").parent
    left_out = [fault.text for fault in plan.findings.faults]
    unused = [(f"class {name}", "no mask holds it") for name in plan.meaning.unused]
    skipped = [*source.skipped, *plan.findings.skipped, *unused]
    left_out += [f"{name}: {reason}, skipped" for name, reason in skipped]
    (folder / LEFT_OUT).unlink(missing_ok=True)
    if left_out:
        sidecars.drawn(folder / LEFT_OUT, lambda path: write_lines(path, left_out))
    files = dataset_picture.drawings(stage.models_dir)
    sidecars.draw(stage, "dataset", files, dataset_picture.__file__)
    for line in dataset_summary.lines(record, folder, skipped):
        console.say(line)
    console.say(f"wrote {folder} and {next(iter(files))} in {stage.seconds()} s")


def main(argv: list[str] | None = None) -> None:
    """Runs the stage; raises console.UserError for errors that the user can fix."""
    arguments = parse(argv)
    if arguments.data_dir and not registry.on_disk(arguments.data):
        registry.refuse_pictures(arguments.data_dir)

    # The folder of TFDS changes no example; of own files the content counts, not the path.
    formats = registry.format_of(arguments.data, folder_flags.folders_of(arguments))
    stage = Stage.begin(__file__, arguments, parse([]), formats=formats).ignoring("data_dir")
    source = None
    if registry.on_disk(arguments.data):
        source = open_data(arguments)
        states = artifacts.artifact_path(arguments.models_dir, "dataset").with_name("files.txt")
        contents = registry.content_of(source.folder, source.files(), states)
        stage = stage.with_inputs({f"content of {arguments.data}": contents})
    if stage.nothing_to_do("dataset"):
        folder = artifacts.artifact_path(arguments.models_dir, "dataset").parent
        record = artifacts.read_record(arguments.models_dir, "dataset")
        if dataset_writer.leftovers(folder, record.files):  # by a killed run
            with contextlib.suppress(console.UserError, OSError), stage.lock():
                dataset_writer.remove_leftovers(folder, record)
        files = dataset_picture.drawings(arguments.models_dir)
        sidecars.draw_again(stage, "dataset", files, dataset_picture.__file__)
    else:
        with stage.lock():
            stage.refuse_foreign()
            prepare(stage, arguments, source or open_data(arguments))


if __name__ == "__main__":
    console.run(main)
