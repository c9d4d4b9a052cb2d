"""PNG files with the mark: whole, and told from the user's own."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.data import marked_pictures
from pipeline.data.marked_pictures import ENCODED_ROWS, is_replaceable, save


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (1, ENCODED_ROWS), (37, 2 * ENCODED_ROWS + 5)])
def test_colours_are_read_back_as_they_were(tmp_path, size):
    """Pillow checks the checksums of all parts."""
    pixels = np.random.default_rng(2).integers(0, 256, (size[1], size[0], 3), np.uint8)
    save(Image.fromarray(pixels), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        picture.verify()
    with Image.open(tmp_path / "a.png") as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", size)
        np.testing.assert_array_equal(picture, pixels)
        assert picture.text == {marked_pictures.KEY: marked_pictures.VALUE}
    assert is_replaceable(tmp_path / "a.png")


def test_indices_and_palette_are_read_back_as_they_were(tmp_path):
    indices = np.random.default_rng(4).integers(0, 150, (30, 20), np.uint8)
    picture = Image.fromarray(indices)
    picture.putpalette(list(range(256)) * 3)
    save(picture, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as read:
        np.testing.assert_array_equal(read, indices)
        assert read.mode == "P" and read.getpalette() == list(range(256)) * 3
    assert is_replaceable(tmp_path / "a.png")


def test_file_without_the_mark_is_the_users(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "png")
    (tmp_path / "theirs.png").write_bytes(buffer.getvalue())
    assert not is_replaceable(tmp_path / "theirs.png") and not is_replaceable(tmp_path)
    assert is_replaceable(tmp_path / "none.png")
