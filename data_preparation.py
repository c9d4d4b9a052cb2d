"""Stage 1 of 5: prepare the data set.

Reads   Oxford-IIIT Pet 4.0.0 through TensorFlow Datasets (downloaded once, 773 MiB, or read
        from TFDS_DATA_DIR / --data-dir); or, with --dataset synthetic, draws its own animals.
Writes  models/dataset/   images and masks as uint8 arrays that later stages memory-map, and
                          dataset.json, which says what they are
        dataset.jpg       a few photos, their masks and overlays

    python data_preparation.py
    python data_preparation.py --dataset synthetic      (no download, about 15 s)
    python data_preparation.py --dataset folder --data-dir my_photos

Expect 3312 training, 368 validation and 3669 test examples; about half a minute once TFDS
has the data. The official `train` split is cut 90/10 into training and validation by the
seed; the official `test` split stays whole and only evaluation.py reads it.

Your own photos: --dataset folder --data-dir DIR, with DIR/images/NAME.jpg (or .png) and
DIR/masks/NAME.png holding 1 for pet, 2 for background, 3 for border. A fifth of them, chosen
by the seed, becomes the test split.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pipeline import charts, console, dataset, examples, flags, pictures, sources, synthetic
from pipeline.artifacts import MODELS_DIR, ROOT, artifact_path
from pipeline.stages import Stage

IMAGE_SIZE = 128  # pixels, the side of the square that images and masks are resized to
STRIDE = 32  # of the network: the side must be a multiple of it
VALIDATION_SHARE = 0.1  # of the official train split
SHOWN = 6  # examples in dataset.jpg

SOURCES = {  # --dataset: what its examples are called
    "oxford_iiit_pet": "Oxford-IIIT Pet 4.0.0 (TensorFlow Datasets)",
    "synthetic": "synthetic animals",
    "folder": "a folder of pictures",
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The settings from the command line (`sys.argv` if `argv` is None)."""
    parser = flags.argument_parser(__doc__)
    parser.add_argument(
        "--dataset",
        choices=tuple(SOURCES),
        default="oxford_iiit_pet",
        help="where the examples come from (default: %(default)s)",
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="the TFDS data folder, or the folder of your own photos",
    )
    parser.add_argument(
        "--image-size",
        type=flags.bounded(int, STRIDE, 1024),
        default=IMAGE_SIZE,
        metavar="PIXELS",
        help=f"side of the square images, a multiple of {STRIDE} (default: %(default)s)",
    )
    arguments = parser.parse_args(argv)
    if arguments.image_size % STRIDE:
        parser.error(
            f"--image-size {arguments.image_size} is not a multiple of {STRIDE}, "
            "the stride of the network"
        )
    return arguments


def open_source(split: str, arguments: argparse.Namespace) -> tuple[int, Iterator[examples.Source]]:
    """Number and stream of the examples of an official split ("train" or "test")."""
    if arguments.dataset == "synthetic":
        return synthetic.draw_synthetic(split, arguments.image_size, arguments.seed)
    if arguments.dataset == "folder":
        return sources.read_folder(split, arguments.data_dir, arguments.seed)
    return sources.read_oxford_pets(split, arguments.data_dir)


def prepare(stage: Stage, arguments: argparse.Namespace) -> None:
    """Reads, cuts and writes the data set."""
    models_dir, size = arguments.models_dir, arguments.image_size

    # Decode and resize every example, counting what is wrong with some.
    audit: Counter[str] = Counter()
    official = {}
    for split in ("train", "test"):
        number, stream = open_source(split, arguments)
        official[split] = examples.prepare_split(number, stream, size, split, audit)

    # Validation comes out of the official train split; the test split stays whole.
    arrays = dataset.cut_validation(official["train"], VALIDATION_SHARE, arguments.seed)
    arrays["test"] = official["test"]

    # Write arrays, record and picture.
    own_pictures = arguments.dataset == "folder"
    source = str(arguments.data_dir) if own_pictures else SOURCES[arguments.dataset]
    splits, fingerprint = dataset.describe(arrays)
    about = {
        "source": source,
        "synthetic": arguments.dataset == "synthetic",
        "image_size": size,
        "class_names": dataset.CLASSES,
        "splits": splits,
        "fingerprint": fingerprint,
        **stage.record(fingerprint, {"audit": {what: audit[what] for what in examples.AUDIT}}),
    }
    folder = artifact_path(models_dir, "dataset").parent
    dataset.write_data_set(folder, arrays, about)
    real_run = models_dir.resolve() == MODELS_DIR
    picture = (ROOT if real_run else models_dir) / "dataset.jpg"
    images, masks = arrays["train"]
    title = f"{source}, {size} x {size} pixels"
    charts.save(pictures.examples(images[:SHOWN], masks[:SHOWN], title), picture)

    for split, facts in splits.items():
        shares = ", ".join(f"{name} {share:.3f}" for name, share in facts["class_shares"].items())
        console.say(f"{split:10} {facts['examples']:5} examples   {shares}")
    console.say("audit: " + "; ".join(f"{audit[what]} {what}" for what in examples.AUDIT[:2]))
    console.say("       " + "; ".join(f"{audit[what]} {what}" for what in examples.AUDIT[2:]))
    console.say(f"wrote {folder} and {picture} in {stage.seconds()} s")


def main(argv: list[str] | None = None) -> None:
    """Runs the stage; raises console.UserError for what the user can mend."""
    arguments = parse(argv)
    own_pictures = arguments.dataset == "folder"

    # Where TFDS keeps its copy changes no example; a folder of pictures counts by its content.
    stage = Stage(__file__, arguments, without=() if own_pictures else ("data_dir",))
    if own_pictures:
        listing = artifact_path(arguments.models_dir, "dataset").with_name("pictures.json")
        contents = sources.folder_contents(arguments.data_dir, listing)
        stage.inputs[f"content of {arguments.data_dir}"] = contents
    if not stage.nothing_to_do("dataset"):
        with stage.alone():
            prepare(stage, arguments)


if __name__ == "__main__":
    console.run(main)
