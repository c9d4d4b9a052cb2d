"""Where examples come from: TensorFlow Datasets or a folder of pictures."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.artifacts import sha256, write_json
from pipeline.console import UserError, silenced
from pipeline.examples import Example, Source
from pipeline.packages import tf, tfds

OXFORD_PETS = "oxford_iiit_pet:4.0.0"
OXFORD_PETS_SERVER = "https://thor.robots.ox.ac.uk/~vgg/data/pets"  # where TFDS downloads it
ANSWER_SECONDS = 12  # that the server has; TFDS would try again and again for two minutes
FOLDER_TEST_SHARE = 0.2  # of a folder of your own photos
FEWEST_PICTURES = 10  # in a folder
SUFFIXES = {".jpg", ".jpeg", ".png"}


def read_oxford_pets(split: str, data_dir: Path | None) -> tuple[int, Iterator[Source]]:
    """Number and stream of the examples of an official split, still encoded.

    TFDS would decode them too, but would stop at the first unreadable file; `decode` counts it.

    Raises:
        UserError: the data set is not there and cannot be downloaded.
    """
    folder = data_dir or os.environ.get("TFDS_DATA_DIR")
    if folder and Path(folder).resolve().name in (OXFORD_PETS.split(":")):
        raise UserError(
            f"{folder} is a part of a TFDS folder; name the one above it that holds "
            f"{OXFORD_PETS.split(':')[0]}/: --data-dir DIR"
        )
    try:
        with silenced():  # it warns of folders that it will fill
            builder = tfds.builder(OXFORD_PETS, data_dir=folder)
            prepared = builder.is_prepared()
        if not prepared and not answers(OXFORD_PETS_SERVER):
            raise ConnectionError
        builder.download_and_prepare()
    except Exception as error:  # TFDS raises whatever its download layer does
        raise UserError(
            f"Oxford-IIIT Pet is neither in {folder or '~/tensorflow_datasets'} nor to be "
            f"downloaded ({type(error).__name__}); copy a prepared tensorflow_datasets folder "
            "here and name it with --data-dir DIR, or go on without it: "
            "python data_preparation.py --dataset synthetic"
        ) from None
    raw = {"image": tfds.decode.SkipDecoding(), "segmentation_mask": tfds.decode.SkipDecoding()}
    config = tfds.ReadConfig(interleave_cycle_length=1)  # shards in order, the same everywhere
    stream = builder.as_dataset(split=split, decoders=raw, read_config=config, shuffle_files=False)

    def read() -> Iterator[Source]:
        try:
            for example in tfds.as_numpy(stream):
                pair = example["image"], example["segmentation_mask"]
                yield functools.partial(lambda pair: pair, pair)
        except tf.errors.OpError as error:
            raise UserError(
                f"the {split} split in {builder.data_dir} is damaged ({type(error).__name__}), "
                "probably cut short while it was copied; copy it again, or delete that folder and "
                "run this again to download it"
            ) from None

    return builder.info.splits[split].num_examples, read()


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


def pictures_in(data_dir: Path | None) -> list[Path]:
    """The pictures in DIR/images, by name.

    Raises:
        UserError: no folder named, or too few pictures in it.
    """
    if data_dir is None:
        raise UserError("--dataset folder needs --data-dir DIR with DIR/images and DIR/masks")
    folder = data_dir / "images"
    images = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if len(images) < FEWEST_PICTURES:
        raise UserError(
            f"{folder} holds {len(images)} .jpg or .png files; "
            f"at least {FEWEST_PICTURES} are needed"
        )
    return images


def mask_of(picture: Path) -> Path:
    """Where the mask of a picture lies: DIR/masks/NAME.png for DIR/images/NAME.jpg."""
    return picture.parent.parent / "masks" / f"{picture.stem}.png"


def read_folder(split: str, data_dir: Path | None, seed: int) -> tuple[int, Iterator[Source]]:
    """Number and stream of the examples of DIR/images and DIR/masks that fall into `split`.

    Raises:
        UserError: as `pictures_in`, or a picture without its mask.
    """
    images = pictures_in(data_dir)
    for path in images:
        if not mask_of(path).exists():
            raise UserError(f"{mask_of(path)} is missing; draw it or remove {path}")
    test = np.random.default_rng(seed).permutation(len(images)) < FOLDER_TEST_SHARE * len(images)
    chosen = [path for path, in_test in zip(images, test) if in_test == (split == "test")]

    def read(path: Path) -> Example:
        return path.read_bytes(), mask_of(path).read_bytes()

    return len(chosen), (functools.partial(read, path) for path in chosen)


def folder_contents(data_dir: Path | None, listing: Path) -> str:
    """One hash over names and contents of the pictures and masks of a folder.

    A file is read only if its size or times are not those in `listing`, which is written anew:
    asking again costs no more than looking at the folder.

    Raises:
        UserError: as `pictures_in`.
    """
    known = {}
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(listing.read_text())
    found = {}
    for path in [file for picture in pictures_in(data_dir) for file in (picture, mask_of(picture))]:
        if not path.exists():
            continue
        status, name = path.stat(), f"{path.parent.name}/{path.name}"
        state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        old = known.get(name, [])
        found[name] = [*state, old[3] if old[:3] == state else sha256(path)]
    if found != known:
        write_json(listing, found)
    names = [(name, about[3]) for name, about in sorted(found.items())]
    return f"{len(names)} files, {hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]}"
