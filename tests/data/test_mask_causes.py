"""Why the values of masks are no classes: smooth resizing, numbers of objects, too many classes."""

import numpy as np
import pytest
from PIL import Image

from pipeline.base.console import UserError
from tests.helpers.drawn_sets import prepare, save, trimap, write_set


def discs(number, values, size=(96, 64)):
    """A mask with a disc of each value on 0; they do not touch."""
    random, (width, height) = np.random.default_rng(number), size
    y, x = np.mgrid[:height, :width]
    mask = np.zeros((height, width), np.uint8)
    for k, value in enumerate(values):
        cx = (k + 0.5) * width / len(values) + random.uniform(-4, 4)
        cy = height / 2 + random.uniform(-8, 8)
        mask[np.hypot(x - cx, y - cy) < random.uniform(8, min(14, width / len(values) / 2 - 4))] = (
            value
        )
    return mask


def write(folder, masks, resampling=None, factor=2):
    for k, mask in enumerate(masks):
        picture = Image.fromarray(mask)
        if resampling is not None:
            size = (picture.width * factor, picture.height * factor)
            picture = picture.resize(size, resampling)
        save(folder / f"masks/p{k:02}.png", picture)
        save(folder / f"images/p{k:02}.png", Image.new("RGB", picture.size, (9 * k, 90, 90)))
    return folder


SMOOTH = [
    *((Image.Resampling.BILINEAR, factor) for factor in (2, 3, 5)),
    *((Image.Resampling.BICUBIC, factor) for factor in (3, 5)),  # by 2, hardly a value changes
    (Image.Resampling.LANCZOS, 3),
]


@pytest.mark.parametrize(("resampling", "factor"), SMOOTH)
def test_masks_resized_smoothly_are_noted(resampling, factor, tmp_path, capsys):
    folder = write(tmp_path / "set", [discs(k, (1, 2)) for k in range(12)], resampling, factor)
    prepare(tmp_path / "m", folder, "--names", "a,b,c")
    said = capsys.readouterr().out
    assert "note: 12 of 12 masks, such as" in said and "were probably resized smoothly" in said


def test_values_of_masks_resized_smoothly_have_that_cause(tmp_path):
    masks = [discs(k, (255, 255)) for k in range(12)]
    folder = write(tmp_path / "set", masks, Image.Resampling.BILINEAR, 4)
    with pytest.raises(UserError, match=r"masks hold .* values, as smooth resizing makes them"):
        prepare(tmp_path / "m", folder)


@pytest.mark.parametrize(
    "kind", ["drawn", "resized by nearest", "touching", "rim of another value"]
)
def test_other_masks_are_not_noted(kind, tmp_path, capsys):
    masks = [discs(k, (1, 2)) for k in range(12)]
    if kind == "touching":
        blocks = [np.random.default_rng(k).integers(0, 3, (8, 12), np.uint8) for k in range(12)]
        masks = [np.repeat(np.repeat(block, 8, 0), 8, 1) for block in blocks]
    if kind == "rim of another value":
        masks = [np.asarray(trimap(k)) - np.uint8(1) for k in range(12)]
    nearest = Image.Resampling.NEAREST if kind == "resized by nearest" else None
    prepare(tmp_path / "m", write(tmp_path / "set", masks, nearest), "--names", "a,b,c")
    assert "smoothly" not in capsys.readouterr().out


def test_numbers_of_objects_are_named(tmp_path):
    """Each mask counts its own objects: 3, 4 ... 60 of them."""
    masks = []
    for k in range(12):
        mask = np.zeros((64, 96), np.uint8)
        for number in range(3 + 5 * k):
            mask[number // 10 * 8 : number // 10 * 8 + 5, number % 10 * 9 : number % 10 * 9 + 6] = (
                number + 1
            )
        masks.append(mask)
    masks[0][mask == 9] = 0
    folder = write(tmp_path / "set", [*masks, masks[5] * np.uint8(3)])
    with pytest.raises(UserError, match=r"numbers of objects, it seems: each mask counts its own"):
        prepare(tmp_path / "m", folder)


def test_151_values_are_150_classes_and_none(tmp_path):
    """ADE20K as it comes. Said was: a photograph, or once saved as JPEG."""
    values = (np.arange(160) % 151).reshape(10, 16).astype(np.uint8)
    folder = write(tmp_path / "set", [np.repeat(np.repeat(values, 8, 0), 8, 1)] * 12)
    with pytest.raises(UserError, match=r"151 values, 0 to 150, .* --ignore-index 0$"):
        prepare(tmp_path / "m", folder)
    done = prepare(tmp_path / "m", folder, "--ignore-index", "0", "--image-size", "128x96")
    assert len(done.classes) == 150 and done.classes.ignored


def test_classes_one_to_k_are_no_objects(tmp_path):
    assert len(prepare(tmp_path / "m", write_set(tmp_path / "set", 12, 8)).classes) == 8
