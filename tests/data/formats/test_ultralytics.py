"""data.yaml of Ultralytics: as it is, with every spelling that its documentation allows."""

import numpy as np
import pytest

from pipeline.base.console import UserError
from pipeline.data.classes import IGNORED
from pipeline.data.formats.ultralytics import mask_path, read_ultralytics, yaml_in
from tests.helpers.drawn_sets import YAML, prepare, save, stripes


@pytest.fixture
def road(tmp_path):
    """9 training and 3 validation pictures; the masks' first rows are 11, the second 255."""
    for split, number in (("train", 9), ("val", 3)):
        for k in range(number):
            image, mask = stripes(k, 3)
            mask[:4], mask[4:8] = 11, 255
            save(tmp_path / f"images/{split}/r{k}.jpg", image)
            save(tmp_path / f"masks/{split}/r{k}.png", mask)
    (tmp_path / "data.yaml").write_text(YAML)
    return tmp_path


def counts(found):
    return {split: part.number for split, part in found.splits.items()}


@pytest.mark.parametrize("named", ["file", "folder"])
def test_data_set_is_read_as_it_is(road, tmp_path_factory, named):
    done = prepare(tmp_path_factory.mktemp("m"), road / "data.yaml" if named == "file" else road)
    assert done.classes.names == ("sky", "road", "tree") and done.classes.ignored
    assert done.counts == {"train": 7, "validation": 3, "test": 2}, "validation is not test"
    assert (done.all_masks[:, :8] == IGNORED).all()
    assert set(np.unique(done.all_masks[:, 8:])) == {0, 1, 2}


def test_value_that_no_class_has_is_refused(road, tmp_path_factory):
    (road / "data.yaml").write_text(YAML.partition("label_mapping")[0])
    with pytest.raises(UserError, match=r"masks/train/r0\.png holds the value 11.*\(12 such\)"):
        prepare(tmp_path_factory.mktemp("m"), road)


def test_masks_may_lie_elsewhere_and_test_be_given(road):
    (road / "masks").rename(road / "truth")
    (road / "images" / "val").rename(road / "images" / "held")
    (road / "truth" / "val").rename(road / "truth" / "held")
    text = YAML.replace("masks_dir: masks", "masks_dir: truth").replace(
        "val: images/val", "test: images/held"
    )
    (road / "data.yaml").write_text(text)
    assert counts(read_ultralytics(road / "data.yaml")) == {"train": 9, "test": 3}


@pytest.mark.parametrize("style", ["from the list", "from the root", "absolute"])
def test_splits_may_be_lists_of_files(road, style):
    start = {"from the list": "../images", "from the root": "images", "absolute": road / "images"}
    lists = road / "lists"
    lists.mkdir()
    lines = [f"{start[style]}/train/r{k}.jpg\n" for k in range(6)]
    (lists / "train.txt").write_text("".join(lines) + "\n" + lines[0])
    text = YAML.replace("train: images/train", "train: [lists/train.txt, images/val]")
    (road / "data.yaml").write_text(text.replace("val: images/val\n", ""))
    found = read_ultralytics(road / "data.yaml")
    assert counts(found) == {"train": 9} and not found.faults
    for image, mask, *_ in found.splits["train"].read():
        assert image.stem == mask.stem and image.parent.name == mask.parent.name
    assert "lists/train.txt" in found.files() and "data.yaml" in found.files()


def test_listed_file_without_mask_or_without_itself_is_a_fault(road):
    (road / "train.txt").write_text("images/train/r0.jpg\nimages/train/gone.jpg\n")
    (road / "masks" / "train" / "r0.png").unlink()
    text = YAML.replace("train: images/train", "train: train.txt")
    (road / "data.yaml").write_text(text)
    found = read_ultralytics(road / "data.yaml")
    assert counts(found)["train"] == 0
    assert len(found.faults) == 2
    assert all("has no mask of the same name" in fault.text for fault in found.faults)


def test_path_counts_from_the_file_or_from_the_user(road, monkeypatch):
    (road / "yamls").mkdir()
    (road / "data.yaml").rename(road / "yamls" / "data.yaml")
    file = road / "yamls" / "data.yaml"
    monkeypatch.chdir(road.parent)
    for path in ("..", str(road), road.name):
        file.write_text(YAML.replace("path: .", f"path: {path}"))
        assert counts(read_ultralytics(file)) == {"train": 9, "validation": 3}
    file.write_text(YAML.replace("path: .", "path: nowhere"))
    with pytest.raises(UserError, match=r"path: nowhere is no folder"):
        read_ultralytics(file)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/train/a.jpg", "truth/train/a.jpg"),
        ("images/set/images/a.jpg", "images/set/truth/a.jpg"),
        ("train/a.jpg", "truth/train/a.jpg"),
    ],
)
def test_last_images_of_a_path_is_replaced(tmp_path, image, mask):
    assert mask_path(tmp_path / image, tmp_path, "truth") == tmp_path / mask


def test_names_may_be_a_list_and_mappings_map(road):
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
        ("names:", "names: 3\nother:", "names: must be a list, or a table by number"),
        ("  1: road", "  5: road", "must go 0, 1, 2 without a gap"),
        ("  1: road", "  1: sky", "'sky' is named twice"),
        ("11: ignore_label", "11: 9", r"a class 9; the classes are 0\.\.2, sky, road, tree"),
        ("11: ignore_label", "x: 1", "VALUE: CLASS, with numbers"),
        ("label_mapping:\n  11: ignore_label", "label_mapping: 3", "VALUE: CLASS"),
        ("path: .", "path: [", r"is no YAML \(line"),
        ("images/val", "images/none", "images/none is missing"),
        ("masks_dir: masks", "masks_dir: labels", r"labels/train is missing.*polygons in labels/"),
    ],
)
def test_file_that_says_nonsense_is_named_with_the_reason(road, old, new, reason):
    (road / "data.yaml").write_text(YAML.replace(old, new))
    with pytest.raises(UserError, match=reason) as caught:
        read_ultralytics(road / "data.yaml")
    assert str(road) in str(caught.value) and "\n" not in str(caught.value)


def test_only_one_such_file_speaks_for_a_folder(road):
    (road / "settings.yml").write_text("lr: 1\n")
    assert yaml_in(road) == road / "data.yaml"
    (road / "other.yaml").write_text(YAML)
    assert yaml_in(road) is None
