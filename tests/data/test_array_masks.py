"""Masks as NumPy arrays, masks in transparency, and files of several pages."""

import numpy as np
import pytest
from PIL import Image

from pipeline.base.console import UserError
from pipeline.data.image_reader import Unreadable
from pipeline.data.masks import open_mask
from tests.helpers.drawn_sets import prepare, save, stripes, write_set


def with_arrays(folder, change, number=12):
    """A set whose masks are .npy files."""
    for k in range(number):
        image, mask = stripes(k, 3)
        save(folder / f"images/p{k:02}.png", image)
        (folder / "masks").mkdir(exist_ok=True)
        np.save(folder / f"masks/p{k:02}.npy", change(mask))
    return folder


def one_hot(mask):
    return mask[..., None] == np.arange(3)


CHANGES = {
    "uint8": lambda mask: mask,
    "int64": lambda mask: mask.astype(np.int64),
    "big endian": lambda mask: mask.astype(">i4"),
    "columns first": np.asfortranarray,
    "float": lambda mask: mask.astype(np.float32),
    "one layer": lambda mask: mask[..., None],
    "one layer first": lambda mask: mask[None].astype(np.int16),
    "one-hot": one_hot,
    "one-hot float, layers first": lambda mask: np.moveaxis(one_hot(mask), -1, 0).astype(float),
}


@pytest.mark.parametrize("change", CHANGES)
def test_arrays_are_the_masks_that_png_files_are(change, tmp_path):
    done = prepare(tmp_path / "m", with_arrays(tmp_path / "arrays", CHANGES[change]))
    other = prepare(tmp_path / "n", write_set(tmp_path / "png", 12))
    np.testing.assert_array_equal(done.all_masks, other.all_masks)
    assert not done.left_out


def test_array_of_colours_is_mapped_as_a_picture_is(tmp_path):
    colours = np.array([(0, 0, 0), (255, 0, 0), (9, 200, 7)], np.uint8)
    folder = with_arrays(tmp_path / "set", lambda mask: colours[mask])
    with pytest.raises(UserError, match=r"is a colour picture .* --label-mapping 9,200,7:0"):
        prepare(tmp_path / "m", folder)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros(9), r"has the shape \(9,\)"),
        (np.zeros((4, 5, 6, 7)), r"has the shape \(4, 5, 6, 7\)"),
        (np.zeros((4, 5), complex), "the type complex128"),
        (np.array([["a"]]), "the type <U1"),
        (np.full((4, 5), 0.5), "holds fractions or NaN"),
        (np.full((4, 5), np.nan), "holds fractions or NaN"),
        (np.array([[{}]], object), "cannot be read"),
        (np.full((4, 5, 3), 7), r"has the shape \(4, 5, 3\); save class numbers"),
        (np.zeros((0, 5)), r"has the shape \(0, 5\)"),
    ],
)
def test_array_that_is_no_mask_is_refused(array, reason, tmp_path):
    path = tmp_path / "p.npy"
    np.save(path, array)
    with pytest.raises(Unreadable, match=f"the mask .*{reason}"):
        open_mask(path, "the mask")


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"\x93NUMPY\1\0\x05\0{bad}", b"PK\3\4"])
def test_damaged_array_is_refused(content, tmp_path):
    path = tmp_path / "p.npy"
    path.write_bytes(content)
    with pytest.raises(Unreadable, match="the mask"):
        open_mask(path, "the mask")


def test_header_that_promises_too_much_is_refused(tmp_path):
    path = tmp_path / "p.npy"
    np.save(path, np.zeros((2, 2), np.uint8))
    path.write_bytes(path.read_bytes().replace(b"(2, 2)", b"(9999999, 9999999)"))
    with pytest.raises(Unreadable, match="the mask"):
        open_mask(path, "the mask")


# --- transparency -------------------------------------------------------------------------


def cut_out(kind, number):
    """A mask of two classes in transparency."""
    image, mask = stripes(number, 2)
    noise = np.random.default_rng(number).integers(0, 256, (*mask.shape, 3), np.uint8)
    colours = {"black": image * 0, "white": image * 0 + 255, "photograph": noise}[kind]
    picture = Image.fromarray(colours)
    picture.putalpha(Image.fromarray(mask * np.uint8(255)))
    return picture


@pytest.mark.parametrize("kind", ["black", "white", "photograph"])
def test_masks_that_differ_in_transparency_only(kind, tmp_path, capsys):
    for k in range(12):
        save(tmp_path / f"set/images/p{k:02}.png", stripes(k, 2)[0])
        save(tmp_path / f"set/masks/p{k:02}.png", cut_out(kind, k))
    done = prepare(tmp_path / "m", tmp_path / "set", "--names", "a,b")
    assert "note: 12 masks differ in transparency only" in capsys.readouterr().out
    other = prepare(tmp_path / "n", write_set(tmp_path / "png", 12, classes=2))
    np.testing.assert_array_equal(done.all_masks, other.all_masks)


def test_soft_edges_and_empty_masks_in_transparency(tmp_path):
    for k in range(12):
        image, mask = stripes(k, 2)
        save(tmp_path / f"set/images/p{k:02}.png", image)
        alpha = Image.fromarray(mask * np.uint8(255)).resize((80, 64), Image.Resampling.BILINEAR)
        picture = Image.new("LA", (80, 64))
        picture.putalpha(alpha if k else alpha.point([0] * 256))
        save(tmp_path / f"set/masks/p{k:02}.png", picture)
    done = prepare(tmp_path / "m", tmp_path / "set")
    assert len(done.classes) == 2
    assert sorted(mask.mean().round(1) for mask in done.all_masks) == [0, *[0.5] * 11]


def test_pictures_that_are_their_own_masks(tmp_path):
    for k in range(12):
        save(tmp_path / f"cut/p{k:02}.png", cut_out("photograph", k))
    done = prepare(tmp_path / "m", None, "--images", tmp_path / "cut", "--masks", tmp_path / "cut")
    other = prepare(tmp_path / "n", write_set(tmp_path / "png", 12, classes=2))
    assert done.counts == other.counts
    assert sorted(map(bytes, done.all_masks)) == sorted(map(bytes, other.all_masks))


def test_transparent_background_of_coloured_masks_is_no_class_of_its_own(tmp_path):
    """Colours differ, so they are the classes, as before."""
    for k in range(12):
        image, mask = stripes(k, 3)
        colours = np.array([(0, 0, 0, 0), (255, 0, 0, 255), (0, 255, 0, 255)], np.uint8)
        save(tmp_path / f"set/images/p{k:02}.png", image)
        save(tmp_path / f"set/masks/p{k:02}.png", colours[mask])
    with pytest.raises(UserError, match=r"3 colours in all masks"):
        prepare(tmp_path / "m", tmp_path / "set")


# --- pages --------------------------------------------------------------------------------


def test_mask_of_several_pages_is_refused(tmp_path):
    folder = write_set(tmp_path / "set", 12, classes=2)
    for k in range(12):
        layers = [Image.fromarray((stripes(k, 2)[1] == c) * np.uint8(255)) for c in range(2)]
        save(folder / f"masks/p{k:02}.tif", layers[0], save_all=True, append_images=layers[1:])
        (folder / f"masks/p{k:02}.png").unlink()
    with pytest.raises(UserError, match=r"p00\.tif has 2 pages, and a mask is one; .*12 such"):
        prepare(tmp_path / "m", folder, "--label-mapping", "255:1")


def test_further_pages_of_photographs_are_listed(tmp_path, capsys):
    folder = write_set(tmp_path / "set", 12)
    for k in range(3):
        image = Image.fromarray(stripes(k, 3)[0])
        pages = [image.rotate(90), image]
        save(folder / f"images/p{k:02}.tif", image, save_all=True, append_images=pages)
        (folder / f"images/p{k:02}.png").unlink()
    done = prepare(tmp_path / "m", folder)
    assert "images/p00.tif: the first of its 3 pages is read" in done.left_out[0]
    assert "3 skipped files, 3 of them such as " in capsys.readouterr().out


def test_smaller_copies_of_a_page_are_no_pages(tmp_path):
    folder = write_set(tmp_path / "set", 12)
    image = Image.fromarray(stripes(0, 3)[0])
    small = image.resize((20, 16))
    save(folder / "images/p00.tif", image, save_all=True, append_images=[small])
    (folder / "images/p00.png").unlink()
    assert not prepare(tmp_path / "m", folder).left_out
