"""Masks of photographs that EXIF data turn: drawn on them as they are stored or as shown."""

import numpy as np
import pytest
from PIL import Image

from pipeline.base.console import UserError
from pipeline.data.decoding import TURNS
from pipeline.data.orientation import (
    OWN,
    SHOWN,
    STORED,
    UNKNOWN,
    place,
    rule_for,
    same_shape,
    turned,
)
from tests.helpers.drawn_sets import prepare
from tests.helpers.pictures import encoded, stored_as


def test_same_shape_allows_scale_and_rounding():
    for other in ((480, 360), (481, 360), (240, 180), (239, 180), (960, 721), (48, 36), (53, 40)):
        assert same_shape((480, 360), other) and same_shape(other, (480, 360)), other
    for other in ((360, 480), (480, 362), (480, 480), (240, 190), (0, 0)):
        assert not same_shape((480, 360), other), other


@pytest.mark.parametrize(
    ("mask", "own", "photo", "orientation", "drawn_on"),
    [
        ((24, 16), 0, (24, 16), 1, ""),
        ((24, 16), 0, (16, 24), 6, SHOWN),
        ((16, 24), 0, (16, 24), 6, STORED),
        ((8, 12), 0, (16, 24), 8, STORED),
        ((24, 16), 0, (24, 16), 3, UNKNOWN),
        ((24, 16), 0, (24, 16), 2, UNKNOWN),
        ((16, 16), 0, (16, 16), 6, UNKNOWN),
        ((24, 16), 3, (24, 16), 3, OWN),
        ((24, 16), 1, (24, 16), 3, OWN),
        ((16, 24), 1, (16, 24), 6, STORED),
        ((24, 16), 6, (16, 24), 6, OWN),
    ],
)
def test_shape_or_own_orientation_tells_what_a_mask_was_drawn_on(
    mask, own, photo, orientation, drawn_on
):
    assert place(mask, own, photo, orientation) == (True, drawn_on)


def test_mask_of_another_shape_does_not_fit():
    assert not place((24, 24), 0, (16, 24), 6).fits
    assert not place((16, 24), 0, (24, 16), 1).fits, "no EXIF, no turn"
    assert not place((16, 24), 6, (16, 24), 6).fits, "turned by its own orientation"


@pytest.mark.parametrize("orientation", TURNS)
def test_mask_drawn_on_the_stored_pixels_is_turned_like_the_photograph(orientation):
    mask = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    expected = mask.transpose(TURNS[orientation]).tobytes()
    assert turned(mask, STORED, orientation, SHOWN).tobytes() == expected
    assert turned(mask, UNKNOWN, orientation, STORED).tobytes() == expected
    for drawn_on, rule in ((UNKNOWN, SHOWN), (SHOWN, STORED), (OWN, STORED)):
        assert turned(mask, drawn_on, orientation, rule) is mask


def test_rest_of_the_set_decides_where_nothing_tells():
    assert rule_for({UNKNOWN: 9}) == SHOWN
    assert rule_for({STORED: 2, SHOWN: 1, UNKNOWN: 9}) == STORED
    assert rule_for({STORED: 2, SHOWN: 3, UNKNOWN: 9}) == SHOWN


# --- whole sets ---------------------------------------------------------------------------

WIDTH, HEIGHT = 64, 32


def photo_and_mask(k, width, height):
    """A picture that every turn changes: its class 1 is red."""
    mask = np.zeros((height, width), np.uint8)
    mask[2 : 12 + k % 3, 3 : 20 + k % 5] = 1
    photo = np.stack([mask * 200, mask * 0 + 20, mask * 0 + 20], -1)
    return Image.fromarray(photo), Image.fromarray(mask)


def turned_set(folder, orientations, drawn_on, own=False, width=WIDTH):
    """A set whose photographs have these orientations in turn; masks are drawn as told."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for k in range(12):
        orientation = orientations[k % len(orientations)]
        photo, mask = photo_and_mask(k, width, HEIGHT)
        (folder / f"images/p{k:02}.png").write_bytes(stored_as(photo, orientation))
        stored = stored_as(mask, orientation)
        if not own and drawn_on == STORED:
            back = {6: 8, 8: 6}.get(orientation, orientation)
            stored = encoded(mask.transpose(TURNS[back]) if back in TURNS else mask, "png")
        elif not own:
            stored = encoded(mask, "png")
        (folder / f"masks/p{k:02}.png").write_bytes(stored)
    return folder


def agrees(prepared):
    """Whether the red pixels are those of class 1."""
    return ((prepared.all_images[..., 0] > 100) == (prepared.all_masks == 1)).all()


SIZE = ("--image-size", f"{WIDTH}x{HEIGHT}")


@pytest.mark.parametrize("orientations", [*[(k,) for k in range(1, 9)], tuple(range(1, 9))])
@pytest.mark.parametrize("width", [WIDTH, HEIGHT])
def test_own_orientation_of_masks_is_obeyed_without_a_note(tmp_path, capsys, orientations, width):
    folder = turned_set(tmp_path / "set", orientations, STORED, own=True, width=width)
    assert agrees(prepare(tmp_path / "m", folder, "--image-size", f"{width}x{HEIGHT}"))
    assert "nothing tells" not in capsys.readouterr().out


@pytest.mark.parametrize("drawn_on", [STORED, SHOWN])
def test_upside_down_and_mirrored_masks_follow_the_sideways_ones(tmp_path, capsys, drawn_on):
    folder = turned_set(tmp_path / "set", tuple(range(1, 9)), drawn_on)
    assert agrees(prepare(tmp_path / "m", folder, *SIZE))
    printed = capsys.readouterr().out
    assert "note: 6 photographs are turned or mirrored by their EXIF data, and nothing" in printed
    assert f"taken as {drawn_on}, like the others (4 drawn on the {drawn_on} ones)" in printed


@pytest.mark.parametrize("drawn_on", [STORED, SHOWN])
@pytest.mark.parametrize(("orientation", "width"), [(3, WIDTH), (2, WIDTH), (6, HEIGHT)])
def test_flag_says_what_masks_were_drawn_on_where_no_other_tells(
    tmp_path, capsys, drawn_on, orientation, width
):
    folder = turned_set(tmp_path / "set", (orientation,), drawn_on, width=width)
    size = ("--image-size", f"{width}x{HEIGHT}")
    assert agrees(prepare(tmp_path / "guess", folder, *size)) == (drawn_on == SHOWN)
    said = "taken as shown, as most labelling tools do; else: --mask-orientation stored"
    assert said in capsys.readouterr().out
    assert agrees(prepare(tmp_path / "m", folder, *size, "--mask-orientation", drawn_on))
    assert f"taken as {drawn_on}, as --mask-orientation says" in capsys.readouterr().out


def test_message_on_a_mask_that_its_own_orientation_turns_away_names_it(tmp_path):
    folder = turned_set(tmp_path / "set", (1,), SHOWN)
    mask = photo_and_mask(3, WIDTH, HEIGHT)[1]
    exif = Image.Exif()
    exif[0x0112] = 6
    (folder / "masks/p03.png").write_bytes(encoded(mask, "png", exif=exif.tobytes()))
    with pytest.raises(UserError, match=r"p03\.png has 32 x 64 .*EXIF orientation 6 of the mask"):
        prepare(tmp_path / "m", folder, *SIZE)
