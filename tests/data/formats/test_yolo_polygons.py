"""YOLO segmentation in the forms in which Roboflow, CVAT, Label Studio and Ultralytics write it."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.base.console import UserError
from pipeline.data.decoding import ORIENTATION
from pipeline.data.formats import registry
from pipeline.data.formats.yolo_polygons import labels_below, read_polygons
from pipeline.data.image_reader import Unreadable
from pipeline.data.sample_source import READING, Sample, open_sample
from tests.helpers.drawn_sets import prepare, save
from tests.helpers.polygon_sets import HEIGHT, WIDTH, mask, picture, write_yolo, yolo_line

ROBOFLOW = (
    "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\n"
    "names: ['red', 'green']\n\nroboflow:\n  workspace: a\n  version: 1\n"
)
CVAT = "names:\n  0: red\n  1: green\npath: .\ntrain: train.txt\n"
COCO8 = "path: set\ntrain: images/train\nval: images/val\ntest:\n\nnames:\n  0: red\n  1: green\n"


def masks_of(collection):
    """By split, the masks; each is compared with the pixels that were drawn."""
    counts = {}
    for split, part in collection.splits.items():
        for sample in part.read():
            pixels = np.asarray(Image.open(io.BytesIO(sample.mask.fetch())))
            np.testing.assert_array_equal(pixels, mask(number_of(sample)), sample.id)
        counts[split] = part.number
    return counts


def number_of(sample: Sample) -> int:
    return int("".join(c for c in sample.image.content.name.partition(".")[0] if c.isdigit()))


@pytest.fixture
def roboflow(tmp_path):
    folder = tmp_path / "set"
    for split, numbers in (("train", range(12)), ("valid", range(12, 16)), ("test", range(16, 19))):
        name = "{:02}_jpg.rf.5d41402abc"
        write_yolo(folder, f"{split}/images/{name}.jpg", f"{split}/labels/{name}.txt", numbers)
    (folder / "data.yaml").write_text(ROBOFLOW)
    (folder / "README.dataset.txt").write_text("")
    return folder


def test_roboflow(roboflow, tmp_path):
    assert registry.format_of(str(roboflow))[0] == "yolo_polygons"
    collection = read_polygons(roboflow / "data.yaml")
    assert masks_of(collection) == {"train": 12, "validation": 4, "test": 3}
    assert collection.labels.names == ("background", "red", "green")
    assert len(collection.files()) == 2 * 19 + 1
    done = prepare(tmp_path / "m", roboflow, "--image-size", "128x96")
    assert done.counts == {"train": 12, "validation": 4, "test": 3} and not done.left_out
    assert set(np.unique(done.all_masks)) == {0, 1, 2}


def test_cvat_with_a_list_of_files(tmp_path):
    write_yolo(tmp_path, "images/train/{:02}.png", "labels/train/{:02}.txt", range(12), "\r\n")
    names = "".join(f"images/train/{k:02}.png\r\n" for k in range(12))
    (tmp_path / "train.txt").write_bytes(names.encode())
    (tmp_path / "data.yaml").write_text(CVAT)
    assert registry.format_of(str(tmp_path))[0] == "yolo_polygons"
    assert masks_of(read_polygons(tmp_path / "data.yaml")) == {"train": 12}


def test_ultralytics_with_a_path_from_the_working_directory(tmp_path, monkeypatch):
    for split, numbers in (("train", range(12)), ("val", range(12, 15))):
        write_yolo(
            tmp_path / "set", f"images/{split}/{{:02}}.jpg", f"labels/{split}/{{:02}}.txt", numbers
        )
    (tmp_path / "coco8-seg.yaml").write_text(COCO8)
    monkeypatch.chdir(tmp_path)
    assert masks_of(read_polygons(tmp_path / "coco8-seg.yaml")) == {"train": 12, "validation": 3}


@pytest.mark.parametrize("names", ["classes.txt", "labels/classes.txt", None])
def test_label_studio_without_a_yaml(names, tmp_path):
    write_yolo(tmp_path, "images/{:02}.png", "labels/{:02}.txt", range(12))
    (tmp_path / "notes.json").write_text("{}")
    if names:
        (tmp_path / names).write_bytes("\ufeffred\r\ngreen\r\n".encode())
    assert registry.format_of(str(tmp_path))[0] == "yolo_polygons"
    collection = read_polygons(tmp_path)
    assert masks_of(collection) == {"train": 12}
    expected = ("red", "green") if names else ("class 0", "class 1")
    assert collection.labels.names == ("background", *expected)


def test_picture_without_a_file_has_no_objects(roboflow, tmp_path, capsys):
    """So the format's documentation says."""
    save(roboflow / "train/images/99.jpg", picture(99))
    (roboflow / "train/labels/03_jpg.rf.5d41402abc.txt").write_text("")
    done = prepare(tmp_path / "m", roboflow, "--image-size", "128x96")
    assert done.counts["train"] == 13 and not done.left_out
    assert sum(not pixels.any() for pixels in done.masks["train"]) == 2
    assert "note: 1 pictures of train have no file in labels/, such as train/images/99.jpg" in (
        capsys.readouterr().out
    )


def test_class_without_objects_is_left_out_and_background_is_class_zero(tmp_path):
    write_yolo(tmp_path, "images/train/{}.png", "labels/train/{}.txt", range(12))
    yaml = tmp_path / "data.yaml"
    yaml.write_text("train: images/train\nnames: [red, background, never]\n")
    collection = read_polygons(yaml)
    assert collection.labels.names == ("background", "red")
    assert collection.skipped == [("class never", "has no object")]
    for sample in collection.splits["train"].read():
        pixels = np.asarray(Image.open(io.BytesIO(sample.mask.fetch())))
        np.testing.assert_array_equal(pixels, mask(number_of(sample)) % 2)


def test_split_without_labels_is_listed_and_not_taken_for_background(roboflow):
    for path in (roboflow / "test/labels").iterdir():
        path.unlink()
    collection = read_polygons(roboflow / "data.yaml")
    assert set(collection.splits) == {"train", "validation"}
    assert [why for _, why in collection.skipped] == ["of a split without files of objects"] * 3


def test_folder_of_another_machine_is_looked_for_beside_the_file(tmp_path):
    write_yolo(tmp_path, "images/train/{}.png", "labels/train/{}.txt", range(12))
    yaml = "path: /content/datasets/x\ntrain: images/train\nnames: [red, green]\n"
    (tmp_path / "data.yaml").write_text(yaml)
    assert masks_of(read_polygons(tmp_path / "data.yaml")) == {"train": 12}


def test_pictures_that_no_split_of_the_yaml_names_are_listed(tmp_path):
    for split in ("train", "test"):
        write_yolo(tmp_path, f"images/{split}/{{}}.png", f"labels/{split}/{{}}.txt", range(12))
    (tmp_path / "list.txt").write_text("".join(f"images/train/{k}.png\n" for k in range(10)))
    (tmp_path / "data.yaml").write_text("train: list.txt\nnames: [red, green]\n")
    names = [name for name, _ in read_polygons(tmp_path / "data.yaml").skipped]
    unlisted = [f"images/train/{k}.png" for k in (10, 11)]
    assert sorted(names) == sorted([*unlisted, *(f"images/test/{k}.png" for k in range(12))])


def test_label_without_a_picture_is_a_fault(roboflow):
    (roboflow / "train/images/05_jpg.rf.5d41402abc.jpg").unlink()
    (fault,) = read_polygons(roboflow / "data.yaml").faults
    assert "train/labels/05_jpg.rf.5d41402abc.txt has no image of the same name" in fault.text


def test_boxes_are_refused(tmp_path):
    write_yolo(tmp_path, "images/train/{}.png", "labels/train/{}.txt", range(12))
    for path in (tmp_path / "labels/train").iterdir():
        path.write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [red]\n")
    with pytest.raises(UserError, match=r"data\.yaml has boxes \(a class and 4 numbers a line\)"):
        read_polygons(tmp_path / "data.yaml")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 0.5 0.5 0.2 0.2", "line 2: it is a box, not a polygon"),
        ("0 0.5 0.5 0.2", "fewer than three points"),
        ("0 0.1 0.1 0.2 0.1 0.2", "fewer than three points"),
        ("0 10 10 50 10 50 60", "points must be shares of the picture's sides"),
        ("0 0.1 0.1 1e30 0.1 0.2 0.2", "points must be shares"),
        ("0 0.1 0.1 inf 0.1 0.2 0.2", "points must be shares"),
        ("0 0.1 0.1 nan 0.1 0.2 0.2", "points must be shares"),
        ("7 0.1 0.1 0.2 0.1 0.2 0.2", r"there are 2 classes, 0\.\.1"),
        ("cat 0.1 0.1 0.2 0.1 0.2 0.2", "could not convert"),
    ],
)
def test_faulty_line_is_named(line, reason, roboflow):
    file = roboflow / "train/labels/00_jpg.rf.5d41402abc.txt"
    file.write_text(f"{yolo_line(0, (3, 3, 20, 20))}\n{line}\n")
    sample = next(read_polygons(roboflow / "data.yaml").splits["train"].read())
    with pytest.raises(Unreadable, match=f"00_jpg.* cannot be drawn .*{reason}"):
        sample.mask.fetch()


def test_photograph_that_is_turned_has_its_mask_as_it_is_shown(tmp_path):
    """Ultralytics and the labelling tools show it upright; nothing else tells of 180 degrees."""
    for orientation in (3, 6):
        upright = Image.fromarray(picture(0))
        turned = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}[orientation]
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        folder = tmp_path / str(orientation)
        write_yolo(folder, "images/train/{}.png", "labels/train/{}.txt", range(1))
        save(folder / "images/train/0.png", upright.transpose(turned), exif=exif.tobytes())
        (folder / "data.yaml").write_text("train: images/train\nnames: [red, green]\n")
        sample = next(read_polygons(folder / "data.yaml").splits["train"].read())
        image, pixels, _ = open_sample(sample, READING._replace(orientation="stored"))
        assert image.size == pixels.size == (WIDTH, HEIGHT)
        np.testing.assert_array_equal(np.asarray(image), picture(0))
        np.testing.assert_array_equal(np.asarray(pixels), mask(0))


def test_folder_of_lists_is_no_set_of_polygons(tmp_path):
    write_yolo(tmp_path, "images/{}.png", "labels/{}.txt", range(2))
    for path in (tmp_path / "labels").iterdir():
        path.write_text("a picture of a cat\n")
    assert not labels_below(tmp_path)
