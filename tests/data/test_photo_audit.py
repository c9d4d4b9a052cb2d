"""Deep photographs and fourth bands: decided for the whole set, said, and kept in the record."""

import numpy as np
import pytest
from PIL import Image

from pipeline.data.image_reader import open_photograph
from pipeline.data.photographs import PHOTO_RULES, rules_from, white_for
from tests.helpers.drawn_sets import prepare, save, stripes, write_set
from tests.helpers.pictures import encoded, png_of_16_bits


def photo_set(folder, encode):
    """A set of `stripes`, 32 x 32 pixels, whose photographs `encode` turns into files."""
    for k in range(12):
        image, mask = stripes(k, 3, 32, 32)
        save(folder / f"masks/p{k:02}.png", mask)
        (folder / "images").mkdir(exist_ok=True)
        # One suffix for all, as splits are cut by name; the content says what a file is.
        (folder / f"images/p{k:02}.png").write_bytes(encode(image))
    return folder


@pytest.fixture
def plain(tmp_path):
    """The arrays of the same set in 8 bits."""

    def encode(image):
        return encoded(Image.fromarray(image), "png")

    return prepare(tmp_path / "truth", photo_set(tmp_path / "plain", encode)).all_images


def deep(image, white):
    """8-bit values on the scale of a sensor, rounded up."""
    return ((image.astype(np.uint32) * white + 254) // 255).astype(np.uint16)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_colours_of_a_sensor_are_scaled_by_what_the_data_hold(tmp_path, capsys, plain, bits):
    white = 2**bits - 1
    folder = photo_set(tmp_path / "set", lambda image: png_of_16_bits(deep(image, white)))
    prepared = prepare(tmp_path / "m", folder)
    np.testing.assert_array_equal(prepared.all_images, plain)
    assert prepared.record["photos"] == {"white": white}
    assert f"so {white} ({bits} bits) counts as white in all" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["png", "tiff", "ppm"])
def test_dark_photograph_is_scaled_like_the_others(tmp_path, form):
    """One scale for all: a dark picture is not made brighter than it is."""

    def encode(image):
        dark = image[..., 0] // 16 if image[0, 0, 1] == 21 else image[..., 0]
        return encoded(Image.fromarray(deep(dark, 4095)), form)

    prepared = prepare(tmp_path / "m", photo_set(tmp_path / "set", encode))
    brightest = sorted(int(image.max()) for image in prepared.all_images)
    assert brightest == [15] + [255] * 11
    assert prepared.record["photos"] == {"white": 4095}


def test_white_that_pgm_headers_name_is_kept(tmp_path):
    """Files of 12 bits, the brightest of which holds 10."""

    def encode(image):
        values = deep(image[..., 0], 1023)
        return b"P5 32 32 4095\n" + values.astype(">u2").tobytes()

    prepared = prepare(tmp_path / "m", photo_set(tmp_path / "set", encode))
    assert prepared.record["photos"] == {"white": 4095} and prepared.all_images.max() == 63


def test_floating_point_photographs_have_one_scale(tmp_path, plain):
    def encode(image):
        return encoded(Image.fromarray(image[..., 0].astype(np.float32)), "tiff")

    prepared = prepare(tmp_path / "m", photo_set(tmp_path / "set", encode))
    np.testing.assert_array_equal(prepared.all_images[..., 0], plain[..., 0])
    assert prepared.record["photos"] == {"float_white": 255}


@pytest.mark.parametrize(("largest", "white"), [(1, 255), (256, 1023), (1024, 4095), (7e4, 65535)])
def test_white_is_the_smallest_sensor_range_that_holds_the_values(largest, white):
    assert white_for(largest) == white


def with_fourth_band(image, fourth):
    picture = Image.fromarray(image)
    picture.putalpha(Image.fromarray(fourth))
    return picture


@pytest.mark.parametrize("form", ["png", "tiff", "associated", "16 bits"])
def test_infrared_is_left_out_and_said(tmp_path, capsys, plain, form):
    infrared = np.linspace(5, 250, 32 * 32).reshape(32, 32).astype(np.uint8)

    def encode(image):
        if form == "16 bits":
            bands = np.concatenate([image, infrared[..., None]], -1)
            return png_of_16_bits(bands.astype(np.uint16) * 257)
        picture = with_fourth_band(image, infrared)
        if form == "associated":  # marked as premultiplied alpha
            return encoded(picture, "tiff", tiffinfo={338: 1})
        return encoded(picture, form)

    prepared = prepare(tmp_path / "m", photo_set(tmp_path / "set", encode))
    np.testing.assert_array_equal(prepared.all_images, plain)
    assert prepared.record["photos"]["alpha"] is False
    assert "12 photographs have a fourth band that is no transparency" in capsys.readouterr().out


def test_transparent_pixels_become_white_and_are_said(tmp_path, capsys, plain):
    alpha = np.full((32, 32), 255, np.uint8)
    alpha[:8] = 0
    alpha[8:10] = 128  # a soft edge

    def encode(image):
        return encoded(with_fourth_band(image, alpha), "png")

    prepared = prepare(tmp_path / "m", photo_set(tmp_path / "set", encode))
    assert (prepared.all_images[:, :8] == 255).all()
    np.testing.assert_array_equal(prepared.all_images[:, 10:], plain[:, 10:])
    assert prepared.record["photos"] == {"alpha": True}
    assert "12 photographs have transparent pixels, which become white" in capsys.readouterr().out


def test_ordinary_photographs_need_no_rules(tmp_path):
    prepared = prepare(tmp_path / "m", write_set(tmp_path / "set"))
    assert "photos" not in prepared.record


def test_stored_rules_are_those_of_the_data_set():
    assert rules_from({}) == PHOTO_RULES
    rules = rules_from({"white": 4095, "alpha": False, "a later field": 1})
    assert (rules.white, rules.float_white, rules.alpha) == (4095, 1, False)
    values = np.array([[0, 2048, 4095, 60000]], np.uint16)
    photo = open_photograph(encoded(Image.fromarray(values), "png"), "photo", rules)
    assert np.asarray(photo)[0, :, 0].tolist() == [0, 127, 255, 255]
