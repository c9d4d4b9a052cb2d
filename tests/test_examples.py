"""One picture and its mask: any size and mode is taken, and every blemish is counted."""

from collections import Counter

import numpy as np
import pytest
from conftest import encoded, halves, photograph
from PIL import Image

from pipeline.artifacts import read_record
from pipeline.console import UserError
from pipeline.dataset import SPLITS, load_split
from pipeline.examples import NO_PET, ODD_SIZES, ODD_VALUES, UNREADABLE, decode, prepare_split

SIZE = 64
MODES = {
    "landscape": (500, 375, lambda image: encoded(image, quality=95)),
    "portrait": (333, 500, lambda image: encoded(image, quality=95)),
    "smaller than the square": (50, 40, lambda image: encoded(image, "png")),
    "RGBA": (500, 375, lambda image: encoded(image.convert("RGBA"), "png")),
    "palette": (333, 500, lambda image: encoded(image.quantize(), "png")),
    "palette, transparent": (
        333,
        500,
        lambda image: encoded(image.quantize(), "png", transparency=0),
    ),
    "CMYK": (500, 375, lambda image: encoded(image.convert("CMYK"), quality=95)),
}


# --- decoded ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_photograph_of_any_size_and_mode_keeps_its_colours_and_halves(mode):
    width, height, encode = MODES[mode]
    source = encode(photograph(width, height)), encoded(halves(width, height), "png")
    image, mask, blemishes = decode(lambda: source, SIZE)
    assert blemishes == []
    edge = SIZE * (width // 2) / width
    left, right = int(edge - 2), int(edge + 3)
    assert (mask[:, :left] == 0).all() and (mask[:, right:] == 1).all()
    assert set(np.unique(mask)) == {0, 1}
    assert np.abs(image[:, :left].astype(int) - (220, 40, 60)).max() <= 6
    assert np.abs(image[:, right:].astype(int) - (30, 90, 200)).max() <= 6


def test_grey_photograph_becomes_three_equal_channels():
    grey = photograph(500, 375).convert("L")
    source = encoded(grey, quality=95), encoded(halves(500, 375), "png")
    image, mask, _ = decode(lambda: source, SIZE)
    assert (image[..., 0] == image[..., 1]).all() and (image[..., 1] == image[..., 2]).all()
    assert abs(int(image[5, 5, 0]) - grey.getpixel((5, 5))) <= 3
    assert np.mean(mask == 0) == 0.5


def test_shrinking_averages_pixels_but_never_classes():
    """Fine stripes: the picture turns grey instead of flickering, no class appears in between."""
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    trimap = np.where(np.indices((512, 512)).sum(axis=0) % 2, 1, 3).astype(np.uint8)
    source = (
        encoded(Image.fromarray(stripes), "png"),
        encoded(Image.fromarray(trimap), "png"),
    )
    image, mask, _ = decode(lambda: source, SIZE)
    assert np.abs(image.astype(int) - 127).max() <= 6
    assert set(np.unique(mask)) <= {0, 2}


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_mask_saved_in_another_mode_means_the_same(mode):
    trimap = halves(80, 60)
    if mode == "P":  # colours to look at; the values are the indices
        trimap.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    else:
        trimap = trimap.convert(mode)
    source = encoded(photograph(80, 60), "png"), encoded(trimap, "png")
    _, mask, blemishes = decode(lambda: source, SIZE)
    assert blemishes == []
    assert (mask == np.repeat([[0, 1]], SIZE // 2, axis=1)).all()


# --- counted ------------------------------------------------------------------------------


def test_audit_counts_every_blemish_and_keeps_what_can_be_used(folder, tmp_path):
    def trimap(values):
        return encoded(Image.fromarray(values.astype(np.uint8)), "png")

    picture, good = encoded(photograph(80, 60)), encoded(halves(80, 60), "png")
    for number in range(20):
        folder.add_plain(f"more{number}.png", 90 + number, 60)
    folder.add("unreadable image.jpg", b"no picture", good)
    folder.add("cut short.jpg", encoded(photograph(400, 300), quality=95)[:900], good)
    folder.add("unreadable mask.jpg", picture, good[:40])
    folder.add("zero.jpg", picture, trimap(np.zeros((60, 80))))
    folder.add("four.jpg", picture, trimap(np.full((60, 80), 4)))
    folder.add("grey levels.jpg", picture, trimap(np.asarray(halves(80, 60)) * 100))
    folder.add("no pet.jpg", picture, trimap(np.full((60, 80), 2)))
    folder.add("odd size.jpg", picture, encoded(halves(120, 60), "png"))
    folder.prepare(tmp_path / "models")
    facts = read_record(tmp_path / "models", "dataset")
    assert facts["metrics"]["audit"] == {UNREADABLE: 3, ODD_VALUES: 3, NO_PET: 1, ODD_SIZES: 1}
    masks = np.concatenate([load_split(tmp_path / "models", split)[1] for split in SPLITS])
    assert len(masks) == 32
    assert sum((mask != 0).all() for mask in masks) == 1


def test_examples_that_are_left_out_leave_no_gap():
    good = encoded(photograph(80, 60), "png"), encoded(halves(80, 60), "png")
    stream = [lambda: good, lambda: (b"no picture", good[1]), lambda: good]
    audit = Counter()
    images, masks = prepare_split(3, iter(stream), SIZE, "train", audit)
    assert audit == {UNREADABLE: 1}
    assert len(images) == len(masks) == 2
    assert (images[0] == images[1]).all() and (masks[0] == masks[1]).all()


def test_set_that_is_mostly_unusable_is_refused(folder, tmp_path):
    for path in sorted((folder.path / "images").iterdir())[:9]:
        path.write_bytes(b"no picture")
    expected = r"only \d of \d+ \w+ examples can be used: \d unreadable"
    with pytest.raises(UserError, match=expected):
        folder.prepare(tmp_path / "models")
    assert not (tmp_path / "models" / "dataset" / "dataset.json").exists()
