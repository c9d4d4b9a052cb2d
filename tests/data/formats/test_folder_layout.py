"""Folders of pictures and masks: layouts, splits, pairing, and the list of skipped files."""

import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image

from pipeline.base.console import UserError
from pipeline.data.formats.folder_layout import read_folder
from pipeline.data.formats.folder_search import layout_of
from pipeline.data.sample_source import LISTED_TWICE, SAME_STEM, UNPAIRED
from tests.helpers.drawn_sets import prepare, save, stripes, with_palette, write_set


def names_of(collection):
    """Names of the images in each split."""
    return {
        split: [sample.image.content.name for sample in part.read()]
        for split, part in collection.splits.items()
    }


# --- layouts ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "masks"),
    [("images", "masks"), ("img_dir", "ann_dir"), ("images", "labels"), ("images", "annotations")],
)
def test_folder_without_splits_is_one_training_split(tmp_path, images, masks):
    write_set(tmp_path, 12, image=images + "/p{}.png", mask=masks + "/p{}.png")
    collection = read_folder(tmp_path)
    assert layout_of(tmp_path)[:2] == ((images,), (masks,))
    assert {split: len(names) for split, names in names_of(collection).items()} == {"train": 12}
    assert not collection.faults and not collection.skipped and len(collection.files()) == 24
    for sample in collection.splits["train"].read():
        image, mask = sample.image.fetch(), sample.mask.fetch()
        assert image.stem == mask.stem and mask.parent.name == masks
        assert (sample.image.name, sample.mask.name) == (str(image), str(mask))
        assert sample.id == f"{images}/{image.name}"


@pytest.mark.parametrize("order", ["images/train", "train/images"])
@pytest.mark.parametrize("validation", ["val", "valid", "validation"])
def test_splits_are_subfolders_or_parent_folders(tmp_path, order, validation):
    for split, number in (("train", 8), (validation, 3), ("test", 2)):
        images = order.replace("train", split)
        masks = images.replace("images", "masks")
        write_set(tmp_path, number, image=images + "/p{}.png", mask=masks + "/p{}.png")
    collection = read_folder(tmp_path)
    counts = {split: part.number for split, part in collection.splits.items()}
    assert counts == {"train": 8, "validation": 3, "test": 2} and not collection.faults


def test_split_without_its_masks_is_named(tmp_path):
    write_set(tmp_path, image="images/train/p{}.png", mask="masks/train/p{}.png")
    save(tmp_path / "images" / "test" / "p.png", stripes(0, 3)[0])
    with pytest.raises(
        UserError, match=r"images/test exists, but its masks .*masks/test do not; add them"
    ):
        read_folder(tmp_path)


def test_splits_without_training_are_refused(tmp_path):
    write_set(tmp_path, image="images/test/p{}.png", mask="masks/test/p{}.png")
    with pytest.raises(UserError, match="no training pictures; call their folder train"):
        read_folder(tmp_path)


def test_lists_of_names_are_splits(tmp_path):
    write_set(tmp_path, 12)
    (tmp_path / "train.txt").write_text("p00\np01.png\nimages/p02.png\n\n")
    (tmp_path / "val.txt").write_text("images/p03.png masks/p03.png\n")
    (tmp_path / "test.txt").write_text("p04\n")
    collection = read_folder(tmp_path)
    assert names_of(collection) == {
        "train": ["p00.png", "p01.png", "p02.png"],
        "validation": ["p03.png"],
        "test": ["p04.png"],
    }
    assert collection.skipped == [(f"images/p{k:02}.png", "in no list") for k in range(5, 12)]
    assert {"train.txt", "val.txt", "test.txt"} <= set(collection.files())


def test_name_in_two_lists_or_without_image_is_a_fault(tmp_path):
    write_set(tmp_path, 12)
    (tmp_path / "train.txt").write_text("p00\np01\nghost\n")
    (tmp_path / "val.txt").write_text("p01\n")
    unpaired, twice = read_folder(tmp_path).faults
    assert unpaired.kind == UNPAIRED and "train.txt lists ghost" in unpaired.text
    assert twice.kind == LISTED_TWICE and "p01 is in" in twice.text and "val.txt" in twice.text


# --- Pascal VOC and CVAT ------------------------------------------------------------------


@pytest.fixture
def voc(tmp_path):
    """14 images and 12 palette masks whose first rows are 255; the other images have no mask."""
    colours = [(0, 0, 0), (128, 0, 0), (0, 128, 0)] + [(9, 9, 9)] * 252 + [(224, 224, 192)]
    for k in range(14):
        image, mask = stripes(k, 3)
        mask[:2] = 255
        save(tmp_path / f"JPEGImages/v{k:02}.jpg", image)
        if k < 12:
            picture = with_palette(mask, colours)
            save(tmp_path / f"SegmentationClass/v{k:02}.png", picture)
    return tmp_path


def test_voc_lists_and_void(voc, tmp_path_factory):
    sets = voc / "ImageSets" / "Segmentation"
    sets.mkdir(parents=True)
    for name, numbers in (("train", range(8)), ("val", range(8, 12)), ("trainval", range(12))):
        (sets / f"{name}.txt").write_text("".join(f"v{k:02}\n" for k in numbers))
    done = prepare(tmp_path_factory.mktemp("voc"), voc, "--names", "background,plane,bike")
    assert done.counts == {"train": 6, "validation": 4, "test": 2}, "test is cut from train"
    assert done.classes.ignored and done.classes.colours[1] == (128, 0, 0)
    assert (done.all_masks[:, :2] == 255).all() and set(np.unique(done.all_masks[:, 2:])) == {
        *(0, 1, 2)
    }


def test_voc_without_lists_has_the_images_with_masks(voc):
    collection = read_folder(voc)
    assert collection.splits["train"].number == 12 and not collection.faults


@pytest.mark.parametrize("mode", ["P", "RGB"])
def test_labelmap_of_cvat_maps_colours(tmp_path, mode):
    """Class indices follow the order of the label map, not of the palette."""
    colours = [(10, 10, 200), (200, 10, 10), (224, 224, 192)]
    for k in range(12):
        image, mask = stripes(k, 2)
        mask[:4] = 2
        picture = with_palette(mask, colours)
        save(tmp_path / "cvat" / f"JPEGImages/c{k}.png", image)
        save(tmp_path / "cvat" / f"SegmentationClass/c{k}.png", picture.convert(mode))
    sets = tmp_path / "cvat" / "ImageSets" / "Segmentation"
    sets.mkdir(parents=True)
    (sets / "default.txt").write_text("".join(f"c{k}\n" for k in range(12)))
    (tmp_path / "cvat" / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nred:200,10,10::\nblue:10,10,200::\n"
    )
    done = prepare(tmp_path / "models", tmp_path / "cvat")
    assert done.classes.names == ("red", "blue") and done.classes.ignored
    assert done.classes.colours == ((200, 10, 10), (10, 10, 200))
    assert (done.all_masks[:, :4] == 255).all()
    red = done.all_images[:, 16, :, 0] > 127  # class 1 of `stripes` is red, which is class 0 here
    assert (done.all_masks[:, 16] == np.where(red, 0, 1)).mean() > 0.95


# --- names --------------------------------------------------------------------------------


def test_picture_suffixes_in_any_case(tmp_path):
    """WebP, BMP, TIFF, and .jfif, which browsers use for JPEG."""
    for k, suffix in enumerate((".jpg", ".webp", ".BMP", ".tif", ".jfif", ".JPG", ".PnG")):
        image, mask = stripes(k, 3)
        form = {"format": "JPEG"} if suffix == ".jfif" else {}
        save(tmp_path / f"images/p{k}{suffix}", image, **form)
        save(tmp_path / f"masks/p{k}{'.PNG' if k % 2 else '.bmp'}", mask)
    collection = read_folder(tmp_path)
    assert (
        collection.splits["train"].number == 7 and not collection.faults and not collection.skipped
    )


def test_names_pair_in_either_unicode_form(tmp_path):
    """macOS stores é as two characters (NFD), Linux as one (NFC)."""
    image, mask = stripes(0, 3)
    save(tmp_path / "images" / (unicodedata.normalize("NFD", "café") + ".png"), image)
    save(tmp_path / "masks" / (unicodedata.normalize("NFC", "café") + ".png"), mask)
    collection = read_folder(tmp_path)
    assert collection.splits["train"].number == 1 and not collection.faults


def test_dots_and_folders_within_names_are_kept(tmp_path):
    for name in ("a.b", "a.c", "day 1/a", "day 2/a"):
        image, mask = stripes(0, 3)
        save(tmp_path / "images" / f"{name}.png", image)
        save(tmp_path / "masks" / f"{name}.png", mask)
    collection = read_folder(tmp_path)
    assert collection.splits["train"].number == 4 and not collection.faults


def test_files_that_are_not_pictures_are_skipped_and_listed(tmp_path):
    """Files that macOS, Windows and evaluation.py write beside photographs."""
    write_set(tmp_path, 12)
    for kind in ("images", "masks"):
        for name in ("._p00.png", ".DS_Store", "Thumbs.db", "notes.txt"):
            (tmp_path / kind / name).write_bytes(b"\0\5\x16\7")
    for name in ("p00.overlay.png", "p00.png.classes.png", "p00.png.legend.png"):
        shutil.copy(tmp_path / "images" / "p00.png", tmp_path / "images" / name)
    collection = read_folder(tmp_path)
    assert collection.splits["train"].number == 12 and not collection.faults
    reasons = dict(collection.skipped)
    assert len(reasons) == 11
    assert reasons["images/._p00.png"] == "hidden"
    assert reasons["masks/Thumbs.db"] == "not the suffix of a picture"
    assert reasons["images/p00.png.legend.png"] == "drawn by evaluation.py"


def test_two_pictures_with_the_same_name_are_a_fault(tmp_path):
    write_set(tmp_path, 12)
    save(tmp_path / "images" / "p00.jpg", stripes(3, 3)[0])
    save(tmp_path / "masks" / "p01.bmp", stripes(3, 3)[1])
    collection = read_folder(tmp_path)
    assert collection.splits["train"].number == 10
    assert [fault.kind for fault in collection.faults] == [SAME_STEM] * 4
    images, masks = collection.faults[0].text, collection.faults[2].text
    assert "images/p00.jpg and" in images and "images/p00.png have the same name" in images
    assert "masks/p01.bmp and" in masks and "rename one of them" in masks


def test_image_without_mask_and_mask_without_image_are_named(tmp_path):
    write_set(tmp_path, 12)
    (tmp_path / "masks" / "p03.png").unlink()
    (tmp_path / "images" / "p07.png").unlink()
    collection = read_folder(tmp_path)
    assert collection.splits["train"].number == 10
    no_mask, no_image = collection.faults
    assert no_mask.kind == no_image.kind == UNPAIRED
    assert "images/p03.png has no mask of the same name; draw it, or remove" in no_mask.text
    assert "masks/p07.png has no image of the same name; add it, or remove" in no_image.text


def test_folder_and_broken_link_named_like_pictures_are_listed(tmp_path):
    """Reading them is a fault; see test_audit.py."""
    write_set(tmp_path, 12)
    for number in (3, 4):
        (tmp_path / "images" / f"p{number:02}.png").unlink()
    (tmp_path / "images" / "p03.png").mkdir()
    (tmp_path / "images" / "p04.png").symlink_to("../cache/gone.png")
    assert read_folder(tmp_path).splits["train"].number == 12


def test_unknown_layout_gives_none(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "images" / "a.png")
    assert layout_of(tmp_path) is None


def test_masks_folder_without_pictures_gives_none(tmp_path):
    """Such as annotations/ of a COCO export (JSON) or labels/ of a detection data set (text)."""
    write_set(tmp_path, 2, mask="annotations/p{:02}.png")
    assert layout_of(tmp_path)[:2] == (("images",), ("annotations",))
    shutil.rmtree(tmp_path / "annotations")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances.json").write_text("{}")
    assert layout_of(tmp_path) is None


def test_link_to_a_folder_that_is_read_already_is_not_followed(tmp_path):
    write_set(tmp_path, 3)
    (tmp_path / "images" / "again").symlink_to(tmp_path / "images")
    collection = read_folder(tmp_path)
    assert collection.splits["train"].number == 3 and not collection.faults
    assert collection.skipped == [("images/again", "a link to a folder that is read already")]


def test_link_to_another_folder_is_followed(tmp_path):
    write_set(tmp_path / "set", 3)
    for kind in ("images", "masks"):
        (tmp_path / "elsewhere" / kind).mkdir(parents=True)
        (tmp_path / "set" / kind / "more").symlink_to(tmp_path / "elsewhere" / kind)
    write_set(tmp_path / "elsewhere", 4)
    collection = read_folder(tmp_path / "set")
    assert collection.splits["train"].number == 7 and not collection.faults
    assert collection.skipped == []
