"""Data sets of TensorFlow Datasets: Oxford-IIIT Pet, and any other with photographs and masks."""

from __future__ import annotations

import functools
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.base.console import UserError, silenced
from pipeline.base.lazy import tf, tfds
from pipeline.data.classes import PET_COLOURS, PET_NAMES
from pipeline.data.label_mapping import Labels
from pipeline.data.sample_source import SPLIT_NAMES, Collection, Example, Split

OXFORD_PETS = "oxford_iiit_pet:4.0.0"
OXFORD_PETS_SERVER = "https://thor.robots.ox.ac.uk/~vgg/data/pets"  # where TFDS downloads it
ANSWER_SECONDS = 12  # that the server has; TFDS would try again and again for two minutes
# What masks are called in TFDS, where their kind does not tell them from photographs.
MASK_KEYS = ("segmentation_mask", "segmentation_label", "annotation", "mask", "segmentation")

NAME_KEYS = ("file_name", "filename", "image/filename")  # what a photograph's file is called


def oxford_pets(data_dir: Path | None) -> Collection:
    """Oxford-IIIT Pet 4.0.0, its official splits, in the order of its files.

    Raises:
        UserError: the data set is not there and cannot be downloaded.
    """
    folder = folder_of(OXFORD_PETS, data_dir)
    try:
        builder = open_builder(OXFORD_PETS, folder, answers)
    except Exception as error:  # TFDS raises whatever its download layer does
        raise UserError(
            f"Oxford-IIIT Pet is neither in {folder or '~/tensorflow_datasets'} nor to be "
            f"downloaded ({type(error).__name__}); copy a prepared tensorflow_datasets folder "
            "here and name it with --data-dir DIR, or go on without it: "
            "python data_preparation.py --dataset synthetic"
        ) from None
    labels = Labels(PET_NAMES, PET_COLOURS, {1: 0, 2: 1, 3: 2})
    collection = collect(builder, ("image", "segmentation_mask"), labels)
    collection.title = "Oxford-IIIT Pet 4.0.0 (TensorFlow Datasets)"
    collection.skip_bad, collection.any_shape = 0.5, True  # its authors' blemishes, not the user's
    return collection


def any_set(
    name: str, data_dir: Path | None, image_key: str | None, mask_key: str | None
) -> Collection:
    """A data set of TFDS by its name there, which may name a config and a version.

    Raises:
        UserError: there is none of this name, it cannot be had, or it holds no masks.
    """
    folder = folder_of(name, data_dir)
    try:
        builder = open_builder(name, folder)
    except Exception as error:  # as above; for an unknown name its message lists all others
        what = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise UserError(
            f"TensorFlow Datasets cannot give {name} from {folder or '~/tensorflow_datasets'} "
            f"({what}); see https://www.tensorflow.org/datasets for names, or name the folder "
            "that holds it: --data-dir DIR"
        ) from None
    keys = find_keys(name, builder.info.features, image_key, mask_key)
    mask = builder.info.features[keys[1]]
    names = tuple(mask.names) if getattr(mask, "num_classes", None) else None
    return collect(builder, keys, Labels(names))


def folder_of(name: str, data_dir: Path | None) -> str | None:
    """Where TFDS has or puts its data; raises UserError for a part of such a folder."""
    folder = str(data_dir) if data_dir else os.environ.get("TFDS_DATA_DIR")
    plain = name.partition(":")[0].partition("/")[0]
    if folder and Path(folder).resolve().name in (plain, name.partition(":")[2]):
        raise UserError(
            f"{folder} is a part of a TFDS folder; name the one above it that holds "
            f"{plain}/: --data-dir DIR"
        )
    return folder


def open_builder(name: str, folder: str | None, ask: Any = None) -> Any:
    """The builder of a set that is there, downloaded if need be.

    Args:
        ask: tells whether OXFORD_PETS_SERVER answers, before TFDS waits for it.
    """
    with silenced():  # it warns of folders that it will fill
        builder = tfds.builder(name, data_dir=folder)
        prepared = builder.is_prepared()
    if not prepared and ask and not ask(OXFORD_PETS_SERVER):
        raise ConnectionError
    builder.download_and_prepare()
    return builder


def find_keys(
    name: str, features: Any, image_key: str | None, mask_key: str | None
) -> tuple[str, str]:
    """Which features are photograph and mask: what the user says, or what their kind tells.

    A mask is a labelled image, or is called as MASK_KEYS are, or is the only picture of one
    channel; the photograph is the only picture that is left.
    """
    kinds = tfds.features
    # Sorted, because the record of a set does not keep the order.
    pictures = {key: features[key] for key in sorted(features)}
    pictures = {key: one for key, one in pictures.items() if isinstance(one, kinds.Image)}
    for key, flag in ((image_key, "--image-key"), (mask_key, "--mask-key")):
        if key and key not in pictures:
            raise UserError(
                f"{flag} {key} is no picture of {name}; it has: {', '.join(pictures) or 'none'}"
            )
    others = [key for key in pictures if key != image_key]
    guesses = (
        [key for key in others if isinstance(pictures[key], kinds.LabeledImage)],
        [key for key in others if key in MASK_KEYS],
        [key for key in others if pictures[key].shape[-1] == 1],
    )
    mask_key = mask_key or next((guess[0] for guess in guesses if len(guess) == 1), None)
    left = [key for key in pictures if key != mask_key]
    image_key = image_key or (left[0] if len(left) == 1 else None)
    if not image_key or not mask_key or image_key == mask_key:
        raise UserError(
            f"{name} does not tell its photographs from its masks; its pictures are: "
            f"{', '.join(pictures) or 'none'}; name two: --image-key KEY --mask-key KEY"
        )
    return image_key, mask_key


def collect(builder: Any, keys: tuple[str, str], labels: Labels) -> Collection:
    """The splits of a builder, read in the order of their files, still encoded.

    TFDS would decode them too, but would stop at the first unreadable file.
    """
    sizes = builder.info.splits
    splits = {}
    for split, names in SPLIT_NAMES.items():
        for name in names:
            if name in sizes and split not in splits:
                reading = functools.partial(read, builder, name, keys)
                splits[split] = Split(sizes[name].num_examples, reading)
    if "train" not in splits:
        raise UserError(f"{builder.info.full_name} has no training split, but {list(sizes)}")
    over = [(f"split {name}", "is none of train, validation, test") for name in sizes]
    known = {name for names in SPLIT_NAMES.values() for name in names}
    passed = [each for each, name in zip(over, sizes) if name not in known]
    title = f"{builder.info.full_name} (TensorFlow Datasets)"
    return Collection(title, splits, labels, passed_over=passed)


def read(builder: Any, split: str, keys: tuple[str, str]) -> Iterator[Example]:
    """The examples of one split.

    Raises:
        UserError: its files are damaged.
    """
    raw = {key: tfds.decode.SkipDecoding() for key in keys}
    features = builder.info.features
    texts = [key for key in features if isinstance(features[key], tfds.features.Text)]
    named = next((key for key in NAME_KEYS if key in texts), None)
    config = tfds.ReadConfig(interleave_cycle_length=1)  # shards in order, the same everywhere
    stream = builder.as_dataset(split=split, decoders=raw, read_config=config, shuffle_files=False)
    try:
        for number, example in enumerate(tfds.as_numpy(stream)):
            image, mask = (example[key] for key in keys)
            name = f"{builder.name}, {split} example {number}"
            file = example[named].decode("utf-8", "replace") if named else ""
            yield Example(image, mask, f"image of {name}", f"mask of {name}", file)
    except tf.errors.OpError as error:
        raise UserError(
            f"the {split} split in {builder.data_dir} is damaged ({type(error).__name__}), "
            "probably cut short while it was copied; copy it again, or delete that folder and "
            "run this again to download it"
        ) from None


def answers(address: str) -> bool:
    """Whether a web server answers at all within ANSWER_SECONDS."""
    answered = threading.Event()

    def ask() -> None:
        request = urllib.request.Request(address, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=ANSWER_SECONDS).close()
        except urllib.error.HTTPError:  # an answer, if not a kind one
            answered.set()
        except OSError:
            return
        answered.set()

    # In a thread of its own, because looking up a name has no time limit.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    return answered.is_set()
