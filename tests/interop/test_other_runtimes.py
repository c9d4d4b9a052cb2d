"""The benchmark beside other runtimes and networks: what it reads, and its rows and table."""

import argparse
import re
import sys
import types

import numpy as np
import pytest

from tests.helpers.runs import ROOT

sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))

import against_other_runtimes as benchmark
import peer_networks
import record_picture
import runtimes

from pipeline.base.console import UserError
from pipeline.data.classes import IGNORED

COUNTS = {"parameters": 1_551_755, "multiply_accumulates": 86_509_568}


@pytest.fixture
def peers(tmp_path, monkeypatch):
    """A folder of peer_networks.py, without torch: its networks are a few bytes each."""

    def made(content):
        def make(folder, pictures, classes):
            files = {"OpenVINO": folder / "any.xml", "LiteRT": folder / "any.tflite"}
            for path in (*files.values(), folder / "any.bin"):
                path.write_bytes(content + path.suffix.encode())
            return COUNTS, files

        return make

    monkeypatch.setattr(peer_networks, "drawn_pictures", lambda width, height: np.zeros(4))
    monkeypatch.setattr(peer_networks, "make_yolo", made(b"yolo"))
    monkeypatch.setattr(peer_networks, "make_unet", made(b"unet"))
    monkeypatch.setattr(peer_networks, "PACKAGES", ("numpy",))
    folder = tmp_path / "peers"
    folder.mkdir()
    peer_networks.write_all(folder, 96, 64, 3)
    return folder


def test_a_folder_of_peers_is_read_as_it_was_written(peers):
    about, files = benchmark.read_peers(peers, (96, 64), 3)
    assert about["image_size"] == [96, 64] and about["versions"] == {"numpy": np.__version__}
    assert [(file.network, file.runtime) for file in files] == [
        *(("YOLO26n-sem", "OpenVINO"), ("YOLO26n-sem", "LiteRT")),
        *(("MobileNetV2 U-Net", "OpenVINO"), ("MobileNetV2 U-Net", "LiteRT")),
    ]
    assert [file.path.read_bytes() for file in files] == [
        *(b"yolo.xml", b"yolo.tflite", b"unet.xml", b"unet.tflite")
    ]
    assert all(file.path.with_suffix(".bin").exists() for file in files)
    assert {file[-2:] for file in files} == {(1_551_755, 86_509_568)}


@pytest.mark.parametrize(
    ("size", "classes", "ours"), [((64, 96), 3, "64 x 96 and 3"), ((96, 64), 11, "96 x 64 and 11")]
)
def test_peers_for_other_pictures_are_refused_in_one_line(peers, size, classes, ours):
    fault = f"for 96 x 64 pixels and 3 classes, the data set has {ours}; make them anew with: "
    with pytest.raises(UserError, match=re.escape(fault)) as raised:
        benchmark.read_peers(peers, size, classes)
    make = f"--folder {peers} --image-size {size[0]}x{size[1]} --classes {classes}"
    assert str(raised.value).endswith(make) and "\n" not in str(raised.value)


def test_a_folder_that_is_not_whole_is_refused_in_one_line(peers, tmp_path):
    def refused(folder):
        with pytest.raises(UserError, match=r"no whole folder.*make it with: .*python") as raised:
            benchmark.read_peers(folder, (96, 64), 3)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    assert "peers.json" in refused(tmp_path / "nowhere")
    weights = peers / "yolo26n-sem.bin"
    kept = weights.read_bytes()
    weights.write_bytes(kept + b".")
    assert "yolo26n-sem.bin was changed" in refused(peers)
    weights.unlink()
    assert "yolo26n-sem.bin" in refused(peers)
    weights.write_bytes(kept)
    benchmark.read_peers(peers, (96, 64), 3)
    record = peers / "peers.json"
    whole = record.read_text()
    for damaged in (whole[:-20], "[]", "{}", whole.replace('"parameters"', '"weights"')):
        record.write_text(damaged)
        refused(peers)


@pytest.mark.parametrize("text", ["128", "100x64", "0x32", "32x32x3", "-32x32", "32 x 32"])
def test_a_size_that_the_networks_cannot_take_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="multiples of 32"):
        peer_networks.image_size(text)
    assert peer_networks.image_size("480x384") == (480, 384)


def test_an_image_becomes_what_a_network_takes():
    image = np.arange(4 * 2 * 3, dtype=np.uint8).reshape(4, 2, 3)
    ours = runtimes.as_batch(image, [1, 4, 2, 3])
    planar = runtimes.as_batch(image, [1, 3, 4, 2])
    assert ours.shape == (1, 4, 2, 3) and planar.shape == (1, 3, 4, 2)
    assert ours.dtype == planar.dtype == np.float32
    assert ours[0, 3, 1, 2] == planar[0, 2, 3, 1] == np.float32(23 / 255)


def test_peers_take_turns_and_are_judged_by_time_and_size_alone(tmp_path, monkeypatch):
    """Ours calls every pixel class 1: right in 3 of 4 known pixels; the ignored ones are nothing.

    By hand: class 1 has 3 shared of 4, class 0 none of 1; a network without training has no IoU.
    """
    for name, size in {"a.tflite": 700, "b.xml": 20, "b.bin": 300}.items():
        (tmp_path / name).write_bytes(bytes(size))
    ours = runtimes.File("compact_unet", "LiteRT", "int8", tmp_path / "a.tflite", 10, 20)
    peer = runtimes.File("YOLO26n-sem", "LiteRT", "int8", tmp_path / "b.xml", 30, 40)
    invoked = []

    def open_all(files, threads):
        logits = np.zeros((1, 2, 4, 2))
        logits[..., 1] = 1
        return {
            file: runtimes.Network(
                lambda image: None,
                lambda file=file: invoked.append((file.network, threads)),
                lambda file=file: logits if file is ours else pytest.fail("a peer was judged"),
            )
            for file in files
        }

    monkeypatch.setattr(runtimes, "open_all", open_all)
    monkeypatch.setattr(benchmark, "PAUSE_SECONDS", 0)
    masks = np.full((1, 2, 4), IGNORED, np.uint8)
    masks[0, 0] = 1, 1, 1, 0
    rows = benchmark.measure([ours], [peer], np.zeros((1, 2, 4, 3), np.uint8), masks, 30)
    turns = [*[("compact_unet", 1)] * 25, *[("YOLO26n-sem", 1)] * 25, *[("compact_unet", 1)] * 15]
    assert invoked[:65] == turns  # 20 that count after 5 that do not, then the 10 that are left
    assert [(row["network"], row["threads"], row["bytes"]) for row in rows] == [
        *(("compact_unet", 1, 700), ("YOLO26n-sem", 1, 320)),
        *(("compact_unet", 2, 700), ("YOLO26n-sem", 2, 320)),
    ]
    assert [row["validation_mean_iou"] for row in rows] == [0.375, None, 0.375, None]
    assert rows[0]["mean_iou_interval"] == [0.375, 0.375]  # of a single picture
    assert "mean_iou_interval" not in rows[1]
    assert [row["parameters"] for row in rows] == [10, 30, 10, 30]
    assert rows[0]["times_our_litert_int8"] == 1
    assert benchmark.markdown({"rows": rows}).count("not trained") == 2


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Folders of trained networks: what the records say, and no models."""
    settings = {"here": "default", "quick": "small", "again": "small", "strangers": "large"}

    def read_record(folder, stage):
        data = "others" if folder.name == "strangers" else "ours"
        return {"settings": {"preset": settings[folder.name]}, "inputs": {"dataset": data}}

    network = types.SimpleNamespace(name="compact_unet")
    monkeypatch.setattr(benchmark, "read_record", read_record)
    monkeypatch.setattr(benchmark, "load_model", lambda folder, stage: network)
    return {name: tmp_path / name for name in settings}


def test_networks_of_one_family_have_their_presets_names(folders):
    family = benchmark.read_family([folders["quick"]], "pruned", folders["here"])
    assert [name for name, _ in family] == ["compact_unet small"]


@pytest.mark.parametrize(
    ("members", "fault"),
    [
        (
            ["quick", "again"],
            r"one name \(compact_unet default, compact_unet small, compact_unet s",
        ),
        (
            ["quick", "strangers"],
            r"strangers learned from other data .*make it anew with: .*python",
        ),
    ],
)
def test_a_family_that_cannot_be_compared_is_refused_in_one_line(folders, members, fault):
    with pytest.raises(UserError, match=fault) as raised:
        benchmark.read_family([folders[name] for name in members], "pruned", folders["here"])
    assert "\n" not in str(raised.value)


def test_picture_of_a_family_has_a_point_for_each_network_and_a_line_for_each_peer():
    row = {"network": "compact_unet small", "runtime": "LiteRT", "precision": "int8"}
    trained = {"validation_mean_iou": 0.78, "mean_iou_interval": [0.77, 0.79]}
    rows = [
        row | trained | {"threads": 1, "median_ms": 1.5},
        row | trained | {"threads": 2, "median_ms": 0.8},
        row | {"network": "compact_unet large", "threads": 1, "median_ms": 3.0} | trained,
        row | {"network": "peer", "threads": 1, "median_ms": 4.0, "validation_mean_iou": None},
    ]
    figure = record_picture.by_network({"rows": rows, "cpu": "any", "image_size": [128, 96]})
    (axis,) = figure.axes
    labels = {text.get_text() for text in axis.texts}  # of the peers' lines
    labels |= {text.get_text() for text in axis.get_legend().get_texts()}
    assert labels >= {"small, LiteRT int8", "large, LiteRT int8", "peer, LiteRT int8 (not trained)"}
    points = [points.get_offsets().tolist() for points in axis.collections[-2:]]
    assert points == [[[1.5, 0.78]], [[3.0, 0.78]]]
    assert [4.0, 4.0] in [list(line.get_xdata()) for line in axis.lines]
    assert axis.get_xlim()[1] > 4.0, "a peer slower than all networks is in the picture"


def test_table_of_a_run_with_peers():
    row = {
        **{"network": "compact_unet", "runtime": "LiteRT", "precision": "int8", "threads": 1},
        **{"median_ms": 1.234, "p90_ms": 1.5, "times_our_litert_int8": 1.0, "bytes": 1_254_320},
        **{"parameters": 1_071_704, "multiply_accumulates": 185_391_200},
        "validation_mean_iou": 0.78561,
    }
    peer = row | {"network": "YOLO26n-sem", "validation_mean_iou": None} | COUNTS
    assert benchmark.markdown({"rows": [row, peer]}).splitlines() == [
        "| network | runtime | precision | threads | median ms | p90 ms | times our LiteRT int8 "
        "| MB | M parameters | M multiply-accumulates | validation mean IoU |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| compact_unet | LiteRT | int8 | 1 | 1.23 | 1.50 | 1.00 | 1.25 | 1.07 | 185 | 0.7856 |",
        "| YOLO26n-sem | LiteRT | int8 | 1 | 1.23 | 1.50 | 1.00 | 1.25 | 1.55 | 87 | not trained |",
    ]
