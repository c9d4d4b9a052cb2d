"""Reading masks: grey levels, palettes and colours; mapping their values to classes."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.data.image_reader import Unreadable
from pipeline.data.masks import classify, open_mask, pack, unpack
from tests.helpers.drawn_sets import trimap, with_palette
from tests.helpers.pictures import encoded

VALUES = np.array([[0, 1, 2, 2], [1, 1, 0, 2]], np.uint8)
COLOURS = [(0, 0, 0), (128, 0, 0), (0, 128, 0)]


def read(picture, form="png", **options):
    return open_mask(encoded(picture, form), "mask", **options)


def values_of(mask):
    assert mask.picture.mode in ("L", "I")
    return np.asarray(mask.picture)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "I", "I;16", "F"])
def test_grey_levels_of_every_mode_are_read_as_values(mode):
    picture = Image.fromarray(VALUES)
    if mode in ("I", "I;16"):
        kind = np.int32 if mode == "I" else np.uint16
        picture = Image.fromarray(VALUES.astype(kind))
    else:
        picture = picture.convert(mode)
    mask = read(picture, "tiff" if mode in ("I", "F") else "png")
    np.testing.assert_array_equal(values_of(mask), VALUES)
    assert mask.counts == {0: 2, 1: 3, 2: 3} and mask.palette == {} and not mask.jpeg


def test_sixteen_bit_values_are_kept():
    mask = read(Image.fromarray(np.array([[7, 26_001]], np.uint16)))
    assert mask.counts == {7: 1, 26_001: 1}
    classes = classify(mask.picture, {7: 0, 26_001: 1})
    assert classes.mode == "L" and np.asarray(classes).tolist() == [[0, 1]]


def test_one_bit_values_are_zero_and_one():
    mask = read(Image.fromarray(VALUES > 0))
    np.testing.assert_array_equal(values_of(mask), VALUES > 0)
    assert mask.counts == {0: 2, 1: 6}


def test_palette_mask_gives_indices_and_their_colours():
    mask = read(with_palette(VALUES, COLOURS))
    np.testing.assert_array_equal(values_of(mask), VALUES)
    assert mask.palette == dict(enumerate(COLOURS))
    only_ones = read(with_palette(VALUES * 0 + 1, COLOURS))
    assert only_ones.palette == {1: (128, 0, 0)}, "only values that occur"


def test_palette_of_reordered_greys_gives_the_greys():
    """Programs that shrink PNG files turn grey masks into such palettes."""
    reordered = read(with_palette(VALUES, [(2, 2, 2), (1, 1, 1), (3, 3, 3)]))
    np.testing.assert_array_equal(values_of(reordered), np.array([2, 1, 3])[VALUES])
    black_and_white = read(with_palette(VALUES > 0, [(0, 0, 0), (255, 255, 255)]))
    np.testing.assert_array_equal(values_of(black_and_white), VALUES > 0)
    assert reordered.palette == black_and_white.palette == {}


def test_colours_are_counted_and_classified():
    mask = read(with_palette(VALUES, COLOURS).convert("RGB"))
    assert mask.picture.mode == "RGB"
    assert mask.counts == {pack(colour): n for colour, n in zip(COLOURS, (2, 3, 3))}
    classes = classify(mask.picture, {pack(colour): 10 + k for k, colour in enumerate(COLOURS)})
    np.testing.assert_array_equal(np.asarray(classes), VALUES + 10)
    assert unpack(pack((1, 20, 255))) == (1, 20, 255)


@pytest.mark.parametrize("mode", ["P", "RGB", "RGBA"])
def test_by_colour_a_palette_mask_gives_colours(mode):
    picture = with_palette(VALUES, COLOURS)
    mask = read(picture if mode == "P" else picture.convert(mode), by_colour=True)
    assert set(mask.counts) == {pack(colour) for colour in COLOURS}


def test_value_255_can_be_a_class():
    mask = read(Image.fromarray(np.array([[0, 255, 7]], np.uint8)))
    assert np.asarray(classify(mask.picture, {0: 0, 7: 255, 255: 1})).tolist() == [[0, 1, 255]]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_value_without_a_class_is_an_error(kind):
    mask = read(Image.fromarray(np.array([[0, 1, 7]], kind)))
    with pytest.raises(ValueError, match="a value is not in the table"):
        classify(mask.picture, {0: 0, 1: 1})


def test_jpeg_is_detected_by_content():
    assert read(Image.fromarray(VALUES), "jpeg").jpeg
    assert not read(Image.fromarray(VALUES), "png").jpeg


def test_fractions_are_refused():
    with pytest.raises(
        Unreadable, match=r"mask holds fractions; save it as PNG with whole numbers"
    ):
        read(Image.fromarray(np.float32([[0.5, 1]])), "tiff")


def test_photograph_has_too_many_values_to_count():
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
    assert read(Image.fromarray(noise)).counts == {}


def test_edges_separate_jpeg_masks_from_drawn_masks():
    total = {"png": np.zeros(3), "jpeg": np.zeros(3)}
    for seed in range(8):
        drawn = trimap(seed)
        with Image.open(io.BytesIO(encoded(drawn, "jpeg"))) as picture:
            compressed = Image.fromarray(np.asarray(picture))
        total["png"] += read(drawn).edges
        total["jpeg"] += read(compressed).edges
    for form, grid, single in (("png", (0.05, 0.15), (0, 0.05)), ("jpeg", (0.2, 1), (0.12, 1))):
        changes, on_grid, isolated = total[form]
        assert changes > 300
        assert grid[0] <= on_grid / changes <= grid[1], form
        assert single[0] <= isolated / changes <= single[1], form
