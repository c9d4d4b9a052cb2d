"""TensorFlow Datasets: asked but not begged, and masks found in any set that has them."""

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

# --- a set that is not there --------------------------------------------------------------


def test_machine_without_data_and_network_is_told_both_ways_out(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("no route to host\nand a second line")

    monkeypatch.setattr(tfds_format, "answers", lambda _: True)
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", offline)
    where = ["--models-dir", str(tmp_path / "models"), "--data-dir", str(tmp_path / "empty")]
    with pytest.raises(UserError) as caught:
        data_preparation.main(where)
    message = str(caught.value)
    assert str(tmp_path / "empty") in message and "ConnectionError" in message
    assert "--data-dir DIR" in message
    assert "python data_preparation.py --dataset synthetic" in message
    assert "\n" not in message


def test_server_that_does_not_answer_is_not_waited_for(tmp_path, monkeypatch):
    """TFDS itself would try again and again for two minutes before it said so."""
    tried = []
    monkeypatch.setattr(tfds_format, "answers", lambda _: False)
    monkeypatch.setattr(
        tfds.core.DatasetBuilder, "download_and_prepare", lambda *_, **__: tried.append(1)
    )
    with pytest.raises(UserError, match="--dataset synthetic"):
        tfds_format.oxford_pets(tmp_path / "empty")
    assert tried == []


@pytest.mark.parametrize("part", ["oxford_iiit_pet", "oxford_iiit_pet/4.0.0"])
def test_part_of_a_tfds_folder_is_told_from_the_whole(tmp_path, part):
    """TFDS would begin to download another copy into it."""
    (tmp_path / part).mkdir(parents=True)
    expected = r"is a part of a TFDS folder; name the one above it that holds oxford_iiit_pet/"
    with pytest.raises(UserError, match=expected):
        tfds_format.oxford_pets(tmp_path / part)


def test_name_that_tfds_does_not_know_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"cannot give no_such_set from .*--data-dir DIR") as caught:
        tfds_format.any_set("no_such_set", tmp_path, None, None)
    assert "\n" not in str(caught.value)


@pytest.fixture
def direct(monkeypatch):
    """No proxy, which would answer in the place of a server that does not."""
    monkeypatch.setenv("no_proxy", "*")


def test_closed_port_answers_no_at_once(direct):
    started = time.monotonic()
    assert tfds_format.answers("http://127.0.0.1:9") is False
    assert time.monotonic() - started < tfds_format.ANSWER_SECONDS / 4


@pytest.mark.parametrize(("place", "status"), [("", 200), ("nothing/here", 404)])
def test_any_answer_is_an_answer(direct, tmp_path, place, status):
    seen = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path))

        def log_request(self, code="-", size="-"):
            seen.append(int(code))

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            assert tfds_format.answers(f"http://127.0.0.1:{server.server_port}/{place}") is True
        finally:
            server.shutdown()
    assert seen == [status]


def test_server_that_takes_the_call_and_says_nothing_is_given_up(direct, monkeypatch):
    monkeypatch.setattr(tfds_format, "ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        assert tfds_format.answers(f"http://127.0.0.1:{silent.getsockname()[1]}") is False
        assert time.monotonic() - started < 5


# --- any set ------------------------------------------------------------------------------


def write_tfds(folder, features, splits):
    """A set as TFDS lays it out and reads it without code: features, and examples by split."""
    place = folder / "street" / "1.0.0"
    place.mkdir(parents=True)
    features = tfds.features.FeaturesDict(features)
    described = []
    for split, examples in splits.items():
        records = [features.serialize_example(features.encode_example(one)) for one in examples]
        with tf.io.TFRecordWriter(str(place / f"street-{split}.tfrecord-00000-of-00001")) as file:
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
    features.save_config(place)
    info = {"name": "street", "version": "1.0.0", "fileFormat": "tfrecord", "splits": described}
    (place / "dataset_info.json").write_text(json.dumps(info))
    return folder


def street(key="annotation", channels=1, number=12):
    """Photographs and masks of `stripes`, and one more picture that may be neither."""
    pairs = [stripes(k, 3) for k in range(number)]
    return [
        {"photo": image, key: np.repeat(mask[..., None], channels, axis=2), "label": 0}
        for image, mask in pairs
    ]


@pytest.mark.parametrize(
    ("key", "channels", "names"),
    [("annotation", 3, None), ("truth", 1, None), ("truth", 1, ["sky", "road", "tree"])],
    ids=["by its name", "by its one channel", "by its kind"],
)
def test_masks_are_found_and_their_classes_named(tmp_path, key, channels, names):
    """scene_parse150's annotations have three channels."""
    image, kinds = tfds.features.Image, tfds.features
    mask = kinds.LabeledImage(labels=names) if names else image(shape=(None, None, channels))
    features = {"photo": image(shape=(None, None, 3)), key: mask, "label": tf.int64}
    splits = {"train": street(key, channels, 9), "validation": street(key, channels, 3)}
    where = write_tfds(tmp_path / "tfds", features, splits | {"extra": street(key, channels, 1)})
    found = prepare(tmp_path / "models", "tfds:street", "--data-dir", where)
    assert found.classes.names == tuple(names or ("class 0", "class 1", "class 2"))
    assert found.counts == {"train": 7, "validation": 3, "test": 2}
    red = found.all_images[:, 16, :, 0].astype(int) * 2 / 255
    assert (np.abs(red - found.all_masks[:, 16]) < 0.5).mean() > 0.9
    assert found.left_out == ["split extra: is none of train, validation, test, not looked at"]


@pytest.mark.parametrize("key", ["file_name", "filename", "label", None])
def test_photographs_are_called_as_their_set_calls_them(tmp_path, key):
    image = tfds.features.Image
    features = {"photo": image(shape=(None, None, 3)), "mask": image(shape=(None, None, 1))}
    rows = [{"photo": each["photo"], "mask": each["mask"]} for each in street("mask", number=3)]
    if key:
        features[key] = tfds.features.Text()
        rows = [row | {key: f"größe {k}.jpg"} for k, row in enumerate(rows)]
    where = write_tfds(tmp_path / "tfds", features, {"train": rows})
    found = tfds_format.any_set("street", where, "photo", "mask").splits["train"].read()
    named = key in ("file_name", "filename")
    assert [each.file for each in found] == [f"größe {k}.jpg" * named for k in range(3)]


def test_set_that_does_not_tell_its_masks_is_asked_about(tmp_path):
    picture = tfds.features.Image(shape=(None, None, 3))
    features = {"photo": picture, "depth": picture, "objects": picture}
    pairs = [stripes(k, 3) for k in range(12)]
    triples = [
        {"photo": image, "depth": image, "objects": mask[..., None].repeat(3, 2)}
        for image, mask in pairs
    ]
    where = write_tfds(tmp_path / "tfds", features, {"train": triples})
    expected = r"its pictures are: depth, objects, photo; name two: --image-key KEY --mask-key"
    with pytest.raises(UserError, match=expected):
        tfds_format.any_set("street", where, None, None)
    with pytest.raises(UserError, match="--mask-key mask is no picture of street; it has: depth"):
        tfds_format.any_set("street", where, None, "mask")
    found = tfds_format.any_set("street", where, "photo", "objects")
    assert found.splits["train"].number == 12
    first = next(found.splits["train"].read())
    assert Image.open(io.BytesIO(first.mask)).size == (40, 32)
    assert first.mask_name == "mask of street, train example 0"


# --- the real one -------------------------------------------------------------------------


def test_pets_written_out_as_a_folder_give_the_same_arrays(shared_data, tmp_path):
    """60 of each split: 1, 2, 3 in their trimaps are 0, 1, 2 in both."""
    pets = tfds_format.oxford_pets(shared_data)
    few = {}
    for split, part in pets.splits.items():
        examples = list(itertools.islice(part.read(), 60))
        few[split] = Split(60, lambda examples=examples: iter(examples))
        for k, example in enumerate(examples):
            for kind, data in (("images", example.image), ("masks", example.mask)):
                path = tmp_path / "pets" / kind / split / f"{k:04}.png"  # its suffix says nothing
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
    flags = ("--names", "pet,background,border", "--image-size", "64")
    written = prepare(tmp_path / "folder", tmp_path / "pets", *flags)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "pipeline.data.formats.registry.oxford_pets", lambda _: replace(pets, splits=few)
        )
        direct = prepare(tmp_path / "tfds", "pets", "--image-size", "64")
    for split in written.counts:
        np.testing.assert_array_equal(written.images[split], direct.images[split])
        np.testing.assert_array_equal(written.masks[split], direct.masks[split])
    assert written.classes.names == direct.classes.names
    assert direct.counts == {"train": 54, "validation": 6, "test": 60}
