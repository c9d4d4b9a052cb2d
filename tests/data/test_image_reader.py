"""Reading photographs: upright RGB from every format, `Unreadable` for any fault."""

import io
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipeline.data import image_reader
from pipeline.data.image_reader import Unreadable, open_photograph
from tests.helpers.pictures import encoded, stored_as
from tests.helpers.runs import ROOT


def read(source, name="photo"):
    return np.asarray(open_photograph(source, name))


def gradient(width=24, height=16):
    """A picture that every turn changes."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 10, y * 15, x * 0 + 60], -1).astype(np.uint8))


# --- every kind of picture ----------------------------------------------------------------


@pytest.mark.parametrize("form", ["png", "bmp", "tiff", "webp", "gif", "jpeg", "ppm", "jpeg2000"])
def test_every_format_is_read_from_path_and_bytes(tmp_path, form):
    flat = Image.new("RGB", (20, 10), (220, 40, 60))
    path = tmp_path / "without suffix"
    path.write_bytes(encoded(flat, form))
    for source in (path, path.read_bytes()):
        pixels = read(source)
        assert pixels.shape == (10, 20, 3) and pixels.dtype == np.uint8
        assert np.abs(pixels.astype(int) - (220, 40, 60)).max() <= 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "RGB"])
def test_every_mode_keeps_black_and_white(mode):
    half = Image.new("L", (16, 8), 255)
    half.paste(0, (0, 0, 8, 8))
    form = "tiff" if mode == "CMYK" else "png"
    pixels = read(encoded(half.convert("RGB").convert(mode), form))
    assert (pixels[:, :8] == 0).all() and (pixels[:, 8:] == 255).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_become_white(mode):
    picture = Image.new("RGBA", (8, 8), (0, 0, 0, 255))
    picture.paste((0, 0, 0, 0), (4, 0, 8, 8))
    if mode == "P":
        data = encoded(with_two_blacks(), "png", transparency=1)
    else:
        data = encoded(picture.convert(mode), "png")
    pixels = read(data)
    assert (pixels[:, :4] == 0).all() and (pixels[:, 4:] == 255).all()


def with_two_blacks():
    indices = np.zeros((8, 8), np.uint8)
    indices[:, 4:] = 1
    picture = Image.fromarray(indices)
    picture.putpalette([0] * 6)
    return picture


@pytest.mark.parametrize("form", ["png", "tiff"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(form):
    values = np.array([[0, 256, 257, 128 * 257, 65535]], np.uint16)
    pixels = read(encoded(Image.fromarray(values), form))
    assert pixels[0, :, 0].tolist() == [0, 0, 1, 128, 255]
    assert (pixels[..., 0] == pixels[..., 2]).all()


def test_fractions_up_to_one_are_scaled_and_other_ranges_refused():
    assert read(encoded(Image.fromarray(np.float32([[0, 0.5, 1]])), "tiff"))[0, :, 0].tolist() == [
        *(0, 127, 255)
    ]
    for values in (np.float32([[-3, 8000]]), np.float32([[0, np.nan]]), np.int32([[0, 70000]])):
        with pytest.raises(Unreadable, match="save it with 8 or 16 bits"):
            read(encoded(Image.fromarray(values), "tiff"))


# --- EXIF orientation ---------------------------------------------------------------------


@pytest.mark.parametrize("form", ["png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(tmp_path, orientation, form):
    upright = gradient()
    data = stored_as(upright, orientation, form)
    np.testing.assert_array_equal(read(data), np.asarray(upright))
    with Image.open(io.BytesIO(data)) as picture:  # the same result as Pillow's own function
        np.testing.assert_array_equal(read(data), np.asarray(ImageOps.exif_transpose(picture)))


@pytest.mark.parametrize("mode", ["L", "I;16", "RGBA", "RGB", "CMYK"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_is_read_from_its_path_as_from_its_content(tmp_path, orientation, mode):
    """Pillow maps an uncompressed TIFF into memory with its sides swapped if it is turned."""
    upright = gradient().convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        upright = Image.fromarray(np.asarray(upright).astype(np.uint16) * 257)
    (tmp_path / "photo.tif").write_bytes(stored_as(upright, orientation, "tiff"))
    np.testing.assert_array_equal(read(tmp_path / "photo.tif"), read(encoded(upright, "tiff")))


@pytest.mark.parametrize("value", [0, 9, 77])
def test_invalid_exif_orientation_is_ignored(value):
    upright = gradient()
    np.testing.assert_array_equal(read(stored_as(upright, value)), np.asarray(upright))


@pytest.mark.filterwarnings("ignore")
def test_damaged_exif_data_is_ignored():
    data = encoded(gradient(), "png", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    np.testing.assert_array_equal(read(data), np.asarray(gradient()))


# --- what cannot be read ------------------------------------------------------------------


def huge(form):
    """A small file whose header says 20000 x 20000 pixels."""
    small = encoded(Image.new("L", (8, 8)), form)
    side = 20_000
    if form == "gif":
        return small[:6] + struct.pack("<HH", side, side) + small[10:]
    if form == "bmp":
        return small[:18] + struct.pack("<ii", side, side) + small[26:]
    head = b"IHDR" + struct.pack(">II", side, side) + small[24:29]
    return small[:12] + head + struct.pack(">I", zlib.crc32(head)) + small[33:]


@pytest.mark.parametrize("form", ["gif", "bmp", "png"])
def test_picture_above_the_pixel_limit_is_refused_by_its_header(form):
    expected = r"^photo has more than 100 million pixels, or its header says so$"
    with pytest.raises(Unreadable, match=expected):
        read(huge(form))


@pytest.mark.filterwarnings("ignore")
def test_pixel_limit_is_twice_pillows(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # pictures up to twice this value are read
    assert read(encoded(Image.new("L", (20, 10)), "png")).shape == (10, 20, 3)
    with pytest.raises(Unreadable, match="million pixels"):
        read(encoded(Image.new("L", (21, 10)), "png"))


def test_message_says_why_a_path_cannot_be_read(tmp_path):
    whole = encoded(gradient(200, 160), "png")
    cases = {
        "gone.jpg": "is missing",
        "link.jpg": "is a link to a missing file",
        "folder.jpg": "is a folder, not a file",
        "pipe.jpg": "is a device, not a file",
        "empty.jpg": "is damaged, or not a picture of a supported format",
        "text.jpg": "is damaged, or not a picture of a supported format",
        "cut.png": "cannot be read (",
    }
    (tmp_path / "link.jpg").symlink_to("nowhere/gone.jpg")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    for name, reason in cases.items():
        with pytest.raises(Unreadable) as caught:
            open_photograph(tmp_path / name, name)
        assert str(caught.value).startswith(f"{name} {reason}")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError(13, "Permission denied"), r"cannot be read \(permission denied\)"),
        (RuntimeError("Failed to decode frame 0"), r"cannot be read \(Failed to decode frame 0\)"),
        (IndexError(), r"cannot be read \(IndexError\)"),
        (struct.error("unpack\nrequires"), r"cannot be read \(unpack\)"),
    ],
)
def test_any_exception_of_pillow_becomes_unreadable(monkeypatch, error, reason):
    """AVIF raises RuntimeError, damaged TIFF struct.error; root gets no PermissionError."""

    def fails(_):
        raise error

    data = encoded(gradient(), "bmp")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fails)
    with pytest.raises(Unreadable, match=f"^photo {reason}"):
        read(data)


def test_memory_error_is_not_turned_into_unreadable(monkeypatch):
    def fails(_):
        raise MemoryError

    data = encoded(gradient(), "bmp")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fails)
    with pytest.raises(MemoryError):
        read(data)


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_raise_unreadable_only():
    """Three bytes of each file are changed at random."""
    random = np.random.default_rng(0)
    for form in ("gif", "bmp", "png", "tiff", "webp", "jpeg", "avif", "ico", "tga", "pcx", "sgi"):
        whole = encoded(gradient(), form)
        for _ in range(20):
            data = bytearray(whole)
            for position in random.integers(0, len(data), 3):
                data[position] ^= int(random.integers(1, 256))
            try:
                assert read(bytes(data)).shape[2] == 3
            except Unreadable as error:
                assert str(error).startswith("photo ")


def test_warnings_of_pillow_are_not_printed(tmp_path):
    data = encoded(gradient(), "png", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    (tmp_path / "photo.png").write_bytes(data)
    program = """
import sys, pathlib
from pipeline.data.image_reader import open_photograph
print(open_photograph(pathlib.Path(sys.argv[1]), "photo").size)
"""
    command = [sys.executable, "-c", program, tmp_path / "photo.png"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("(24, 16)\n", "")


def test_formats_that_need_another_program_are_not_supported():
    assert "EPS" not in image_reader.formats() and ".eps" not in image_reader.suffixes()
    common = {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
    assert common <= image_reader.suffixes()
