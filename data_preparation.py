"""Stage 1 of 5: prepare the data set.

Reads   --data, which is one of
        pets                Oxford-IIIT Pet 4.0.0 through TensorFlow Datasets (the default;
                            downloaded once, 773 MiB, or read from TFDS_DATA_DIR / --data-dir)
        synthetic           drawn animals, no download; synthetic:2 and :6 for other classes
        my_photos           a folder with images/ and masks/ (one mask of the same name for each
                            image), below them train/, val/, test/ or nothing, or lists of names
                            train.txt ...; or in the layout of Pascal VOC and CVAT
        my_photos.json      COCO JSON with polygons or run lengths
        data.yaml           of an Ultralytics data set for semantic segmentation
        tfds:NAME           any set of TensorFlow Datasets with photographs and masks
Writes  models/dataset/     images and masks as uint8 arrays that later stages memory-map, and
                            dataset.json, which says what they are; examples-*.csv, which says
                            which picture is in which split, in the order of the arrays
        dataset.jpg         a few photos, their masks and overlays (of the pets: beside this script)

    python data_preparation.py
    python data_preparation.py --data synthetic         (about 15 s)
    python data_preparation.py --data my_photos --names cat,dog,other --image-size 256

Expect of the pets 3312 training, 368 validation and 3669 test examples; about half a minute
once TFDS has the data. What a source has cut stays so. Without a test split, a fifth of all
becomes one, and without a validation split a tenth of the rest, chosen by the seed; only
evaluation.py reads the test split.

Masks hold numbers of classes: 0, 1, 2 ... (or 1, 2, 3 ... if there is no 0), as grey or
palette PNG. All of them are looked at before anything is written: see the table.
"""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.base import artifacts, cli, console

if __name__ == "__main__":
    console.guard_imports()  # before the slow ones

import numpy as np

from pipeline.base.stage import Stage
from pipeline.data import (
    audit,
    dataset,
    dataset_writer,
    image_reader,
    label_mapping,
    sample_source,
    split_selection,
)
from pipeline.data.formats import registry
from pipeline.report import charts, overlays, sidecars

IMAGE_SIZE = "128"  # pixels: what images and masks are resized to, a square
STRIDE = 32  # of the network: sides must be multiples of it
LARGEST = 2048  # side of an image
SHOWN = 6  # training examples in dataset.jpg, far apart: neighbours may be much alike
MOST_SHARES = 4  # classes of each split in the last lines; the table before them has all
LEFT_OUT = "left_out.txt"  # beside dataset.json: files that are not in the data set, and why


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The settings from the command line (`sys.argv` if `argv` is None)."""
    parser = cli.argument_parser(__doc__)
    parser.add_argument(
        "--data", metavar="X", help="where the examples come from; see above (default: pets)"
    )
    parser.add_argument(
        "--dataset",
        choices=("oxford_iiit_pet", "synthetic", "folder"),
        help="the former spelling: --dataset folder --data-dir DIR is --data DIR",
    )
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="the folder of TensorFlow Datasets"
    )
    parser.add_argument(
        "--names",
        type=label_mapping.parse_names,
        metavar="A,B,C",
        help="the classes in the order of their numbers, or a file with one a line",
    )
    parser.add_argument(
        "--ignore-index",
        type=cli.bounded(int, 0, 65535),
        metavar="VALUE",
        help="pixels of this value in masks are no class and count for nothing, as 255 often is",
    )
    parser.add_argument(
        "--label-mapping",
        type=label_mapping.parse_mapping,
        metavar="VALUE:CLASS,...",
        help="what values or colours of masks mean: 255:1,7:ignore or 255,0,0:1,0,0,0:0",
    )
    parser.add_argument("--image-key", metavar="KEY", help="of photographs in tfds:NAME")
    parser.add_argument("--mask-key", metavar="KEY", help="of masks in tfds:NAME")
    parser.add_argument(
        "--image-size",
        type=parse_size,
        default=IMAGE_SIZE,
        metavar="PIXELS",
        help=f"128, or WIDTHxHEIGHT as 480x352, multiples of {STRIDE} (default: %(default)s)",
    )
    parser.add_argument(
        "--fit",
        choices=image_reader.FITS,
        default="stretch",
        help="how pictures of another shape get there: distorted, with black bars that count for "
        "nothing, or with two sides cut off (default: %(default)s)",
    )
    parser.add_argument(
        "--skip-bad",
        type=cli.bounded(float, 0, 1),
        metavar="SHARE",
        help="go on without examples that have a fault, up to this share of all (default: 0; of "
        f"the pets 0.5); {LEFT_OUT} lists them",
    )
    arguments = parser.parse_args(argv)
    if arguments.data and arguments.dataset:
        parser.error("--dataset is the former spelling of --data; give one of them")
    if arguments.dataset == "folder":
        if not arguments.data_dir:
            parser.error("--dataset folder needs --data-dir DIR; or say --data DIR")
        arguments.data, arguments.data_dir = str(arguments.data_dir), None
    arguments.data = arguments.data or arguments.dataset or registry.PETS[0]
    if arguments.data in registry.PETS:
        arguments.data = registry.PETS[0]
    del arguments.dataset
    return arguments


def parse_size(text: str) -> list[int]:
    """Width and height from "480x352" or "128"; an argparse type."""
    numbers = re.fullmatch(r"(\d+)(?:x(\d+))?", text.lower())
    if not numbers:
        raise argparse.ArgumentTypeError(f"{text} is neither PIXELS nor WIDTHxHEIGHT")
    size = [int(numbers[1]), int(numbers[2] or numbers[1])]
    nearest = [min(max(STRIDE, STRIDE * round(side / STRIDE)), LARGEST) for side in size]
    if size != nearest:
        square = len(set(nearest)) == 1 and not numbers[2]
        raise argparse.ArgumentTypeError(
            f"{text}: the network halves an image five times, so that sides are multiples of "
            f"{STRIDE}, {STRIDE} to {LARGEST}; the nearest is "
            + (str(nearest[0]) if square else "x".join(map(str, nearest)))
        )
    return size


def open_data(arguments: argparse.Namespace) -> sample_source.Collection:
    """The source that the command line asks for, no mask looked at yet."""
    width, height = arguments.image_size
    keys = arguments.image_key, arguments.mask_key
    collection = registry.open_source(
        arguments.data, arguments.data_dir, keys, (height, width), arguments.seed
    )
    return registry.with_flags(
        collection,
        arguments.names,
        arguments.ignore_index,
        arguments.label_mapping,
        arguments.skip_bad,
    )


def prepare(stage: Stage, arguments: argparse.Namespace, source: sample_source.Collection) -> None:
    """Looks at all masks, cuts the splits, writes the data set."""
    models_dir, (width, height) = arguments.models_dir, arguments.image_size

    # Look at every mask before anything is written, and say what they hold.
    findings = audit.scan(source)
    faults = findings.faults
    number = sum(map(len, findings.mask_values.values())) + len(source.faults)
    if not findings.first_mask:
        split_selection.refuse(faults, number, 0)
    meaning = None
    try:
        meaning = audit.judge(source, findings, arguments.fit == "pad")
    finally:
        for line in audit.table(source.labels, findings, meaning):
            console.say(line)
    split_selection.refuse(faults, number, source.skip_bad)
    chosen = split_selection.cut(findings, arguments.seed)
    if missing := [split for split in ("test", "validation") if split not in source.splits]:
        console.say(f"cut from the training pictures by --seed: {' and '.join(missing)}")
    if not source.skip_bad:
        split_selection.refuse_absent(source.labels, findings, meaning, chosen)

    # Decode and resize what is left, a few at a time, each into its split.
    folder = artifacts.artifact_path(models_dir, "dataset").parent
    with new_arrays(folder):
        writer = dataset_writer.DataSetWriter(folder, meaning.classes)
        names = dataset_writer.ListWriter()
        size, fit = (height, width), arguments.fit
        found = split_selection.decoded(source, chosen, meaning, size, fit, faults)
        for split, name, image, mask in found:
            writer.add(split, image, mask)
            names.add(split, name)
        split_selection.refuse(faults, number, source.skip_bad)
        splits, fingerprint = writer.describe()
        left_out = [fault.text for fault in faults]
        left_out += [f"{name}: {why}, not looked at" for name, why in source.skipped]
        about = {
            "source": source.title,
            "formats": registry.format_of(arguments.data),
            "synthetic": source.synthetic,
            "image_size": [width, height],
            "fit": arguments.fit,
            "splits": splits,
            "fingerprint": fingerprint,
            "listing": names.write(folder),
            "left_out": left_out,
            **stage.record(fingerprint, {"audit": audit.record(findings, meaning)}),
        }
        writer.finish(about)
    if not left_out:
        (folder / LEFT_OUT).unlink(missing_ok=True)

    # The data set is in place. Show what it looks like.
    files = drawings(models_dir)
    sidecars.draw(stage, "dataset", files, overlays.__file__)
    for split, facts in splits.items():
        shares = [f"{name} {share:.3f}" for name, share in facts["class_shares"].items()]
        of = ", ".join(shares[:MOST_SHARES]) + (" ..." if len(shares) > MOST_SHARES else "")
        console.say(f"{split:10} {facts['examples']:5} examples   {of}")
    if note := split_selection.few_pictures_note(splits):
        console.say(note)
    if left_out:
        console.say(
            f"not in it: {len(faults)} examples with faults, {len(source.skipped)} "
            f"files passed over; {folder / LEFT_OUT} names them"
        )
    if about["listing"]:
        console.say(f"which picture is in which split: {folder / about['listing'][0]}")
    console.say(f"wrote {folder} and {next(iter(files))} in {stage.seconds()} s")


def drawings(models_dir: Path) -> dict[Path, Callable[[Path], None]]:
    """The picture of the data set and the list of what it leaves out, drawn from what is in it."""
    record = artifacts.read_record(models_dir, "dataset")
    width, height = record["image_size"]
    # The picture beside the scripts is of the pets.
    pets = record["settings"].get("data") == registry.PETS[0]
    beside_scripts = pets and models_dir.resolve() == artifacts.MODELS_DIR

    def draw_examples(path: Path) -> None:
        rows = np.linspace(0, record["splits"]["train"]["examples"] - 1, SHOWN).astype(int)
        images, masks = (a[np.unique(rows)] for a in dataset.load_split(models_dir, "train"))
        title = f"{record['source']}, {width} x {height} pixels"
        classes = dataset.load_classes(models_dir)
        charts.save(overlays.examples(images, masks, title, classes), path)

    def list_left_out(path: Path) -> None:
        text = "".join(f"{line}\n" for line in record["left_out"])
        with artifacts.atomic(path) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="replace")

    files = {(artifacts.ROOT if beside_scripts else models_dir) / "dataset.jpg": draw_examples}
    if record.get("left_out"):
        folder = artifacts.artifact_path(models_dir, "dataset").parent
        files[folder / LEFT_OUT] = list_left_out
    return files


@contextlib.contextmanager
def new_arrays(folder: Path) -> Iterator[None]:
    """Takes what is written inside away again if the data set is not finished."""
    before = dataset_writer.leftovers(folder, {})
    try:
        yield
    except BaseException:
        for path in set(dataset_writer.leftovers(folder, {})).difference(before):
            path.unlink(missing_ok=True)
        raise


def main(argv: list[str] | None = None) -> None:
    """Runs the stage; raises console.UserError for what the user can mend."""
    arguments = parse(argv)
    if arguments.data_dir and not registry.on_disk(arguments.data):
        registry.refuse_pictures(arguments.data_dir)

    # Where TFDS keeps its copy changes no example; files of one's own count by their content.
    formats = registry.format_of(arguments.data)
    stage = Stage.begin(__file__, arguments, parse([]), formats=formats).ignoring("data_dir")
    source = None
    if registry.on_disk(arguments.data):
        source = open_data(arguments)
        states = artifacts.artifact_path(arguments.models_dir, "dataset").with_name("files.txt")
        contents = registry.content_of(source.folder, source.files(), states)
        stage = stage.with_inputs({f"content of {arguments.data}": contents})
    if stage.nothing_to_do("dataset"):
        folder = artifacts.artifact_path(arguments.models_dir, "dataset").parent
        about = artifacts.read_record(arguments.models_dir, "dataset")
        if left := dataset_writer.leftovers(folder, about):  # of a run that was killed at its end
            with contextlib.suppress(console.UserError, OSError), stage.lock():
                for path in left:
                    path.unlink(missing_ok=True)
        sidecars.draw_again(stage, "dataset", drawings(arguments.models_dir), overlays.__file__)
    else:
        with stage.lock():
            prepare(stage, arguments, source or open_data(arguments))


if __name__ == "__main__":
    console.run(main)
