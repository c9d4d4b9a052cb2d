"""labelme: shapes of every kind, folders, labels with a meaning, damaged files."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from pipeline.base.console import UserError
from pipeline.data.formats import registry
from pipeline.data.formats.labelme import read_labelme
from pipeline.data.image_reader import Unreadable
from tests.helpers.drawn_sets import prepare, save
from tests.helpers.polygon_sets import (
    HEIGHT,
    WIDTH,
    boxes,
    encoded_mask,
    labelme,
    mask,
    picture,
    write_labelme,
)


def pixels_of(sample):
    return np.asarray(Image.open(io.BytesIO(sample.mask.fetch())))


@pytest.mark.parametrize(
    ("image", "file"),
    [
        ("{:02}.jpg", "{:02}.json"),
        ("images/{:02}.jpg", "labels/{:02}.json"),
        ("images/{:02}.jpg", "annotations/{:02}.json"),
        ("train/{:02}.jpg", "train/{:02}.json"),
        ("train/images/{:02}.jpg", "train/labels/{:02}.json"),
    ],
)
def test_files_are_found_and_drawn(image, file, tmp_path):
    write_labelme(tmp_path, image, file, range(12))
    assert registry.format_of(str(tmp_path))[0] == "labelme"
    collection = read_labelme(tmp_path)
    assert collection.labels.names == ("background", "green", "red") and not collection.skipped
    assert collection.splits["train"].number == 12 and not collection.faults
    for sample in collection.splits["train"].read():
        number = int(sample.image.content.stem)
        np.testing.assert_array_equal(pixels_of(sample), np.array([0, 2, 1])[mask(number)])


def test_whole_stage_and_splits(tmp_path):
    for split, numbers in (("train", range(12)), ("val", range(12, 15))):
        write_labelme(tmp_path / "set", f"{split}/{{:02}}.jpg", f"{split}/{{:02}}.json", numbers)
    save(tmp_path / "set/train/90.jpg", picture(90))
    with pytest.raises(UserError, match=r"train/90\.jpg has no file of labelme of the same name"):
        prepare(tmp_path / "m", tmp_path / "set")
    done = prepare(tmp_path / "m", tmp_path / "set", "--skip-bad", "0.1")
    assert done.counts == {"train": 10, "validation": 3, "test": 2}
    assert done.classes.names == ("background", "green", "red")


def test_labels_txt_gives_the_order_and_two_labels_have_a_meaning(tmp_path):
    write_labelme(tmp_path, "{:02}.jpg", "{:02}.json", range(3))
    content = labelme(0, "00.jpg")
    whole = [[0, 0], [WIDTH, 0], [WIDTH, HEIGHT], [0, HEIGHT]]
    corner = [[0, 0], [9, 0], [9, 9], [0, 9]]
    content["shapes"].insert(0, {"label": "__ignore__", "points": whole, "shape_type": "polygon"})
    content["shapes"].append({"label": "_background_", "points": corner, "shape_type": None})
    (tmp_path / "00.json").write_text(json.dumps(content))
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\nred\ngreen\nnever\n")
    collection = read_labelme(tmp_path)
    assert collection.labels.names == ("background", "red", "green")
    expected = np.where(mask(0), mask(0), 255)
    expected[:9, :9] = 0
    np.testing.assert_array_equal(pixels_of(next(collection.splits["train"].read())), expected)


def test_shapes_of_every_kind(tmp_path):
    write_labelme(tmp_path, "{:02}.jpg", "{:02}.json", range(1))
    content = labelme(0, "00.jpg")
    inside = np.zeros((10, 20), bool)
    inside[2:7, 3:] = True
    content["shapes"] = [
        {"label": "red", "points": [[70, 60], [30, 20]], "shape_type": "rectangle"},
        {"label": "green", "points": [[100, 70], [112, 70]], "shape_type": "circle"},
        {
            **{"label": "green", "points": [[5, 50], [24, 59]], "shape_type": "mask"},
            "mask": encoded_mask(inside),
        },
    ]
    (tmp_path / "00.json").write_text(json.dumps(content))
    pixels = pixels_of(next(read_labelme(tmp_path).splits["train"].read()))
    expected = np.zeros((HEIGHT, WIDTH), int)
    expected[20:60, 30:70] = 2
    expected[50:60, 5:25][inside] = 1
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    circle = np.hypot(x - 100, y - 70) < 12
    np.testing.assert_array_equal(np.where(x > 80, 0, pixels), expected)
    assert (pixels[x > 80].astype(bool) != circle[x > 80]).sum() < 40 < circle.sum() / 10


def test_later_shapes_cover_earlier_ones(tmp_path):
    """As labelme2voc.py draws them, whatever their sizes."""
    write_labelme(tmp_path, "{:02}.jpg", "{:02}.json", range(1))
    content = labelme(0, "00.jpg")
    content["shapes"].reverse()
    (tmp_path / "00.json").write_text(json.dumps(content))
    left, top, right, bottom = boxes(0)[0][1]
    pixels = pixels_of(next(read_labelme(tmp_path).splits["train"].read()))
    assert (pixels[top:bottom, left:right] == 2).all()


def test_picture_of_another_name_is_found_by_its_path(tmp_path):
    """With backslashes, as labelme writes it under Windows."""
    write_labelme(tmp_path, "photos/{:02}.jpg", "json/x{:02}.json", range(2))
    for k in range(2):
        content = labelme(k, f"..\\photos\\{k:02}.jpg")
        (tmp_path / f"json/x{k:02}.json").write_text(json.dumps(content))
    collection = read_labelme(tmp_path)
    samples = list(collection.splits["train"].read())
    assert [s.image.content.name for s in samples] == ["00.jpg", "01.jpg"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"points": [[1, 1], [5, 5]]}, "fewer than three points"),
        ({"points": [[1, 1], [5, 5], [9, 1e200]]}, "not a finite number"),
        ({"points": [[1, 1], [5, 5]], "shape_type": "line"}, "a line covers no pixels"),
        ({"points": "abc"}, "could not convert"),
        ({"shape_type": "mask", "mask": "no"}, ""),
        ({"shape_type": "circle", "points": [[1, 1]]}, ""),
    ],
)
def test_faulty_shape_is_named(change, reason, tmp_path):
    write_labelme(tmp_path, "{:02}.jpg", "{:02}.json", range(2))
    content = labelme(0, "00.jpg")
    content["shapes"][1] |= change
    (tmp_path / "00.json").write_text(json.dumps(content))
    sample = next(read_labelme(tmp_path).splits["train"].read())
    with pytest.raises(Unreadable, match=rf"00\.json cannot be drawn \(shape 2: .*{reason}"):
        sample.mask.fetch()


def test_far_points_and_large_sides(tmp_path):
    write_labelme(tmp_path, "{:02}.jpg", "{:02}.json", range(2))
    content = labelme(0, "00.jpg")
    content["shapes"][0]["points"] = [[-1e9, -1e9], [1e9, -1e9], [1e9, 1e9]]
    (tmp_path / "00.json").write_text(json.dumps(content))
    (tmp_path / "01.json").write_text(json.dumps({**labelme(1, "01.jpg"), "imageHeight": 10**6}))
    first, second = read_labelme(tmp_path).splits["train"].read()
    assert 0.4 < (pixels_of(first) > 0).mean() < 0.8
    with pytest.raises(Unreadable, match="120 x 1000000 pixels"):
        second.mask.fetch()


def test_picture_inside_of_a_file_is_named_with_what_writes_it(tmp_path):
    write_labelme(tmp_path, "{:02}.jpg", "{:02}.json", range(12))
    (tmp_path / "03.jpg").unlink()
    (fault,) = read_labelme(tmp_path).faults
    assert "03.json has no image of the same name" in fault.text
    assert "labelme_export_json (of labelme) writes the picture" in fault.text


@pytest.mark.parametrize("text", ["", "{", '{"shapes": 3}', "[" * 9000 + '"shapes"'])
def test_damaged_file_is_named(text, tmp_path):
    write_labelme(tmp_path, "{:02}.jpg", "{:02}.json", range(12))
    (tmp_path / "11.json").write_text(text)
    collection = read_labelme(tmp_path)
    assert not collection.faults
    with pytest.raises(Unreadable, match=r"11\.json cannot be drawn"):
        list(collection.splits["train"].read())[11].mask.fetch()


def test_utf_16_and_a_mark_are_read(tmp_path):
    write_labelme(tmp_path, "{:02}.jpg", "{:02}.json", range(2))
    for k, encoding in enumerate(("utf-16", "utf-8-sig")):
        path = tmp_path / f"{k:02}.json"
        path.write_bytes(path.read_text().encode(encoding))
    collection = read_labelme(tmp_path)
    assert collection.splits["train"].number == 2 and not collection.faults
    assert all(pixels_of(sample).any() for sample in collection.splits["train"].read())
