"""--missing-mask background: a picture without a mask is one without objects, in every format."""

import json

import numpy as np
import pytest
from PIL import Image

from pipeline.base.console import UserError
from tests.helpers.drawn_sets import YAML, prepare, save, stripes, write_set
from tests.helpers.polygon_sets import picture, write_labelme

FLAGS = ("--missing-mask", "background")


def without(folder, masks, numbers=(3, 7)):
    """Removes the masks of some pictures."""
    for number in numbers:
        (folder / masks.format(number)).unlink()
    return folder


@pytest.fixture
def photos(tmp_path):
    return without(write_set(tmp_path / "set", 20), "masks/p{:02}.png")


def test_it_is_a_fault_unless_asked_for(photos, tmp_path, capsys):
    with pytest.raises(
        UserError, match=r"p03\.png has no mask of the same name; draw it.*\(2 such"
    ):
        prepare(tmp_path / "m", photos)
    done = prepare(tmp_path / "m", photos, *FLAGS)
    assert sum(done.counts.values()) == 20 and not done.left_out
    assert sum(not mask.any() for mask in done.all_masks) == 2
    assert done.record["metrics"]["audit"]["without_mask"] == 2
    assert "note: 2 pictures without a mask are taken as background all" in capsys.readouterr().out


def test_nothing_is_noted_where_no_mask_is_missing(tmp_path):
    done = prepare(tmp_path / "m", write_set(tmp_path / "set", 12), *FLAGS)
    assert "without_mask" not in done.record["metrics"]["audit"]


def test_mask_of_another_name_or_format_is_no_missing_one(photos, tmp_path):
    save(photos / "masks/p03_new.png", stripes(3, 3)[1])
    (photos / "masks/p07.mat").write_bytes(b"MATLAB 5.0")
    with pytest.raises(UserError, match=r"p03_new\.png is there; rename that.*\(3 such faults\)"):
        prepare(tmp_path / "m", photos, *FLAGS)


def test_image_with_a_class_called_background(tmp_path):
    """Its value is that of the class, here 2."""
    folder = write_set(tmp_path / "set", 20, 3, "images/train/p{:02}.png", "masks/train/p{:02}.png")
    yaml = YAML.replace("2: tree", "2: Background").replace("val: images/val\n", "")
    (folder / "data.yaml").write_text(yaml)
    without(folder, "masks/train/p{:02}.png")
    done = prepare(tmp_path / "m", folder, *FLAGS)
    assert sum((mask == 2).all() for mask in done.all_masks) == 2


def test_coloured_masks(tmp_path):
    folder = write_set(
        tmp_path / "set", 20, 3, "JPEGImages/p{:02}.png", "SegmentationClass/p{:02}.png"
    )
    colours = np.array([(5, 6, 7), (255, 0, 0), (9, 200, 7)], np.uint8)
    for path in (folder / "SegmentationClass").iterdir():
        save(path, colours[np.asarray(Image.open(path))])
    (folder / "labelmap.txt").write_text("cat:255,0,0::\nbackground:5,6,7::\ndog:9,200,7::\n")
    without(folder, "SegmentationClass/p{:02}.png")
    done = prepare(tmp_path / "m", folder, *FLAGS)
    assert sum(done.counts.values()) == 20
    assert sum((mask == 1).all() for mask in done.all_masks) == 2


def test_labelme(tmp_path):
    write_labelme(tmp_path / "set", "{:02}.jpg", "{:02}.json", range(12))
    save(tmp_path / "set/90.jpg", picture(90))
    done = prepare(tmp_path / "m", tmp_path / "set", *FLAGS)
    assert sum(not mask.any() for mask in done.all_masks) == 1


def test_splits_stay_as_they_are(tmp_path):
    folder = tmp_path / "set"
    for split, number in (("train", 12), ("val", 4)):
        write_set(
            folder, number, image=f"{split}/images/p{{:02}}.png", mask=f"{split}/masks/p{{:02}}.png"
        )
    without(folder, "val/masks/p{:02}.png", (1, 2))
    assert prepare(tmp_path / "m", folder, *FLAGS).counts["validation"] == 4


def test_record_and_flag_are_settings(photos, tmp_path):
    done = prepare(tmp_path / "m", photos, *FLAGS)
    assert json.dumps(done.record["settings"])
    assert done.record["settings"]["missing_mask"] == "background"
