"""Cityscapes as it is downloaded, with the masks of its label ids or of its train ids."""

import numpy as np
import pytest

from pipeline.base.console import UserError
from pipeline.data.formats import registry
from pipeline.data.formats.cityscapes import read_cityscapes
from tests.helpers.drawn_sets import prepare, save, stripes

IDS = np.array([7, 8, 26, 4])  # road, sidewalk, car; static, which is no class
TRAIN_IDS = np.array([0, 1, 13, 255])


def write(folder, split, number, values, ending="labelIds"):
    """Pictures of four stripes; red grows with the number of the stripe."""
    for k in range(number):
        image, mask = stripes(k, 4)
        name = f"aachen/aachen_{k:06}_000019"
        save(folder / f"leftImg8bit/{split}/{name}_leftImg8bit.png", image)
        save(folder / f"gtFine/{split}/{name}_gtFine_{ending}.png", values[mask].astype(np.uint8))
        save(folder / f"gtFine/{split}/{name}_gtFine_color.png", image)
        save(folder / f"gtFine/{split}/{name}_gtFine_instanceIds.png", mask)
        (folder / f"gtFine/{split}/{name}_gtFine_polygons.json").write_text('{"objects": []}')


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds", "both"])
def test_masks_are_the_classes_that_are_evaluated(kind, tmp_path):
    folder = tmp_path / "set"
    for split, number in (("train", 12), ("val", 4)):
        if kind != "labelTrainIds":
            write(folder, split, number, IDS)
        if kind != "labelIds":
            write(folder, split, number, TRAIN_IDS, "labelTrainIds")
    write(folder, "test", 3, np.array([0, 1, 2, 3]))
    assert registry.format_of(str(folder)) == registry.MODULES["Cityscapes"]
    done = prepare(tmp_path / "m", folder)
    assert done.classes.names == ("road", "sidewalk", "car") and done.classes.ignored
    assert done.classes.colours == ((128, 64, 128), (244, 35, 232), (0, 0, 142))
    assert done.counts == {"train": 10, "validation": 4, "test": 2}
    assert (
        sum("of the test split, whose masks hold no class" in line for line in done.left_out) == 3
    )
    assert len(done.left_out) == 3 + 16
    stripe = np.rint(done.all_images[..., 0] / 85).astype(int)
    expected = np.array([0, 1, 2, 255])[stripe]
    assert (done.all_masks == expected).mean() > 0.9


def test_test_split_with_labels_is_kept(tmp_path):
    for split, number in (("train", 9), ("test", 3)):
        write(tmp_path, split, number, IDS)
    assert read_cityscapes(tmp_path).splits["test"].number == 3


def test_folder_of_another_split_is_listed(tmp_path):
    write(tmp_path, "train", 3, IDS)
    write(tmp_path, "train_extra", 2, IDS)
    reasons = read_cityscapes(tmp_path).skipped
    assert [why for _, why in reasons] == ["train_extra/ is none of train, val, test"] * 2


def test_polygons_alone_are_named_with_what_draws_them(tmp_path):
    write(tmp_path, "train", 3, IDS)
    for path in (tmp_path / "gtFine").rglob("*labelIds.png"):
        path.unlink()
    with pytest.raises(UserError, match=r"has no masks that end in .*csCreateTrainIdLabelImgs"):
        read_cityscapes(tmp_path)


def test_image_without_a_mask_is_a_fault(tmp_path):
    write(tmp_path, "train", 3, IDS)
    next((tmp_path / "gtFine").rglob("*_000001_*labelIds.png")).unlink()
    (fault,) = read_cityscapes(tmp_path).faults
    assert "aachen_000001_000019_leftImg8bit.png has no mask of the same name" in fault.text
