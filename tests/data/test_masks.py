"""Reading masks: grey levels, palettes and colours; mapping their values to classes."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from pipeline.data.image_reader import Unreadable
from pipeline.data.masks import COLOUR, GREY, INDEX, classify, open_mask, pack, unpack
from pipeline.data.palettes import colour_at
from tests.helpers.drawn_sets import trimap, with_palette
from tests.helpers.pictures import encoded, png_of_16_bits, stored_as

VALUES = np.array([[0, 1, 2, 2], [1, 1, 0, 2]], np.uint8)
COLOURS = [(0, 0, 0), (128, 0, 0), (0, 128, 0)]


def read(picture, form="png", meaning=INDEX, **options):
    return open_mask(encoded(picture, form, **options), "mask", meaning)


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
    assert mask.counts == {0: 2, 1: 3, 2: 3} and not mask.palette and not mask.lossy


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
    assert [colour_at(mask.palette, index) for index in range(3)] == COLOURS
    assert colour_at(mask.palette, 255) is None


@pytest.mark.parametrize("form", ["png", "gif", "im", "tiff"])
def test_greys_of_a_palette_are_read_as_values(form):
    """The four formats keep a palette of greys in four ways."""
    greys = [(5, 5, 5), (255, 255, 255), (0, 0, 0)]
    picture = with_palette(VALUES, greys)
    assert read(picture, form, meaning=INDEX).palette
    assert set(read(picture, form, meaning=GREY).counts) == {0, 5, 255}
    grey = read(picture, form, meaning=GREY)
    np.testing.assert_array_equal(values_of(grey), np.array([5, 255, 0])[VALUES])


def test_one_bit_mask_is_read_as_indices_or_as_black_and_white():
    one_bit = Image.fromarray(VALUES > 0)
    assert read(one_bit, meaning=INDEX).counts == {0: 2, 1: 6}
    assert read(one_bit, meaning=GREY).counts == {0: 2, 255: 6}


def test_bmp_with_a_palette_of_black_and_white_is_read_pixel_by_pixel():
    """Pillow takes its bytes for bits."""
    picture = with_palette(np.repeat(VALUES, 8, 1) > 0, [(0, 0, 0), (255, 255, 255)])
    mask = read(picture, "bmp")
    np.testing.assert_array_equal(values_of(mask), np.repeat(VALUES, 8, 1) > 0)


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
    mask = read(picture if mode == "P" else picture.convert(mode), meaning=COLOUR)
    assert set(mask.counts) == {pack(colour) for colour in COLOURS}


def test_value_255_can_be_a_class():
    mask = read(Image.fromarray(np.array([[0, 255, 7]], np.uint8)))
    assert np.asarray(classify(mask.picture, {0: 0, 7: 255, 255: 1})).tolist() == [[0, 1, 255]]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_value_without_a_class_is_an_error(kind):
    mask = read(Image.fromarray(np.array([[0, 1, 7]], kind)))
    with pytest.raises(ValueError, match="a value is not in the table"):
        classify(mask.picture, {0: 0, 1: 1})


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf])
@pytest.mark.filterwarnings("error")
def test_fractions_are_refused(value):
    with pytest.raises(Unreadable, match=r"mask holds fractions or NaN; save it as PNG with whole"):
        read(Image.fromarray(np.float32([[value, 1]])), "tiff")


# --- deeper than 8 bits, negative, huge ---------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (np.int32, [-9999, 0, 1]),
        (np.int32, [-(2**31), 0, 2**31 - 1]),
        (np.float32, [-9999, 0, 1]),
        (np.float32, [-(2.0**100), 0, 2.0**33]),
        (np.uint16, [0, 1, 65535]),
    ],
)
def test_any_whole_number_is_kept_and_can_be_ignored(kind, values):
    array = np.array([values, values[::-1]], kind)
    mask = read(Image.fromarray(array), "tiff")
    whole = [int(value) for value in values]
    assert mask.counts == dict.fromkeys(whole, 2)
    table = dict(zip(whole, (255, 0, 1)))
    classes = classify(mask.picture, table, mask.levels)
    assert np.asarray(classes).tolist() == [[255, 0, 1], [1, 0, 255]]


@pytest.mark.parametrize(("kind", "value"), [(np.uint32, 2**32 - 1), (np.int8, -1)])
def test_tiff_of_a_sign_that_pillow_mistakes(kind, value):
    """Pillow reads 32 bits without sign as with one, and 8 bits with a sign as without."""
    written_as = np.int32 if kind == np.uint32 else np.uint8
    data = encoded(Image.fromarray(np.array([[value, 0]], kind).view(written_as)), "tiff")
    signs = {k: struct.pack("<HHIHH", 339, 3, 1, k, 0) for k in (1, 2)}  # the tag SampleFormat
    if kind == np.uint32:
        assert signs[2] in data
        data = data.replace(signs[2], signs[1])
    else:
        data = encoded(Image.open(io.BytesIO(data)), "tiff", tiffinfo={339: 2})
        assert signs[2] in data
    assert open_mask(data, "mask").counts == {value: 1, 0: 1}


def test_sixteen_bit_colours_keep_their_low_bytes():
    values = np.array([[0, 1, 300, 65535]], np.uint16)
    grey = open_mask(png_of_16_bits(np.repeat(values[..., None], 3, -1)), "mask")
    assert grey.counts == {0: 1, 1: 1, 300: 1, 65535: 1}
    red = np.array([[[1, 0, 0], [200, 0, 0]]], np.uint16)
    for factor in (1, 257):  # 8-bit colours in 16 bits, as they are or scaled
        mask = open_mask(png_of_16_bits(red * factor), "mask")
        assert set(mask.counts) == {pack((1, 0, 0)), pack((200, 0, 0))}
    with pytest.raises(Unreadable, match="colours of more than 8 bits"):
        open_mask(png_of_16_bits(red * 300), "mask")


@pytest.mark.parametrize("white", [2, 200, 4095, 65535])
@pytest.mark.parametrize("plain", [False, True])
def test_pgm_keeps_its_numbers_whatever_white_its_header_names(white, plain):
    head = b"P%d # made up\n3 1\n%d\n" % (2 if plain else 5, white)
    kind = ">u2" if white > 255 else "u1"
    body = b"0 1 # one\n 2" if plain else np.array([0, 1, 2], kind).tobytes()
    assert open_mask(head + body, "mask").counts == {0: 1, 1: 1, 2: 1}


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_sgi_of_16_bits_keeps_its_numbers(mode):
    picture = Image.fromarray(VALUES).convert(mode)
    stored = open_mask(encoded(picture, "sgi", bpc=2), "mask")
    assert stored.counts == {0: 2, 256: 3, 512: 3}, "Pillow writes the high byte"


# --- lossy formats, EXIF ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "options", "name"),
    [
        ("jpeg", {}, "JPEG"),
        ("mpo", {}, "JPEG"),
        ("webp", {"quality": 80}, "lossy WebP"),
        ("webp", {"lossless": True}, ""),
        ("avif", {}, "AVIF"),
        ("jpeg2000", {}, "JPEG 2000"),
        ("tiff", {"compression": "jpeg"}, "JPEG inside TIFF"),
        ("tiff", {"compression": "tiff_lzw"}, ""),
        ("dds", {"pixel_format": "DXT1"}, "DDS with block compression"),
        ("dds", {}, ""),
        ("png", {}, ""),
    ],
)
def test_lossy_compression_is_found_by_content(form, options, name):
    picture = Image.fromarray(np.repeat(np.repeat(VALUES, 8, 0), 8, 1)).convert("RGB")
    assert read(picture, form, **options).lossy == name


@pytest.mark.parametrize("lossless", [False, True])
def test_lossy_frame_of_a_webp_film_is_found(lossless):
    frames = [Image.fromarray(np.full((16, 16), k, np.uint8)).convert("RGB") for k in (0, 90)]
    data = encoded(frames[0], "webp", save_all=True, append_images=frames[1:], lossless=lossless)
    assert open_mask(data, "mask").lossy == ("" if lossless else "lossy WebP")


@pytest.mark.parametrize("form", ["png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_own_orientation_of_a_mask_is_obeyed(form, orientation):
    upright = Image.fromarray(VALUES).convert("RGB")
    data = stored_as(upright, orientation, form)
    mask = open_mask(data, "mask")
    np.testing.assert_array_equal(np.asarray(mask.picture), VALUES)
    assert mask.own == (0 if form == "tiff" and orientation == 1 else orientation)


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
