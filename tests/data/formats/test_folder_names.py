"""Folders of pictures and masks under the names that tools and people give them."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data_preparation
from pipeline.base.console import UserError
from pipeline.data.folder_flags import Folders
from pipeline.data.formats import registry
from pipeline.data.formats.folder_layout import read_folder
from pipeline.data.formats.folder_search import layout_of
from tests.helpers.drawn_sets import add_noise, prepare, save, stripes, write_set


def held(collection):
    """By split, how many pairs there are; every mask must be the one that was drawn for it."""
    for part in collection.splits.values():
        for sample in part.read():
            image, mask = (np.asarray(Image.open(p.fetch())) for p in (sample.image, sample.mask))
            number = image[0, 0, 1] // 7
            np.testing.assert_array_equal(mask, stripes(number, 3)[1], sample.id)
    return {split: part.number for split, part in collection.splits.items()}


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/p{:02}.png", "masks/p{:02}_mask.png"),
        ("images/p{:02}.png", "masks/p{:02}_seg.png"),
        ("images/p{:02}.png", "masks/p{:02}-label.png"),
        ("images/p{:02}.png", "masks/p{:02}_L.png"),
        ("images/p{:02}.png", "masks/mask_p{:02}.png"),
        ("images/p{:02}.png", "masks/p{:02}_manual1.png"),
        ("images/img_{:02}.png", "masks/mask_{:02}.png"),
        ("images/image{:02}.png", "masks/mask{:02}.png"),
        ("Images/p{:02}.png", "Masks/p{:02}.png"),
        ("IMAGES/p{:02}.png", "Annotations/p{:02}.png"),
        ("image/p{:02}.png", "label/p{:02}.png"),
        ("img/p{:02}.png", "mask/p{:02}.png"),
        ("imgs/p{:02}.png", "labels/p{:02}.png"),
        ("inputs/p{:02}.png", "targets/p{:02}.png"),
        ("photos/p{:02}.png", "Ground_Truth/p{:02}.png"),
        ("car photos/p{:02}.png", "masks/p{:02}.png"),
        ("p{:02}.png", "masks/p{:02}.png"),
        ("train/p{:02}.png", "train_masks/p{:02}_mask.png"),
        ("train/p{:02}.png", "trainannot/p{:02}.png"),
        ("train/p{:02}.png", "train_labels/p{:02}_L.png"),
        ("train_images/p{:02}.png", "train_masks/p{:02}.png"),
        ("Train/Images/p{:02}.png", "Train/Masks/p{:02}.png"),
        ("images/Training/p{:02}.png", "masks/Training/p{:02}.png"),
        ("train/p{:02}.png", "train/p{:02}_mask.png"),
        ("train/{:02}_sat.png", "train/{:02}_mask.png"),
        ("p{:02}.png", "p{:02}_mask.png"),
        ("images/p{:02}.png", "images/p{:02}_mask.png"),
        ("set/images/p{:02}.png", "set/masks/p{:02}.png"),
        ("set/train/images/p{:02}.png", "set/train/masks/p{:02}.png"),
        ("images/north/train/p{:02}.png", "masks/north/train/p{:02}.png"),
        ("north/images/p{:02}.png", "north/masks/p{:02}.png"),
        ("Train/Rural/images_png/p{:02}.png", "Train/Rural/masks_png/p{:02}.png"),
        ("images_prepped_train/p{:02}.png", "annotations_prepped_train/p{:02}.png"),
        ("my images/p{:02}.png", "my masks/p{:02}.png"),
        ("raw_images/p{:02}.png", "label_images/p{:02}.png"),
        ("ISIC_Training_Input/I{:02}.png", "ISIC_Training_GroundTruth/I{:02}_segmentation.png"),
    ],
)
def test_usual_names_are_recognised(image, mask, tmp_path):
    write_set(tmp_path, 12, image=image, mask=mask)
    collection = read_folder(tmp_path)
    assert held(collection) == {"train": 12}
    assert not collection.faults and not collection.skipped


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("{split}/images/p{{:02}}.png", "{split}/labels/p{{:02}}.png"),
        ("images/{split}/p{{:02}}.png", "masks/{split}/p{{:02}}_mask.png"),
        ("{split}/p{{:02}}.png", "{split}_labels/p{{:02}}_L.png"),
        ("{split}/p{{:02}}.png", "{split}annot/p{{:02}}.png"),
        ("{split}/p{{:02}}_jpg.rf.5d41402a.png", "{split}/p{{:02}}_jpg.rf.5d41402a_mask.png"),
        ("images/{split}2017/p{{:02}}.png", "annotations/{split}2017/p{{:02}}.png"),
        ("Data/{split}/Image/p{{:02}}.png", "Data/{split}/Mask/p{{:02}}.png"),
    ],
)
@pytest.mark.parametrize("names", [("train", "val", "test"), ("Train", "Valid", "TEST")])
def test_splits_are_recognised_in_any_case(image, mask, names, tmp_path):
    for split, number in zip(names, (8, 3, 2)):
        write_set(tmp_path, number, image=image.format(split=split), mask=mask.format(split=split))
    collection = read_folder(tmp_path)
    assert held(collection) == {"train": 8, "validation": 3, "test": 2}
    assert not collection.faults and not collection.skipped


def test_names_that_are_known_count_before_those_that_hold_a_word(tmp_path):
    """masks_old/ is not read beside masks/."""
    write_set(tmp_path, 12)
    write_set(tmp_path, 12, image="images_old/p{:02}.png", mask="masks_old/p{:02}.png")
    collection = read_folder(tmp_path)
    assert held(collection) == {"train": 12} and not collection.faults
    assert len(collection.skipped) == 24


def test_two_folders_of_pictures_and_masks_are_one_set(tmp_path):
    for site in ("north", "south"):
        write_set(
            tmp_path, 6, image=f"{site}/images/p{{:02}}.png", mask=f"{site}/masks/p{{:02}}.png"
        )
    assert held(read_folder(tmp_path)) == {"train": 12}


def test_folders_named_on_the_command_line(tmp_path):
    write_set(tmp_path / "a", 12, image="p{:02}.png", mask="../b/drawn/p{:02}_final.png")
    flags = ("--images", tmp_path / "a", "--masks", tmp_path / "b/drawn")
    done = prepare(tmp_path / "m", None, *flags)
    assert done.counts == {"train": 9, "validation": 1, "test": 2}
    named = Folders(tmp_path / "a", tmp_path / "b/drawn")
    assert held(read_folder(tmp_path, named)) == {"train": 12}
    save(tmp_path / "b/drawn/p00_draft.png", stripes(5, 3)[1])
    again = prepare(tmp_path / "m", None, *flags, "--mask-suffix", "_final.png")
    assert again.left_out == ["b/drawn/p00_draft.png: does not have _final in its name, skipped"]
    np.testing.assert_array_equal(done.all_masks, again.all_masks)


def test_named_folders_may_hold_splits_or_both_kinds(tmp_path):
    for split in ("train", "test"):
        write_set(tmp_path, 12, image=f"x/{split}/p{{:02}}.png", mask=f"x/{split}/p{{:02}}-m2.png")
    flags = ("--images", tmp_path / "x", "--masks", tmp_path / "x", "--mask-suffix=-m2")
    done = prepare(tmp_path / "m", None, *flags)
    assert done.counts == {"train": 11, "validation": 1, "test": 12} and not done.left_out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--images", "x"], "--images needs --masks DIR, too"),
        (["--masks", "x"], "--masks needs --images DIR, too"),
        (["--images", "x", "--masks", "y", "--data", "z"], "leave --data and --dataset out"),
        (["--data", "set", "--mask-suffix", ""], "--mask-suffix is empty"),
        (
            ["--data", "synthetic", "--mask-suffix", "_x"],
            "--mask-suffix does nothing unless the data set is a folder of masks",
        ),
    ],
)
def test_flags_that_do_not_go_together_are_refused(flags, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        data_preparation.main(["--models-dir", str(tmp_path), *flags])
    assert caught.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert message in lines[-1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--images", "none", "--masks", "set/masks"], "--images none is missing; name a folder"),
        (["--images", "set/images", "--masks", "set/a.txt"], "--masks set/a.txt is a file; name"),
        (["--data", "set", "--mask-suffix", "_x"], r"no mask below set has a name that ends so"),
    ],
)
def test_folders_that_are_not_there_are_refused(flags, message, tmp_path, monkeypatch):
    write_set(tmp_path / "set", 12)
    (tmp_path / "set/a.txt").write_text("text")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        data_preparation.main(["--models-dir", "m", *flags])
    assert "\n" not in str(caught.value) and not (tmp_path / "m/dataset").exists()


# --- nothing is left out without a word ---------------------------------------------------


@pytest.mark.parametrize("name", ["eval", "dev", "test1", "holdout"])
def test_folder_beside_train_that_is_no_split_is_listed(name, tmp_path, capsys):
    for split, number in (("train", 12), (name, 5)):
        write_set(
            tmp_path / "set",
            number,
            image=f"images/{split}/p{{:02}}.png",
            mask=f"masks/{split}/p{{:02}}.png",
        )
    done = prepare(tmp_path / "m", tmp_path / "set")
    assert sum(done.counts.values()) == 12 and len(done.left_out) == 10
    assert f"10 skipped files, 10 of them such as images/{name}/p00.png ({name}/ is none of" in (
        capsys.readouterr().out
    )


def test_pictures_beside_the_folders_of_the_splits_are_listed(tmp_path, capsys):
    write_set(tmp_path / "set", 12, image="images/train/p{:02}.png", mask="masks/train/p{:02}.png")
    write_set(tmp_path / "set", 3)
    write_set(tmp_path / "set", 2, image="preview/p{}.png", mask="preview/q{}.png")
    done = prepare(tmp_path / "m", tmp_path / "set")
    assert sum(done.counts.values()) == 12 and len(done.left_out) == 10
    said = capsys.readouterr().out
    assert "10 skipped files, 6 of them such as images/p00.png (beside the folders of the" in said
    assert "4 of them such as preview/p0.png (in a folder that is not read" in said


def test_second_set_inside_the_first_is_listed(tmp_path):
    write_set(tmp_path, 12)
    write_set(tmp_path / "old", 4)
    collection = read_folder(tmp_path)
    assert collection.splits["train"].number == 12 and len(collection.skipped) == 8


def test_carvana_as_downloaded(tmp_path):
    """test/ has no masks."""
    write_set(tmp_path, 12, image="train/p{:02}.png", mask="train_masks/p{:02}_mask.gif")
    for k in range(3):
        save(tmp_path / f"test/q{k}.png", stripes(k, 3)[0])
    collection = read_folder(tmp_path)
    assert held(collection) == {"train": 12} and not collection.faults
    assert collection.skipped == [
        (f"test/q{k}.png", "of a split that has no masks") for k in (0, 1, 2)
    ]


def test_pictures_of_voc_without_a_mask_are_listed(tmp_path):
    write_set(tmp_path, 12, image="JPEGImages/p{:02}.png", mask="SegmentationClass/p{:02}.png")
    (tmp_path / "SegmentationClass/p03.png").unlink()
    collection = read_folder(tmp_path)
    assert collection.skipped == [("JPEGImages/p03.png", "no mask in SegmentationClass")]


# --- files that name classes --------------------------------------------------------------


def test_roboflow_as_exported(tmp_path):
    """X.jpg beside X_mask.png, with _classes.csv in each split; one class is never drawn."""
    for split, number in (("train", 12), ("valid", 4)):
        write_set(
            tmp_path / "set",
            number,
            image=f"{split}/p{{:02}}_jpg.rf.5d41402a.jpg",
            mask=f"{split}/p{{:02}}_jpg.rf.5d41402a_mask.png",
        )
        (tmp_path / "set" / split / "_classes.csv").write_text(
            "Pixel Value, Class\r\n0, background\r\n1, cat\r\n2, dog, brown\r\n3, never\r\n"
        )
    (tmp_path / "set/README.roboflow.txt").write_text("")
    done = prepare(tmp_path / "m", tmp_path / "set")
    assert done.classes.names == ("background", "cat", "dog") and done.counts["validation"] == 4
    assert done.left_out == ["class never: no mask holds it, skipped"]
    assert set(np.unique(done.all_masks)) == {0, 1, 2}


def test_camvid_with_its_table_of_colours(tmp_path):
    colours = np.array([(64, 128, 64), (192, 0, 128), (0, 0, 0)], np.uint8)
    for split, number in (("train", 12), ("val", 4), ("test", 4)):
        for k in range(number):
            image, mask = stripes(k, 3)
            save(tmp_path / f"set/{split}/p{k:02}.png", image)
            save(tmp_path / f"set/{split}_labels/p{k:02}_L.png", colours[mask])
    (tmp_path / "set/class_dict.csv").write_text(
        "name,r,g,b\nAnimal,64,128,64\nBus,1,2,3\nArchway,192,0,128\nVoid,0,0,0\n"
    )
    done = prepare(tmp_path / "m", tmp_path / "set")
    assert done.classes.names == ("Animal", "Archway", "Void")
    assert done.classes.colours == ((64, 128, 64), (192, 0, 128), (0, 0, 0))
    assert "class Bus: no mask holds it, skipped" in done.left_out
    red = np.asarray(done.all_images[..., 0], int)
    assert (np.abs(red - done.all_masks * 127.5) < 60).mean() > 0.9


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("_classes.csv", "a,b\n0\n", "the row '0' has fewer than 2 columns"),
        ("_classes.csv", "a,b\nx,y\n", "each row must be VALUE,NAME"),
        ("_classes.csv", "a,b\n0,y\n0,z\n", "two classes have the same value"),
        ("_classes.csv", "a,b\n0,y\n1,y\n", "the class 'y' is named twice"),
    ],
)
def test_faulty_file_of_classes_is_refused(name, text, message, tmp_path):
    write_set(tmp_path, 12)
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_folder(tmp_path)


def test_files_of_classes_that_differ_are_refused(tmp_path):
    for split, names in (("train", "0,a\n1,b\n"), ("val", "0,b\n1,a\n")):
        write_set(tmp_path, 12, image=f"{split}/p{{}}.png", mask=f"{split}/p{{}}_mask.png")
        (tmp_path / split / "_classes.csv").write_text(f"value,name\n{names}")
    with pytest.raises(UserError, match=r"train/_classes.csv and .*val/_classes.csv differ"):
        read_folder(tmp_path)


def test_folders_that_hold_no_pairs_are_no_layout(tmp_path):
    for k in range(4):
        save(tmp_path / f"train/p{k}.png", stripes(k, 3)[0])
    (tmp_path / "train/_annotations.coco.json").write_text(json.dumps({}))
    assert layout_of(tmp_path) is None


# --- folders that are not read ------------------------------------------------------------


def message_on(folder):
    with pytest.raises(UserError) as caught:
        registry.open_source(str(folder), None, (None, None), (32, 32), 7)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("a b/p{:02}.png", "drawn/p{:02}.png"),
        ("a b/p{:02}.png", "drawn/p{:02}_contours.png"),
    ],
)
def test_two_folders_of_other_names_are_suggested(image, mask, tmp_path):
    write_set(tmp_path / "set", 12, image=image, mask=mask)
    add_noise(tmp_path / "set/a b")
    message = message_on(tmp_path / "set")
    flags = shlex.split(message[message.index("--images") :])
    named = Folders(Path(flags[1]), Path(flags[3]))
    assert held(read_folder(tmp_path, named)) == {"train": 12}
    done = prepare(tmp_path / "m", None, *flags)
    assert sum(done.counts.values()) == 12 and not done.left_out


def test_supervisely_and_via_are_named_with_what_converts_them(tmp_path):
    ann = {"description": "", "size": {}, "objects": [{"classTitle": "a", "points": {}}]}
    meta = {"classes": [{"title": "a", "shape": "polygon"}], "tags": [], "projectType": "images"}
    for k in range(3):
        save(tmp_path / f"sly/ds/img/p{k}.jpg", stripes(k, 3)[0])
        (tmp_path / "sly/ds/ann").mkdir(exist_ok=True)
        (tmp_path / f"sly/ds/ann/p{k}.jpg.json").write_text(json.dumps(ann))
    expected = "a project of Supervisely, which is not read; export it there: Export to COCO"
    assert expected in message_on(tmp_path / "sly")
    (tmp_path / "sly/meta.json").write_text(json.dumps(meta))
    assert expected in message_on(tmp_path / "sly")
    via = {"p0.jpg123": {"filename": "p0.jpg", "regions": [{"shape_attributes": {}}]}}
    save(tmp_path / "via/p0.jpg", stripes(0, 3)[0])
    (tmp_path / "via/via_region_data.json").write_text(json.dumps(via))
    assert "VGG Image Annotator (VIA), which is not read; export it" in message_on(tmp_path / "via")


def test_folders_of_one_picture_and_its_mask_are_not_taken_for_two_folders(tmp_path):
    """case00/image.png, case00/mask.png: no two folders are images and masks."""
    write_set(tmp_path, 12, image="case{:02}/image.png", mask="case{:02}/mask.png")
    assert "is not a data set; a folder must have" in message_on(tmp_path)


def test_link_to_a_folder_of_the_set_is_not_read_twice(tmp_path):
    write_set(tmp_path / "set/a", 12)
    (tmp_path / "set/a/loop").symlink_to(tmp_path / "set")
    (tmp_path / "set/b").symlink_to(tmp_path / "set/a")
    assert held(read_folder(tmp_path / "set")) == {"train": 12}


@pytest.mark.parametrize(
    ("image", "mask"), [("p{:02}.png", "m/p{:02}.png"), ("i/p{:02}.png", "p{:02}.png")]
)
def test_named_folders_may_lie_in_each_other(image, mask, tmp_path):
    write_set(tmp_path, 12, image=image, mask=mask)
    named = Folders(*((tmp_path / name).parent for name in (image, mask)))
    collection = read_folder(tmp_path, named)
    assert held(collection) == {"train": 12} and not collection.faults


def test_one_folder_named_twice_without_masks_is_refused(tmp_path):
    write_set(tmp_path, 12, image="x/p{:02}.png", mask="x/q{:02}.png")
    with pytest.raises(
        UserError, match="has no transparency that could be its mask; tell masks by"
    ):
        read_folder(tmp_path, Folders(tmp_path / "x", tmp_path / "x"))
