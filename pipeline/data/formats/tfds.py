"""TensorFlow Datasets (TFDS): Oxford-IIIT Pet, and other data sets with photographs and masks."""

from __future__ import annotations

import functools
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.base import commands
from pipeline.base.console import UserError, silenced
from pipeline.base.lazy import tf, tfds
from pipeline.data.classes import PET_COLOURS, PET_NAMES
from pipeline.data.label_mapping import Labels
from pipeline.data.sample_source import SPLIT_NAMES, Collection, Picture, Sample, Split

OXFORD_PETS = "oxford_iiit_pet:4.0.0"
OXFORD_PETS_SERVER = "https://thor.robots.ox.ac.uk/~vgg/data/pets"  # TFDS downloads from it
ANSWER_SECONDS = 12  # timeout for the server; TFDS itself would retry for two minutes
# Names of the features that hold masks in TFDS, for those that are plain images by type.
MASK_KEYS = ("segmentation_mask", "segmentation_label", "annotation", "mask", "segmentation")
NAME_KEYS = ("file_name", "filename", "image/filename")  # features that hold the file name


def oxford_pets(data_dir: Path | None) -> Collection:
    """Oxford-IIIT Pet 4.0.0 with its official splits, in the order of its files.

    Args:
        data_dir: the folder of TFDS; None for TFDS_DATA_DIR or TFDS's default.

    Raises:
        UserError: the data set is missing and cannot be downloaded.
    """
    folder = folder_of(OXFORD_PETS, data_dir)
    try:
        builder = open_builder(OXFORD_PETS, folder, answers)
    except Exception as error:  # TFDS raises whatever its download layer does
        place = folder or "~/tensorflow_datasets"
        raise UserError(
            f"Oxford-IIIT Pet is not in {place}{other_versions(OXFORD_PETS, place)} and cannot be "
            f"downloaded ({type(error).__name__}); copy a prepared tensorflow_datasets folder "
            "here and name it with --data-dir DIR, or use another data set: "
            f"{commands.command('data_preparation.py', '--data', 'synthetic')}"
        ) from None
    labels = Labels(PET_NAMES, PET_COLOURS, {1: 0, 2: 1, 3: 2})
    collection = collect(builder, ("image", "segmentation_mask"), labels)
    title = "Oxford-IIIT Pet 4.0.0 (TensorFlow Datasets)"
    return replace(collection, title=title, any_shape=True)


def other_versions(name: str, folder: str) -> str:
    """What a message says of other versions of a data set that lie in a folder of TFDS."""
    plain, _, version = name.partition(":")
    try:
        found = sorted(path.name for path in (Path(folder).expanduser() / plain).iterdir())
    except (OSError, RuntimeError):  # no such folder, or no home
        return ""
    listed = ", ".join(found)
    return f" (which holds {listed} of {plain}, and {version} is needed)" if found else ""


def any_set(
    name: str, data_dir: Path | None, image_key: str | None, mask_key: str | None
) -> Collection:
    """Any data set of TFDS that has photographs and masks.

    Args:
        name: in TFDS, with or without config and version: "NAME/CONFIG:VERSION".
        data_dir: the folder of TFDS; None for TFDS_DATA_DIR or TFDS's default.
        image_key: feature with the photograph; None to find it.
        mask_key: feature with the mask; None to find it.

    Raises:
        UserError: the name is unknown, the data cannot be downloaded, or `find_keys` fails.
    """
    folder = folder_of(name, data_dir)
    try:
        builder = open_builder(name, folder)
    except Exception as error:  # as above; the message on an unknown name lists all others
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise UserError(
            f"TensorFlow Datasets cannot load {name} from {folder or '~/tensorflow_datasets'} "
            f"({reason}); see https://www.tensorflow.org/datasets for names, or name the folder "
            "that holds it: --data-dir DIR"
        ) from None
    keys = find_keys(name, builder.info.features, image_key, mask_key)
    mask = builder.info.features[keys[1]]
    names = tuple(mask.names) if getattr(mask, "num_classes", None) else None
    return collect(builder, keys, Labels(names, of_source=names is not None))


def folder_of(name: str, data_dir: Path | None) -> str | None:
    """The folder of TFDS, None for its default; raises UserError for one of its subfolders."""
    folder = str(data_dir) if data_dir else os.environ.get("TFDS_DATA_DIR")
    plain = name.partition(":")[0].partition("/")[0]
    if folder and Path(folder).resolve().name in (plain, name.partition(":")[2]):
        raise UserError(
            f"{folder} is a subfolder of a TFDS folder; name the folder above it that holds "
            f"{plain}/: --data-dir DIR"
        )
    return folder


def open_builder(
    name: str, folder: str | None, is_reachable: Callable[[str], bool] | None = None
) -> Any:
    """The TFDS builder of a data set; downloads and prepares it if it is missing.

    Args:
        name: in TFDS.
        folder: of TFDS; None for its default.
        is_reachable: whether OXFORD_PETS_SERVER answers, asked before a download.

    Raises:
        ConnectionError: the server does not answer. TFDS raises many other types.
    """
    with silenced():  # TFDS warns about folders that do not exist yet
        builder = tfds.builder(name, data_dir=folder)
        prepared = builder.is_prepared()
    if not prepared and is_reachable and not is_reachable(OXFORD_PETS_SERVER):
        raise ConnectionError
    builder.download_and_prepare()
    return builder


def find_keys(
    name: str, features: Any, image_key: str | None, mask_key: str | None
) -> tuple[str, str]:
    """Returns the keys of the features that hold photograph and mask.

    Unless the user names it, the mask is the only feature that is a `LabeledImage`, or else the
    only one called like MASK_KEYS, or else the only image with one channel; the photograph is the
    only other image.

    Raises:
        UserError: a key is not an image feature, or the features are ambiguous.
    """
    # Sorted, because the stored description of a data set does not keep the order.
    pictures = {
        key: features[key]
        for key in sorted(features)
        if isinstance(features[key], tfds.features.Image)
    }
    for key, flag in ((image_key, "--image-key"), (mask_key, "--mask-key")):
        if key and key not in pictures:
            raise UserError(
                f"{flag} {key} is not an image of {name}; it has: {', '.join(pictures) or 'none'}"
            )
    others = [key for key in pictures if key != image_key]
    guesses = (
        [key for key in others if isinstance(pictures[key], tfds.features.LabeledImage)],
        [key for key in others if key in MASK_KEYS],
        [key for key in others if pictures[key].shape[-1] == 1],
    )
    mask_key = mask_key or next((guess[0] for guess in guesses if len(guess) == 1), None)
    others = [key for key in pictures if key != mask_key]
    image_key = image_key or (others[0] if len(others) == 1 else None)
    if not image_key or not mask_key or image_key == mask_key:
        raise UserError(
            f"{name} does not say which images are photographs and which masks; its images are: "
            f"{', '.join(pictures) or 'none'}; name both: --image-key KEY --mask-key KEY"
        )
    return image_key, mask_key


def collect(builder: Any, keys: tuple[str, str], labels: Labels) -> Collection:
    """The splits of a builder as a `Collection`, in the order of their files.

    Pictures stay encoded, because TFDS would stop at the first one that it cannot decode.

    Raises:
        UserError: there is no training split.
    """
    features, sizes = builder.info.features, builder.info.splits
    texts = [key for key in features if isinstance(features[key], tfds.features.Text)]
    name_key = next((key for key in NAME_KEYS if key in texts), None)
    splits = {}
    for split, names in SPLIT_NAMES.items():
        for name in names:
            if name in sizes and split not in splits:
                reading = functools.partial(read, builder, name, keys, name_key)
                splits[split] = Split(sizes[name].num_examples, reading)
    if "train" not in splits:
        raise UserError(
            f"{builder.info.full_name} has no training split, only: {', '.join(sizes) or 'none'}; "
            "use another data set"
        )
    used = {name for names in SPLIT_NAMES.values() for name in names}
    reason = "is none of train, validation, test"
    skipped = [(f"split {name}", reason) for name in sizes if name not in used]
    folder = commands.line(builder.data_dir)
    return Collection(
        title=f"{builder.info.full_name} (TensorFlow Datasets)",
        splits=splits,
        labels=labels,
        skipped=skipped,
        remedy=f"was {folder} damaged? then copy it again, or delete it and run this again to "
        "download it",
        named=name_key is not None,
    )


def read(builder: Any, split: str, keys: tuple[str, str], name_key: str | None) -> Iterator[Sample]:
    """Yields the samples of one split.

    Args:
        builder: a TFDS builder.
        split: its name in TFDS.
        keys: features with photograph and mask.
        name_key: feature with the file name, which is the id of a sample; without one, or where it
            is empty, the id is the split and the number.

    Raises:
        UserError: the files are damaged.
    """
    raw = {key: tfds.decode.SkipDecoding() for key in keys}
    config = tfds.ReadConfig(interleave_cycle_length=1)  # shards one by one: the same order always
    stream = builder.as_dataset(split=split, decoders=raw, read_config=config, shuffle_files=False)
    try:
        for number, example in enumerate(tfds.as_numpy(stream)):
            image, mask = (example[key] for key in keys)
            position = f"{split} example {number}"
            file = example[name_key].decode("utf-8", "replace") if name_key else ""
            pictures = ((image, "image"), (mask, "mask"))
            yield Sample(
                file or position,
                *(
                    Picture(data, f"{kind} of {builder.name}, {position}")
                    for data, kind in pictures
                ),
            )
    except tf.errors.OpError as error:
        raise UserError(
            f"the {split} split in {builder.data_dir} is damaged ({type(error).__name__}), "
            "probably by an incomplete copy; copy it again, or delete that folder and "
            "run this again to download it"
        ) from None


def answers(address: str) -> bool:
    """Whether a web server answers within ANSWER_SECONDS, with whatever status."""
    answered = threading.Event()

    def ask() -> None:
        request = urllib.request.Request(address, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=ANSWER_SECONDS).close()
        except urllib.error.HTTPError:  # an answer, too
            answered.set()
        except OSError:
            return
        answered.set()

    # In a thread, because the name lookup ignores the timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    return answered.is_set()
