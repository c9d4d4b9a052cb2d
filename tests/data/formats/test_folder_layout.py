"""Folders of pictures and masks: every layout, every way of pairing, everything left out said."""

import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image

from pipeline.base.console import UserError
from pipeline.data.formats.folder_layout import layout_of, read_folder
from pipeline.data.sample_source import LISTED_TWICE, SAME_STEM, UNPAIRED
from tests.helpers.drawn_sets import prepare, save, stripes, with_palette, write_set


def names_of(collection):
    """By split, the names of the images that have a mask."""
    return {
        split: [example.image.name for example in part.read()]
        for split, part in collection.splits.items()
    }


# --- layouts ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "masks"),
    [("images", "masks"), ("img_dir", "ann_dir"), ("images", "labels"), ("images", "annotations")],
)
def test_flat_folder_is_all_training_at_first(tmp_path, images, masks):
    write_set(tmp_path, 12, image=images + "/p{}.png", mask=masks + "/p{}.png")
    found = read_folder(tmp_path)
    assert layout_of(tmp_path) == (images, masks)
    assert {split: len(names) for split, names in names_of(found).items()} == {"train": 12}
    assert not found.faults and not found.skipped and len(found.files()) == 24
    for image, mask, *names in found.splits["train"].read():
        assert image.stem == mask.stem and mask.parent.name == masks
        assert names == [str(image), str(mask), f"{images}/{image.name}"]


@pytest.mark.parametrize("order", ["images/train", "train/images"])
@pytest.mark.parametrize("validation", ["val", "valid", "validation"])
def test_splits_are_folders_below_or_around(tmp_path, order, validation):
    for split, number in (("train", 8), (validation, 3), ("test", 2)):
        place = order.replace("train", split)
        mask = place.replace("images", "masks")
        write_set(tmp_path, number, image=place + "/p{}.png", mask=mask + "/p{}.png")
    found = read_folder(tmp_path)
    counts = {split: part.number for split, part in found.splits.items()}
    assert counts == {"train": 8, "validation": 3, "test": 2} and not found.faults


def test_split_without_its_masks_is_named(tmp_path):
    write_set(tmp_path, image="images/train/p{}.png", mask="masks/train/p{}.png")
    (tmp_path / "images" / "test").mkdir()
    with pytest.raises(UserError, match=r"images/test is there, and .*masks/test is not"):
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
    found = read_folder(tmp_path)
    assert names_of(found) == {
        "train": ["p00.png", "p01.png", "p02.png"],
        "validation": ["p03.png"],
        "test": ["p04.png"],
    }
    assert found.skipped == [(f"images/p{k:02}.png", "in no list") for k in range(5, 12)]
    assert {"train.txt", "val.txt", "test.txt"} <= set(found.files())


def test_name_in_two_lists_or_of_nothing_is_a_fault(tmp_path):
    write_set(tmp_path, 12)
    (tmp_path / "train.txt").write_text("p00\np01\nghost\n")
    (tmp_path / "val.txt").write_text("p01\n")
    unpaired, twice = read_folder(tmp_path).faults
    assert unpaired.kind == UNPAIRED and "train.txt names ghost" in unpaired.text
    assert twice.kind == LISTED_TWICE and "p01 is in" in twice.text and "val.txt" in twice.text


# --- Pascal VOC and CVAT ------------------------------------------------------------------


@pytest.fixture
def voc(tmp_path):
    """14 pictures, 12 of them with palette masks whose edges are 255; the rest have boxes only."""
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
    assert done.counts == {"train": 6, "validation": 4, "test": 2}, "test comes out of train"
    assert done.classes.ignored and done.classes.colours[1] == (128, 0, 0)
    assert (done.all_masks[:, :2] == 255).all() and set(np.unique(done.all_masks[:, 2:])) == {
        *(0, 1, 2)
    }


def test_voc_without_lists_is_what_has_masks(voc):
    found = read_folder(voc)
    assert found.splits["train"].number == 12 and not found.faults


@pytest.mark.parametrize("mode", ["P", "RGB"])
def test_labelmap_of_cvat_maps_colours(tmp_path, mode):
    """The order of the label map counts, not that of the palette."""
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
    red = done.all_images[:, 16, :, 0] > 127  # in `stripes` class 1 is red, which here is 0
    assert (done.all_masks[:, 16] == np.where(red, 0, 1)).mean() > 0.95


# --- names --------------------------------------------------------------------------------


def test_every_suffix_in_any_case_is_a_picture(tmp_path):
    """WebP, BMP, TIFF, and .jfif, as browsers save a JPEG."""
    for k, suffix in enumerate((".jpg", ".webp", ".BMP", ".tif", ".jfif", ".JPG", ".PnG")):
        image, mask = stripes(k, 3)
        form = {"format": "JPEG"} if suffix == ".jfif" else {}
        save(tmp_path / f"images/p{k}{suffix}", image, **form)
        save(tmp_path / f"masks/p{k}{'.PNG' if k % 2 else '.bmp'}", mask)
    found = read_folder(tmp_path)
    assert found.splits["train"].number == 7 and not found.faults and not found.skipped


def test_names_pair_whichever_way_their_accents_are_written(tmp_path):
    """macOS writes é as e and an accent, Linux as one letter."""
    image, mask = stripes(0, 3)
    save(tmp_path / "images" / (unicodedata.normalize("NFD", "café") + ".png"), image)
    save(tmp_path / "masks" / (unicodedata.normalize("NFC", "café") + ".png"), mask)
    found = read_folder(tmp_path)
    assert found.splits["train"].number == 1 and not found.faults


def test_dots_and_folders_within_names_are_kept(tmp_path):
    for name in ("a.b", "a.c", "day 1/a", "day 2/a"):
        image, mask = stripes(0, 3)
        save(tmp_path / "images" / f"{name}.png", image)
        save(tmp_path / "masks" / f"{name}.png", mask)
    found = read_folder(tmp_path)
    assert found.splits["train"].number == 4 and not found.faults


def test_what_is_no_picture_is_passed_over_and_listed(tmp_path):
    """What macOS, Windows and evaluation.py leave beside photographs."""
    write_set(tmp_path, 12)
    for kind in ("images", "masks"):
        for name in ("._p00.png", ".DS_Store", "Thumbs.db", "notes.txt"):
            (tmp_path / kind / name).write_bytes(b"\0\5\x16\7")
    for name in ("p00.overlay.png", "p00.png.classes.png", "p00.png.legend.png"):
        shutil.copy(tmp_path / "images" / "p00.png", tmp_path / "images" / name)
    found = read_folder(tmp_path)
    assert found.splits["train"].number == 12 and not found.faults
    reasons = dict(found.skipped)
    assert len(reasons) == 11
    assert reasons["images/._p00.png"] == "hidden"
    assert reasons["masks/Thumbs.db"] == "no picture by its suffix"
    assert reasons["images/p00.png.legend.png"] == "drawn by evaluation.py"


def test_two_pictures_of_one_name_are_told_apart_by_nobody(tmp_path):
    write_set(tmp_path, 12)
    save(tmp_path / "images" / "p00.jpg", stripes(3, 3)[0])
    save(tmp_path / "masks" / "p01.bmp", stripes(3, 3)[1])
    found = read_folder(tmp_path)
    assert found.splits["train"].number == 10
    assert [fault.kind for fault in found.faults] == [SAME_STEM] * 4
    images, masks = found.faults[0].text, found.faults[2].text
    assert "images/p00.jpg and" in images and "images/p00.png have one name" in images
    assert "masks/p01.bmp and" in masks and "rename one of them" in masks


def test_image_without_mask_and_mask_without_image_are_named(tmp_path):
    write_set(tmp_path, 12)
    (tmp_path / "masks" / "p03.png").unlink()
    (tmp_path / "images" / "p07.png").unlink()
    found = read_folder(tmp_path)
    assert found.splits["train"].number == 10
    no_mask, no_image = found.faults
    assert no_mask.kind == no_image.kind == UNPAIRED
    assert "images/p03.png has no mask of the same name; draw it, or remove" in no_mask.text
    assert "masks/p07.png has no image of the same name; add it, or remove" in no_image.text


def test_folder_and_link_that_are_called_like_pictures_are_found(tmp_path):
    """And cannot be read later, by their names; see test_data_preparation."""
    write_set(tmp_path, 12)
    for number in (3, 4):
        (tmp_path / "images" / f"p{number:02}.png").unlink()
    (tmp_path / "images" / "p03.png").mkdir()
    (tmp_path / "images" / "p04.png").symlink_to("../cache/gone.png")
    assert read_folder(tmp_path).splits["train"].number == 12


def test_unknown_layout_is_none(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "images" / "a.png")
    assert layout_of(tmp_path) is None


def test_masks_folder_without_pictures_is_no_layout(tmp_path):
    """annotations/ of a COCO export holds a JSON, labels/ of a detection set text."""
    write_set(tmp_path, 2, mask="annotations/p{:02}.png")
    assert layout_of(tmp_path) == ("images", "annotations")
    shutil.rmtree(tmp_path / "annotations")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances.json").write_text("{}")
    assert layout_of(tmp_path) is None


def test_link_that_leads_back_is_not_followed(tmp_path):
    write_set(tmp_path, 3)
    (tmp_path / "images" / "again").symlink_to(tmp_path / "images")
    found = read_folder(tmp_path)
    assert found.splits["train"].number == 3 and not found.faults
    assert found.skipped == [("images/again", "a link to a folder")]
