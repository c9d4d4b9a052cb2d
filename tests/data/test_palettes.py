"""What an index of an indexed mask means is decided for the whole set: by index or by colour."""

import numpy as np
import pytest
from PIL import Image

from pipeline.base.console import UserError
from tests.helpers.drawn_sets import prepare, save, stripes, with_palette, write_set

BINARY = ("--label-mapping", "0:0,255:1")


def grey_set(folder, order, form="png", values=(0, 255)):
    """A set of `stripes` whose masks are indexed; `order(k)` lists the greys of mask k by index."""
    for k in range(12):
        image, truth = stripes(k, len(values))
        save(folder / f"images/p{k:02}.png", image)
        greys = order(k)
        indices = np.array([greys.index(value) for value in values], np.uint8)[truth]
        picture = with_palette(indices, [(grey,) * 3 for grey in greys])
        save(folder / f"masks/p{k:02}.{form}", picture)
    return folder


@pytest.fixture
def truth(tmp_path):
    """What the masks of two classes are as plain class indices."""
    return prepare(tmp_path / "truth", write_set(tmp_path / "plain", classes=2)).all_masks


@pytest.mark.parametrize("form", ["png", "gif", "tiff", "bmp", "pcx", "im", "tga"])
@pytest.mark.parametrize("flags", [BINARY, (*BINARY, "--names", "a,b")])
def test_greys_carry_the_meaning_where_palettes_differ(tmp_path, capsys, truth, form, flags):
    """Half of the palettes begin with white, as programs sort them by frequency."""
    folder = grey_set(tmp_path / "set", lambda k: [0, 255] if k % 2 else [255, 0], form)
    prepared = prepare(tmp_path / "m", folder, *flags)
    np.testing.assert_array_equal(prepared.all_masks, truth)
    said = "with palettes of greys that differ in what an index looks like; so the greys are the"
    assert said in capsys.readouterr().out


def test_remedy_for_differing_palettes_works_as_it_is_pasted(tmp_path, truth):
    folder = grey_set(tmp_path / "set", lambda k: [0, 255] if k % 2 else [255, 0])
    with pytest.raises(UserError, match="holds the value 255") as caught:
        prepare(tmp_path / "m", folder)
    flag, mapping = str(caught.value).split("map the values: ")[1].split()
    prepared = prepare(tmp_path / "m", folder, flag, mapping)
    np.testing.assert_array_equal(prepared.all_masks, truth)


@pytest.mark.parametrize("flags", [(), BINARY])
@pytest.mark.parametrize("first", [0, 255])
def test_equal_palettes_of_black_and_white_are_read_by_index_or_as_the_user_names_them(
    tmp_path, truth, first, flags
):
    folder = grey_set(tmp_path / "set", lambda k: [first, 255 - first])
    masks = prepare(tmp_path / "m", folder, *flags).all_masks
    np.testing.assert_array_equal(masks, 1 - truth if first and not flags else truth)


def test_greys_of_a_quantiser_are_read(tmp_path, truth):
    folder = write_set(tmp_path / "set", classes=2)
    for path in (folder / "masks").iterdir():
        grey = Image.fromarray(np.asarray(Image.open(path)) * 255)
        save(path, grey.convert("RGB").quantize(2, Image.Quantize.MEDIANCUT))
    np.testing.assert_array_equal(prepare(tmp_path / "m", folder, *BINARY).all_masks, truth)


def test_shrunk_grey_masks_of_class_numbers_are_read_as_greys(tmp_path):
    plain = prepare(tmp_path / "truth", write_set(tmp_path / "plain", classes=3))
    folder = grey_set(tmp_path / "set", lambda k: [2, 0, 1], values=(0, 1, 2))
    prepared = prepare(tmp_path / "m", folder)
    np.testing.assert_array_equal(prepared.all_masks, plain.all_masks)


def void_set(folder, values):
    """Masks of 8 bits with `values`, but those of black and white only are stored with 1 bit."""
    for k in range(12):
        image, order = stripes(k, 3)
        mask = np.array(values, np.uint8)[order]
        if k % 3 == 0:
            mask = np.where(order == 2, 255, 0).astype(np.uint8)
        save(folder / f"images/p{k:02}.png", image)
        picture = Image.fromarray(mask)
        save(folder / f"masks/p{k:02}.png", picture.convert("1") if k % 3 == 0 else picture)
    return folder


def test_white_of_one_bit_masks_is_255_where_the_others_hold_255(tmp_path, capsys):
    folder = void_set(tmp_path / "set", (0, 128, 255))
    prepared = prepare(tmp_path / "m", folder, "--label-mapping", "0:0,128:1,255:ignore")
    values = [set(np.unique(mask)) for mask in prepared.all_masks]
    assert values.count({0, 255}) == 4 and values.count({0, 1, 255}) == 8
    assert "4 masks are indexed" in capsys.readouterr().out


def test_one_bit_masks_are_refused_where_white_may_be_1_or_255(tmp_path):
    folder = void_set(tmp_path / "set", (0, 1, 255))
    with pytest.raises(UserError, match=r"4 masks .* index 1 looks like the grey 255") as caught:
        prepare(tmp_path / "m", folder, "--ignore-index", "255")
    mapping = str(caught.value).split("--label-mapping ")[1].replace("255:2", "255:ignore")
    prepared = prepare(tmp_path / "m", folder, "--label-mapping", mapping)
    assert [set(np.unique(mask)) for mask in prepared.all_masks].count({0, 255}) == 4


def test_one_bit_masks_beside_class_indices_stay_class_indices(tmp_path):
    folder = write_set(tmp_path / "set", classes=2)
    expected = prepare(tmp_path / "truth", folder).all_masks
    for path in sorted((folder / "masks").iterdir())[::2]:
        save(path, Image.fromarray(np.asarray(Image.open(path)) > 0))
    np.testing.assert_array_equal(prepare(tmp_path / "m", folder).all_masks, expected)


# --- palettes of colours ------------------------------------------------------------------

COLOURS = [(0, 0, 0), (200, 0, 0), (0, 200, 0)]


def colour_set(folder, order):
    """Masks of three colours; `order(k)` lists the classes of mask k by index."""
    for k in range(12):
        image, truth = stripes(k, 3)
        indices = np.argsort(order(k)).astype(np.uint8)[truth]
        save(folder / f"images/p{k:02}.png", image)
        save(folder / f"masks/p{k:02}.png", with_palette(indices, [COLOURS[c] for c in order(k)]))
    return folder


def test_mapping_in_the_message_on_differing_colours_works(tmp_path):
    expected = prepare(tmp_path / "truth", colour_set(tmp_path / "plain", lambda k: [0, 1, 2]))
    folder = colour_set(tmp_path / "set", lambda k: [0, 1, 2] if k % 4 else [2, 0, 1])
    with pytest.raises(UserError, match=r"most other masks.* \(3 such faults\)") as caught:
        prepare(tmp_path / "m", folder)
    mapping = str(caught.value).split("--label-mapping ")[1].split()[0]
    prepared = prepare(tmp_path / "m", folder, "--label-mapping", mapping)
    np.testing.assert_array_equal(prepared.all_masks, expected.all_masks)


def test_a_colour_at_two_indices_is_a_contradiction(tmp_path):
    """A shrunk palette without red: its index 1 is green, which is 2 in the others."""
    folder = colour_set(tmp_path / "set", lambda k: [0, 1, 2])
    green = np.repeat(np.array([[0, 0, 1, 1]], np.uint8), 4, 0).repeat(8, 0).repeat(10, 1)
    save(folder / "masks/p03.png", with_palette(green, [COLOURS[0], COLOURS[2]]))
    with pytest.raises(UserError, match=r"value 1 has the colour 0,200,0 in .*p03\.png"):
        prepare(tmp_path / "m", folder)


def test_palettes_that_differ_in_unused_entries_agree(tmp_path):
    folder = colour_set(tmp_path / "set", lambda k: [0, 1, 2])
    expected = prepare(tmp_path / "truth", folder).all_masks
    for k, path in enumerate(sorted((folder / "masks").iterdir())):
        save(path, with_palette(np.asarray(Image.open(path)), [*COLOURS, (k, 9, 9), (0, 0, 0)]))
    np.testing.assert_array_equal(prepare(tmp_path / "m", folder).all_masks, expected)
