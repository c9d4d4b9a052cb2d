"""data.yaml of Ultralytics: every form that its documentation allows, and invalid files."""

import numpy as np
import pytest

from pipeline.base.console import UserError
from pipeline.data.classes import IGNORED
from pipeline.data.formats.ultralytics import mask_path, read_ultralytics, yaml_in
from tests.helpers.drawn_sets import YAML, prepare, save, stripes


@pytest.fixture
def road(tmp_path):
    """9 training and 3 validation pictures; mask rows 0 to 3 are 11, rows 4 to 7 are 255."""
    for split, number in (("train", 9), ("val", 3)):
        for k in range(number):
            image, mask = stripes(k, 3)
            mask[:4], mask[4:8] = 11, 255
            save(tmp_path / f"images/{split}/r{k}.jpg", image)
            save(tmp_path / f"masks/{split}/r{k}.png", mask)
    (tmp_path / "data.yaml").write_text(YAML)
    return tmp_path


def counts(collection):
    return {split: part.number for split, part in collection.splits.items()}


@pytest.mark.parametrize("named", ["file", "folder"])
def test_data_yaml_is_read_from_file_or_folder(road, tmp_path_factory, named):
    done = prepare(tmp_path_factory.mktemp("m"), road / "data.yaml" if named == "file" else road)
    assert done.classes.names == ("sky", "road", "tree") and done.classes.ignored
    assert done.counts == {"train": 7, "validation": 3, "test": 2}, "the validation split stays"
    assert (done.all_masks[:, :8] == IGNORED).all()
    assert set(np.unique(done.all_masks[:, 8:])) == {0, 1, 2}


def test_value_without_a_class_is_refused(road, tmp_path_factory):
    (road / "data.yaml").write_text(YAML.partition("label_mapping")[0])
    with pytest.raises(
        UserError, match=r"masks/train/r0\.png holds the value 11.*\(12 such faults\)"
    ):
        prepare(tmp_path_factory.mktemp("m"), road)


def test_masks_dir_and_test_split(road):
    (road / "masks").rename(road / "truth")
    (road / "images" / "val").rename(road / "images" / "held")
    (road / "truth" / "val").rename(road / "truth" / "held")
    text = YAML.replace("masks_dir: masks", "masks_dir: truth").replace(
        "val: images/val", "test: images/held"
    )
    (road / "data.yaml").write_text(text)
    assert counts(read_ultralytics(road / "data.yaml")) == {"train": 9, "test": 3}


@pytest.mark.parametrize("style", ["from the list", "from the root", "absolute"])
def test_splits_can_be_lists_of_files(road, style):
    start = {"from the list": "../images", "from the root": "images", "absolute": road / "images"}
    lists = road / "lists"
    lists.mkdir()
    lines = [f"{start[style]}/train/r{k}.jpg\n" for k in range(6)]
    (lists / "train.txt").write_text("".join(lines) + "\n" + lines[0])
    text = YAML.replace("train: images/train", "train: [lists/train.txt, images/val]")
    (road / "data.yaml").write_text(text.replace("val: images/val\n", ""))
    collection = read_ultralytics(road / "data.yaml")
    assert counts(collection) == {"train": 9} and not collection.faults
    for sample in collection.splits["train"].read():
        image, mask = sample.image.fetch(), sample.mask.fetch()
        assert image.stem == mask.stem and image.parent.name == mask.parent.name
    assert "lists/train.txt" in collection.files() and "data.yaml" in collection.files()


def test_listed_file_that_is_missing_or_has_no_mask_is_a_fault(road):
    (road / "train.txt").write_text("images/train/r0.jpg\nimages/train/gone.jpg\n")
    (road / "masks" / "train" / "r0.png").unlink()
    text = YAML.replace("train: images/train", "train: train.txt")
    (road / "data.yaml").write_text(text)
    collection = read_ultralytics(road / "data.yaml")
    assert counts(collection)["train"] == 0
    assert len(collection.faults) == 2
    assert all("has no mask of the same name" in fault.text for fault in collection.faults)


def test_path_is_relative_to_the_file_or_the_working_directory(road, monkeypatch):
    (road / "yamls").mkdir()
    (road / "data.yaml").rename(road / "yamls" / "data.yaml")
    file = road / "yamls" / "data.yaml"
    monkeypatch.chdir(road.parent)
    for path in ("..", str(road), road.name):
        file.write_text(YAML.replace("path: .", f"path: {path}"))
        assert counts(read_ultralytics(file)) == {"train": 9, "validation": 3}
    file.write_text(YAML.replace("path: .", "path: nowhere"))
    with pytest.raises(UserError, match=r"path: nowhere is not a folder"):
        read_ultralytics(file)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/train/a.jpg", "truth/train/a.jpg"),
        ("images/set/images/a.jpg", "images/set/truth/a.jpg"),
        ("train/a.jpg", "truth/train/a.jpg"),
    ],
)
def test_last_images_in_a_path_is_replaced(tmp_path, image, mask):
    assert mask_path(tmp_path / image, tmp_path, "truth") == tmp_path / mask


def test_names_as_list_and_label_mapping(road):
    text = (
        YAML.partition("names:")[0] + "names: [a, b]\nlabel_mapping: {0: 1, 1: 0, 2: a, 11: 255}\n"
    )
    (road / "data.yaml").write_text(text)
    labels = read_ultralytics(road / "data.yaml").labels
    assert labels.names == ("a", "b") and labels.mapping == {0: 1, 1: 0, 2: 0, 11: IGNORED}


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("train: images/train\n", "", "needs train: and names:"),
        ("names:", "names: 3\nother:", "names: must be a list, or a table by class index"),
        ("  1: road", "  5: road", r"must be 0, 1, 2 \.\.\. without gaps"),
        ("  1: road", "  1: sky", "'sky' is named twice"),
        ("11: ignore_label", "11: 9", r"unknown class 9; use 0\.\.2, sky, road, tree"),
        ("11: ignore_label", "x: 1", "VALUE: CLASS, with whole numbers"),
        ("label_mapping:\n  11: ignore_label", "label_mapping: 3", "VALUE: CLASS"),
        ("path: .", "path: [", r"is not valid YAML \(line"),
        ("images/val", "images/none", "images/none is missing"),
        ("masks_dir: masks", "masks_dir: labels", r"labels/train is missing.*polygons in labels/"),
    ],
)
def test_invalid_data_yaml_is_refused_with_the_reason(road, old, new, reason):
    (road / "data.yaml").write_text(YAML.replace(old, new))
    with pytest.raises(UserError, match=reason) as caught:
        read_ultralytics(road / "data.yaml")
    assert str(road) in str(caught.value) and "\n" not in str(caught.value)


def test_yaml_in_needs_exactly_one_file(road):
    (road / "settings.yml").write_text("lr: 1\n")
    assert yaml_in(road) == road / "data.yaml"
    (road / "other.yaml").write_text(YAML)
    assert yaml_in(road) is None
