"""Where examples come from: a folder that is cut and watched, TFDS that is asked but not begged."""

import http.server
import os
import socket
import threading
import time

import pytest
from conftest import encoded, halves
from PIL import Image

import data_preparation
from pipeline import sources
from pipeline.artifacts import read_record
from pipeline.console import UserError
from pipeline.dataset import SPLITS
from pipeline.examples import NO_PET, ODD_SIZES, ODD_VALUES, UNREADABLE
from pipeline.packages import tfds

# --- a folder of pictures -----------------------------------------------------------------


def test_folder_is_cut_into_three_splits_by_the_seed(folder, tmp_path):
    for number in range(10, 40):
        folder.add_plain(f"more{number}.jpg", 80 + number, 60)
    runs = (("models", ()), ("again", ()), ("other", ("--seed", "8")))
    for name, arguments in runs:
        folder.prepare(tmp_path / name, *arguments)
    facts, again, other = (read_record(tmp_path / name, "dataset") for name, _ in runs)
    counts = {split: facts["splits"][split]["examples"] for split in SPLITS}
    assert counts == {"train": 29, "validation": 3, "test": 8}
    assert facts["metrics"]["audit"] == {UNREADABLE: 0, ODD_VALUES: 0, NO_PET: 0, ODD_SIZES: 0}
    assert again["fingerprint"] == facts["fingerprint"]
    assert other["fingerprint"] != facts["fingerprint"]


def test_every_picture_is_in_one_official_split(folder):
    pairs = {split: sources.read_folder(split, folder.path, 7) for split in ("train", "test")}
    masks = [source()[1] for _, stream in pairs.values() for source in stream]
    assert [number for number, _ in pairs.values()] == [8, 2]
    expected = [path.read_bytes() for path in (folder.path / "masks").iterdir()]
    assert sorted(masks) == sorted(expected)


def test_photograph_without_mask_is_named(folder, tmp_path):
    (folder.path / "masks" / "plain3.png").unlink()
    expected = r"masks/plain3\.png is missing; draw it or remove .*plain3\.jpg"
    with pytest.raises(UserError, match=expected):
        folder.prepare(tmp_path / "models")


def test_folder_that_is_not_named_or_too_empty_is_told_what_is_needed(folder):
    with pytest.raises(UserError, match="needs --data-dir DIR with DIR/images and DIR/masks"):
        sources.read_folder("train", None, 7)
    (folder.path / "images" / "plain3.jpg").unlink()
    with pytest.raises(UserError, match=r"holds 9 \.jpg or \.png files; at least 10"):
        sources.read_folder("train", folder.path, 7)


# --- whether a folder changed -------------------------------------------------------------


@pytest.fixture
def contents(folder, tmp_path):
    """Asks for the contents of the folder, with a listing that lasts from one time to the next."""
    return lambda: sources.folder_contents(folder.path, tmp_path / "pictures.json")


def test_contents_change_with_the_pictures(folder, contents):
    seen = [contents()]
    folder.add_plain("new.jpg", 80, 60)
    seen.append(contents())
    (folder.path / "images" / "new.jpg").unlink()
    assert contents() == seen[0], "a mask without its picture is nothing that is read"
    mask = folder.path / "masks" / "plain3.png"
    mask.unlink()
    seen.append(contents())
    mask.write_bytes(encoded(halves(80, 63).convert("RGB"), "png"))
    seen.append(contents())
    assert len(set(seen)) == len(seen)
    assert seen[0].startswith("20 files") and seen[1].startswith("22 files")


def test_picture_redrawn_with_the_same_size_and_time_is_seen(folder, contents):
    mask, pet_left = folder.path / "masks" / "plain3.png", halves(80, 63)
    mask.write_bytes(encoded(pet_left, "png", compress_level=0))
    before, old = contents(), mask.stat()
    pet_right = pet_left.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mask.write_bytes(encoded(pet_right, "png", compress_level=0))
    os.utime(mask, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert mask.stat().st_size == old.st_size
    assert contents() != before


def test_times_alone_change_nothing(folder, contents):
    before = contents()
    for path in folder.path.rglob("*.*"):
        os.utime(path, (1e9, 1e9))
    assert contents() == before


def test_unchanged_files_are_not_read_again(folder, contents, monkeypatch):
    before = contents()
    read = []

    def refuse(path):
        read.append(path.name)
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr(sources, "sha256", refuse)
    assert contents() == before
    (folder.path / "images" / "plain3.jpg").touch()  # and this is how one that is read shows
    with pytest.raises(AssertionError, match="read again"):
        contents()
    assert read == ["plain3.jpg"]


@pytest.mark.parametrize("content", [b"", b"no JSON", b"\xff\xfe"])
def test_damaged_listing_is_made_anew(contents, tmp_path, content):
    before = contents()
    (tmp_path / "pictures.json").write_bytes(content)
    assert contents() == before


# --- TensorFlow Datasets ------------------------------------------------------------------


def test_machine_without_data_and_network_is_told_both_ways_out(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("no route to host\nand a second line")

    monkeypatch.setattr(sources, "answers", lambda _: True)
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
    monkeypatch.setattr(sources, "answers", lambda _: False)
    monkeypatch.setattr(
        tfds.core.DatasetBuilder, "download_and_prepare", lambda *_, **__: tried.append(1)
    )
    started = time.monotonic()
    with pytest.raises(UserError, match="--dataset synthetic"):
        sources.read_oxford_pets("train", tmp_path / "empty")
    assert tried == []
    assert time.monotonic() - started < 10  # most of it TFDS looking for the builder


@pytest.mark.parametrize("part", ["oxford_iiit_pet", "oxford_iiit_pet/4.0.0"])
def test_part_of_a_tfds_folder_is_told_from_the_whole(tmp_path, part):
    """TFDS would begin to download another copy into it."""
    (tmp_path / part).mkdir(parents=True)
    expected = r"is a part of a TFDS folder; name the one above it that holds oxford_iiit_pet/"
    with pytest.raises(UserError, match=expected):
        sources.read_oxford_pets("train", tmp_path / part)


@pytest.fixture
def direct(monkeypatch):
    """No proxy, which would answer in the place of a server that does not."""
    monkeypatch.setenv("no_proxy", "*")


def test_closed_port_answers_no_at_once(direct):
    started = time.monotonic()
    assert sources.answers("http://127.0.0.1:9") is False
    assert time.monotonic() - started < sources.ANSWER_SECONDS / 4


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
            assert sources.answers(f"http://127.0.0.1:{server.server_port}/{place}") is True
        finally:
            server.shutdown()
    assert seen == [status]


def test_server_that_takes_the_call_and_says_nothing_is_given_up(direct, monkeypatch):
    monkeypatch.setattr(sources, "ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        assert sources.answers(f"http://127.0.0.1:{silent.getsockname()[1]}") is False
        assert time.monotonic() - started < 5
