"""Pictures at the size of a network, and where they are in it; values against NumPy's."""

import numpy as np
import pytest
from PIL import Image

from pipeline.data.fitting import FITS, FitRule, fit_image, fitted, fitted_box, rule_from

WHITE = (255, 255, 255)


def gradient(width=24, height=16):
    """A picture that every turn changes."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 10, y * 15, x * 0 + 60], -1).astype(np.uint8))


def test_stretch_resizes_to_the_whole_size():
    image = gradient(50, 40)
    expected = image.resize((64, 32), Image.Resampling.BILINEAR)
    assert fit_image(image, (32, 64), "stretch").tobytes() == expected.tobytes()
    assert fitted_box((50, 40), (32, 64), "stretch") == (0, 0, 64, 32)


@pytest.mark.parametrize("photo", [(40, 80), (80, 40), (64, 64), (1, 500), (333, 100)])
def test_pad_keeps_the_aspect_ratio_and_box_says_where_the_photograph_is(photo):
    image, size = Image.new("RGB", photo, WHITE), (32, 64)
    padded = np.asarray(fit_image(image, size, "pad"))
    left, top, right, bottom = fitted_box(photo, size, "pad")
    inside = np.zeros(size, bool)
    inside[top:bottom, left:right] = True
    assert padded.shape == (*size, 3)
    assert (padded[inside] == 255).all() and (padded[~inside] == 0).all()
    width, height = right - left, bottom - top
    assert width == 64 or height == 32
    exact = min(64 / photo[0], 32 / photo[1])
    assert abs(width - max(1, exact * photo[0])) <= 0.5
    assert abs(height - max(1, exact * photo[1])) <= 0.5
    assert abs(left - (64 - right)) <= 1 and abs(top - (32 - bottom)) <= 1
    mask = fit_image(image.getchannel(0), size, "pad", Image.Resampling.NEAREST, 9)
    assert (np.asarray(mask) == np.where(inside, 255, 9)).all()


@pytest.mark.parametrize("photo", [(40, 80), (80, 30), (64, 32)])
def test_crop_keeps_the_aspect_ratio_and_cuts_both_sides_equally(photo):
    left, top, right, bottom = fitted_box(photo, (32, 64), "crop")
    assert (right - left) / (bottom - top) == pytest.approx(2)
    assert left == pytest.approx(photo[0] - right) and top == pytest.approx(photo[1] - bottom)
    assert min(left, top) == 0 and min(left, top, photo[0] - right, photo[1] - bottom) >= 0
    image = gradient(*photo)
    box = tuple(round(edge) for edge in (left, top, right, bottom))
    cut = image.crop(box).resize((64, 32), Image.Resampling.NEAREST)
    cropped = fit_image(image, (32, 64), "crop", Image.Resampling.NEAREST)
    assert np.mean(np.asarray(cropped) != np.asarray(cut)) < 0.05


@pytest.mark.parametrize("photo", [(4032, 3024), (3024, 4032)])
def test_a_crop_whose_edge_is_rounded_stays_inside_the_photograph(photo):
    assert fit_image(Image.new("L", photo), (352, 352), "crop").size == (352, 352)
    assert min(fitted_box(photo, (352, 352), "crop")) == 0


# --- values, and the way back -----------------------------------------------------------------


def weights(start, end, length, size):
    """Of each pixel of a side for each of its result, by a triangle that shrinking widens."""
    scale = (end - start) / size
    width = max(1, scale)
    centres = start + (np.arange(size) + 0.5) * scale
    distances = (np.arange(length) + 0.5 - centres[:, None]) / width
    table = np.maximum(0, 1 - np.abs(distances))
    return table / table.sum(axis=1, keepdims=True)


def resized(pixels, box, size):
    """A box of an image (height, width, 3), at another size."""
    left, top, right, bottom = box
    rows = weights(top, bottom, pixels.shape[0], size[0])
    columns = weights(left, right, pixels.shape[1], size[1])
    return np.einsum("yh,hwc,xw->yxc", rows, pixels.astype(float), columns)


def by_hand(pixels, size, fit):
    """What a network of a height and a width takes of an image, as real numbers."""
    (height, width), (h, w) = size, pixels.shape[:2]
    if fit == "stretch":
        return resized(pixels, (0, 0, w, h), size)
    if fit == "crop":
        part_w, part_h = (
            (w, w * height / width) if w * height < h * width else (h * width / height, h)
        )
        x, y = (w - part_w) / 2, (h - part_h) / 2
        return resized(pixels, (x, y, x + part_w, y + part_h), size)
    scale = min(width / w, height / h)
    inner = max(1, round(h * scale)), max(1, round(w * scale))
    y, x = (height - inner[0]) // 2, (width - inner[1]) // 2
    result = np.zeros((*size, 3))
    result[y : y + inner[0], x : x + inner[1]] = resized(pixels, (0, 0, w, h), inner)
    return result


SIZES = [(7, 90), (90, 7), (1, 50), (50, 1), (2, 3), (1, 1), (61, 43), (200, 120), (48, 32)]


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("photo", SIZES, ids=str)
def test_values_are_those_of_a_triangle_filter(photo, fit):
    pixels = np.random.default_rng(5).integers(0, 256, (*photo[::-1], 3), np.uint8)
    image = fitted(Image.fromarray(pixels), (32, 48), FitRule(fit)).image
    expected = by_hand(pixels, (32, 48), fit)
    assert np.abs(np.asarray(image) - expected).max() <= 1.01  # rounded after each direction


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("photo", [*SIZES, (3, 4000), (4000, 3)], ids=str)
def test_part_and_box_lead_back_to_the_photograph(photo, fit):
    """The centre of each pixel of the part is found in the network's image where the fit put it."""
    seen = fitted(Image.new("RGB", photo), (32, 48), FitRule(fit))
    left, top, right, bottom = seen.part
    assert 0 <= left < right <= photo[0] and 0 <= top < bottom <= photo[1]
    whole = fitted_box(photo, (32, 48), fit)
    for start, end, first, last, length, size in (
        (left, right, seen.box[0], seen.box[2], photo[0], 48),
        (top, bottom, seen.box[1], seen.box[3], photo[1], 32),
    ):
        assert 0 <= first < last <= size
        axis = 0 if size == 48 else 1
        if fit == "crop":
            scale = size / (whole[axis + 2] - whole[axis])
            offset = -whole[axis] * scale
        else:
            assert (start, end) == (0, length)
            offset, scale = whole[axis], (whole[axis + 2] - whole[axis]) / length
        centres = offset + (np.arange(start, end) + 0.5) * scale
        found = first + (np.arange(end - start) + 0.5) * (last - first) / (end - start)
        assert np.abs(found - np.clip(centres, 0, size)).max() <= max(0.51 * scale, 1e-6)


def test_bars_have_the_value_that_the_rule_names():
    image = fitted(Image.new("RGB", (48, 16), WHITE), (32, 48), FitRule("pad", fill=7)).image
    assert (np.asarray(image)[:8] == 7).all() and (np.asarray(image)[8:24] == 255).all()


def test_rule_of_a_contract_is_read_back_and_other_keys_are_for_people():
    rule = FitRule("pad", fill=9)
    assert rule_from({**rule._asdict(), "meaning": "as it is"}) == rule
    assert rule_from({}) == FitRule("stretch", "bilinear", 0)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"fit": "tile"}, "fit 'tile', and stretch, pad, crop are known"),
        ({"fit": ["pad"]}, "fit .'pad'., and stretch"),
        ({"fit": "pad", "resampling": "bicubic"}, "resampling 'bicubic', and bilinear are known"),
        ({"fit": "pad", "fill": 300}, "fill 300, which is not 0 to 255"),
        ("pad", "a rule for pictures that is none: 'pad'"),
    ],
)
def test_rule_that_is_not_known_is_refused(stored, message):
    with pytest.raises(ValueError, match=message):
        rule_from(stored)
