"""TensorFlow Datasets: missing data, the features with photographs and masks, Oxford-IIIT Pet."""

import http.server
import io
import itertools
import json
import socket
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import data_preparation
from pipeline.base.console import UserError
from pipeline.base.lazy import tf, tfds
from pipeline.data.formats import tfds as tfds_format
from pipeline.data.sample_source import Split
from tests.helpers.drawn_sets import prepare, stripes

# --- missing data -------------------------------------------------------------------------


def test_message_without_data_and_network_has_both_remedies(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("no route to host\nand a second line")

    monkeypatch.setattr(tfds_format, "answers", lambda _: True)
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", offline)
    arguments = ["--models-dir", str(tmp_path / "models"), "--data-dir", str(tmp_path / "empty")]
    with pytest.raises(UserError) as caught:
        data_preparation.main(arguments)
    message = str(caught.value)
    assert str(tmp_path / "empty") in message and "ConnectionError" in message
    assert "--data-dir DIR" in message
    assert "data_preparation.py --data synthetic" in message
    assert "\n" not in message


def test_another_version_that_is_there_is_named(tmp_path, monkeypatch):
    def offline(*_):
        raise ConnectionError

    for version in ("3.2.0", "incomplete.AB12_4.0.0"):
        (tmp_path / "tf/oxford_iiit_pet" / version).mkdir(parents=True)
    monkeypatch.setattr(tfds_format, "open_builder", offline)
    expected = r"holds 3\.2\.0, incomplete\.AB12_4\.0\.0 of oxford_iiit_pet, and 4\.0\.0 is needed"
    with pytest.raises(UserError, match=expected):
        tfds_format.oxford_pets(tmp_path / "tf")


def test_no_download_starts_if_the_server_does_not_answer(tmp_path, monkeypatch):
    """TFDS itself would retry for two minutes."""
    downloads = []
    monkeypatch.setattr(tfds_format, "answers", lambda _: False)
    monkeypatch.setattr(
        tfds.core.DatasetBuilder, "download_and_prepare", lambda *_, **__: downloads.append(1)
    )
    with pytest.raises(UserError, match="--data synthetic"):
        tfds_format.oxford_pets(tmp_path / "empty")
    assert downloads == []


@pytest.mark.parametrize("part", ["oxford_iiit_pet", "oxford_iiit_pet/4.0.0"])
def test_subfolder_of_a_tfds_folder_is_refused(tmp_path, part):
    """TFDS would download another copy into it."""
    (tmp_path / part).mkdir(parents=True)
    expected = r"is a subfolder of a TFDS folder; name the folder above it that holds oxford_iiit"
    with pytest.raises(UserError, match=expected):
        tfds_format.oxford_pets(tmp_path / part)


def test_message_on_an_unknown_name_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"cannot load no_such_set from .*--data-dir DIR") as caught:
        tfds_format.any_set("no_such_set", tmp_path, None, None)
    assert "\n" not in str(caught.value)


@pytest.fixture
def direct(monkeypatch):
    """No proxy, because it would answer instead of the server."""
    monkeypatch.setenv("no_proxy", "*")


def test_closed_port_is_no_answer_at_once(direct):
    started = time.monotonic()
    assert tfds_format.answers("http://127.0.0.1:9") is False
    assert time.monotonic() - started < tfds_format.ANSWER_SECONDS / 4


@pytest.mark.parametrize(("path", "status"), [("", 200), ("nothing/here", 404)])
def test_any_http_status_is_an_answer(direct, tmp_path, path, status):
    statuses = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path))

        def log_request(self, code="-", size="-"):
            statuses.append(int(code))

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            assert tfds_format.answers(f"http://127.0.0.1:{server.server_port}/{path}") is True
        finally:
            server.shutdown()
    assert statuses == [status]


def test_silent_server_times_out(direct, monkeypatch):
    monkeypatch.setattr(tfds_format, "ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        assert tfds_format.answers(f"http://127.0.0.1:{silent.getsockname()[1]}") is False
        assert time.monotonic() - started < 5


# --- any data set -------------------------------------------------------------------------


def write_tfds(folder, features, splits):
    """Writes a prepared data set that TFDS reads without a builder class.

    Args:
        folder: of TFDS.
        features: TFDS features by key.
        splits: examples by split.
    """
    version = folder / "street" / "1.0.0"
    version.mkdir(parents=True)
    features = tfds.features.FeaturesDict(features)
    described = []
    for split, examples in splits.items():
        records = [features.serialize_example(features.encode_example(row)) for row in examples]
        with tf.io.TFRecordWriter(str(version / f"street-{split}.tfrecord-00000-of-00001")) as file:
            for record in records:
                file.write(record)
        described.append(
            {
                "name": split,
                "shardLengths": [str(len(records))],
                "numBytes": str(sum(map(len, records))),
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
        )
    features.save_config(version)
    info = {"name": "street", "version": "1.0.0", "fileFormat": "tfrecord", "splits": described}
    (version / "dataset_info.json").write_text(json.dumps(info))
    return folder


def street(key="annotation", channels=1, number=12):
    """Examples of `stripes`, with the mask under `key` and a label."""
    pairs = [stripes(k, 3) for k in range(number)]
    return [
        {"photo": image, key: np.repeat(mask[..., None], channels, axis=2), "label": 0}
        for image, mask in pairs
    ]


@pytest.mark.parametrize(
    ("key", "channels", "names"),
    [("annotation", 3, None), ("truth", 1, None), ("truth", 1, ["sky", "road", "tree"])],
    ids=["by its name", "by its one channel", "by its type"],
)
def test_mask_feature_and_class_names_are_found(tmp_path, key, channels, names):
    """The annotations of scene_parse150 have three channels."""
    image, kinds = tfds.features.Image, tfds.features
    mask = kinds.LabeledImage(labels=names) if names else image(shape=(None, None, channels))
    features = {"photo": image(shape=(None, None, 3)), key: mask, "label": tf.int64}
    splits = {"train": street(key, channels, 9), "validation": street(key, channels, 3)}
    data_dir = write_tfds(tmp_path / "tfds", features, splits | {"extra": street(key, channels, 1)})
    prepared = prepare(tmp_path / "models", "tfds:street", "--data-dir", data_dir)
    assert prepared.classes.names == tuple(names or ("class 0", "class 1", "class 2"))
    assert prepared.counts == {"train": 7, "validation": 3, "test": 2}
    red = prepared.all_images[:, 16, :, 0].astype(int) * 2 / 255
    assert (np.abs(red - prepared.all_masks[:, 16]) < 0.5).mean() > 0.9
    assert prepared.left_out == ["split extra: is none of train, validation, test, skipped"]


@pytest.mark.parametrize("key", ["file_name", "filename", "label", None])
def test_file_names_come_from_the_text_features(tmp_path, key):
    image = tfds.features.Image
    features = {"photo": image(shape=(None, None, 3)), "mask": image(shape=(None, None, 1))}
    rows = [{"photo": row["photo"], "mask": row["mask"]} for row in street("mask", number=3)]
    if key:
        features[key] = tfds.features.Text()
        rows = [row | {key: f"größe {k}.jpg"} for k, row in enumerate(rows)]
    data_dir = write_tfds(tmp_path / "tfds", features, {"train": rows})
    collection = tfds_format.any_set("street", data_dir, "photo", "mask")
    ids = [sample.id for sample in collection.splits["train"].read()]
    assert collection.named == (key in ("file_name", "filename"))
    name = "größe {}.jpg" if collection.named else "train example {}"
    assert ids == [name.format(k) for k in range(3)]


def test_ambiguous_image_features_need_flags(tmp_path):
    picture = tfds.features.Image(shape=(None, None, 3))
    features = {"photo": picture, "depth": picture, "objects": picture}
    pairs = [stripes(k, 3) for k in range(12)]
    triples = [
        {"photo": image, "depth": image, "objects": mask[..., None].repeat(3, 2)}
        for image, mask in pairs
    ]
    data_dir = write_tfds(tmp_path / "tfds", features, {"train": triples})
    expected = r"its images are: depth, objects, photo; name both: --image-key KEY --mask-key"
    with pytest.raises(UserError, match=expected):
        tfds_format.any_set("street", data_dir, None, None)
    with pytest.raises(UserError, match="--mask-key mask is not an image of street; it has: depth"):
        tfds_format.any_set("street", data_dir, None, "mask")
    collection = tfds_format.any_set("street", data_dir, "photo", "objects")
    assert collection.splits["train"].number == 12
    first = next(collection.splits["train"].read())
    assert Image.open(io.BytesIO(first.mask.fetch())).size == (40, 32)
    assert first.mask.name == "mask of street, train example 0"


# --- Oxford-IIIT Pet ----------------------------------------------------------------------


def test_pets_from_tfds_and_from_a_folder_give_the_same_arrays(shared_data, tmp_path):
    """60 examples of each split; values 1, 2, 3 become classes 0, 1, 2 in both.

    Which of the training pictures are for validation is another rule's choice in a folder.
    """
    pets = tfds_format.oxford_pets(shared_data)
    first_60 = {}
    for split, part in pets.splits.items():
        samples = list(itertools.islice(part.read(), 60))
        first_60[split] = Split(60, lambda samples=samples: iter(samples))
        for k, sample in enumerate(samples):
            for kind, data in (("images", sample.image.fetch()), ("masks", sample.mask.fetch())):
                path = (
                    tmp_path / "pets" / kind / split / f"{k:04}.png"
                )  # JPEG content: suffixes do not matter
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
    flags = ("--names", "pet,background,border", "--image-size", "64")
    written = prepare(tmp_path / "folder", tmp_path / "pets", *flags)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "pipeline.data.formats.registry.oxford_pets", lambda _: replace(pets, splits=first_60)
        )
        direct = prepare(tmp_path / "tfds", "pets", "--image-size", "64")
    for kind in ("images", "masks"):
        folder, from_tfds = (getattr(prepared, kind) for prepared in (written, direct))
        np.testing.assert_array_equal(folder["test"], from_tfds["test"])
        cut = [
            sorted(row.tobytes() for part in ("train", "validation") for row in arrays[part])
            for arrays in (folder, from_tfds)
        ]
        assert len(cut[0]) == 60 and cut[0] == cut[1]
    assert written.classes.names == direct.classes.names
    assert direct.counts == written.counts == {"train": 54, "validation": 6, "test": 60}
