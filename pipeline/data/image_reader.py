"""The one reader of photographs, and how a picture is brought to the size of a network.

Data preparation and `evaluation.py --image` both read through it, so that a network is shown
photographs as it was taught with them.
"""

from __future__ import annotations

import contextlib
import functools
import io
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.base.console import UserError

MOST_PIXELS = 100_000_000  # of a photograph: 300 MB unpacked; more are refused, not unpacked
FITS = ("stretch", "pad", "crop")
ORIENTATION = 0x0112  # the EXIF tag; Exif 2.32, 4.6.4 A
TURNS = {  # its values: what makes the stored pixels upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)  # of these, width and height change places
TRANSPARENT = {"RGBA", "RGBa", "LA", "La", "PA"}  # modes
# What Pillow opens with another program, on another system, or cannot unpack.
NO_PHOTOGRAPHS = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}

Source = Path | bytes  # an encoded picture


class Unreadable(UserError):
    """A picture that cannot be read. The message names it and says why."""


# --- reading ------------------------------------------------------------------------------


@functools.cache
def formats() -> tuple[str, ...]:
    """The file formats that are read: all that Pillow unpacks by itself."""
    Image.init()
    Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2  # Pillow warns above it and refuses above its double
    warnings.filterwarnings("ignore", module=r"PIL\.")  # damaged EXIF data, large photographs
    return tuple(sorted(set(Image.OPEN) - NO_PHOTOGRAPHS))


@functools.cache
def suffixes() -> frozenset[str]:
    """The suffixes of files in these formats, in small letters: ".jpg", ".png", ..."""
    return frozenset(
        end for end, form in Image.registered_extensions().items() if form in formats()
    )


@contextlib.contextmanager
def opened(source: Source, name: str) -> Iterator[Image.Image]:
    """Opens a picture without unpacking it. Whatever goes wrong with it inside is `Unreadable`.

    Args:
        name: what messages call the picture.
    """
    try:
        if isinstance(source, bytes):
            source = io.BytesIO(source)
        elif not stat.S_ISREG(source.stat().st_mode):
            raise Unreadable(f"{name} is no file but a {'folder' if source.is_dir() else 'device'}")
        with Image.open(source, formats=formats()) as picture:
            yield picture
    except (Unreadable, MemoryError):  # memory that runs out is no fault of the picture
        raise
    except FileNotFoundError:
        link = isinstance(source, Path) and source.is_symlink()
        raise Unreadable(
            f"{name} is {'a link to a file that is not there' if link else 'missing'}"
        ) from None
    except PermissionError:
        raise Unreadable(f"{name} may not be read (no permission)") from None
    except Image.UnidentifiedImageError:
        raise Unreadable(f"{name} is no picture of a known format, or damaged") from None
    except Image.DecompressionBombError:
        most = f"{MOST_PIXELS // 1_000_000} million pixels"
        raise Unreadable(f"{name} has, or claims to have, more than {most}") from None
    except Exception as error:  # a damaged file makes Pillow raise anything, even RuntimeError
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise Unreadable(f"{name} cannot be read ({said})") from None


def orientation(picture: Image.Image) -> int:
    """The EXIF orientation of an opened picture: 1..8, and 1 if nothing sensible is said."""
    try:
        value = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF data, on which Pillow raises anything; the picture is none
        return 1
    return value if value in TURNS else 1


def open_photograph(source: Source, name: str) -> Image.Image:
    """A photograph as it is meant to be seen: upright, RGB, uint8.

    Transparent pixels lie over white, as browsers show them: what a file keeps below them
    differs from tool to tool. 16-bit grey is divided by 257, so that 0..65535 becomes 0..255 in
    the same way in every photograph. Of several pictures in a file the first is taken.

    Args:
        source: a path, or the bytes of a file; messages call it `name`.

    Raises:
        Unreadable: whatever is wrong with it, from a missing file to more than MOST_PIXELS.
    """
    return open_upright(source, name)[0]


def open_upright(source: Source, name: str) -> tuple[Image.Image, int]:
    """`open_photograph`, and the EXIF orientation that its pixels were stored in."""
    with opened(source, name) as picture:
        stored = orientation(picture)
        picture.load()
        left = orientation(picture)  # Pillow turns TIFF by itself
        colours = to_rgb(picture)
        return (colours.transpose(TURNS[left]) if left in TURNS else colours), stored


def to_rgb(picture: Image.Image) -> Image.Image:
    """An unpacked picture of any mode as RGB; see `open_photograph`."""
    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture)
        unit = picture.mode == "F" and values.max() <= 1
        scaled = values * 255 if unit else values // 257 if picture.mode != "F" else values
        if not (values.min() >= 0 and scaled.max() <= 255):  # also not a number
            raise ValueError(
                f"values {values.min():g} to {values.max():g}: save it with 8 or 16 bits"
            )
        return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
    if picture.mode in TRANSPARENT or "transparency" in picture.info:
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def as_png(picture: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "png", compress_level=1)
    return buffer.getvalue()


# --- the shape of an image and of its mask ------------------------------------------------


def same_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes (width, height) are of one picture: one enlarges to the other, and a
    pixel of rounding on each side of either is no difference."""
    (width, height), (w, h) = size, other
    return abs(width * h - height * w) <= max(width + height, w + h) and min(*size, *other) > 0


def agrees(image: Source, name: str, mask_size: tuple[int, int]) -> tuple[bool, tuple[int, int]]:
    """Whether a mask of this size can be an image's, upright or as stored, by the image's head.

    Returns:
        The answer, and width and height of the image.

    Raises:
        Unreadable: the head cannot be read.
    """
    with opened(image, name) as picture:
        size = picture.size
        good = same_shape(size, mask_size) or (
            same_shape(size[::-1], mask_size) and orientation(picture) in SIDEWAYS
        )
    return good, size


def turn_mask(mask: Image.Image, image: Image.Image, stored: int) -> Image.Image:
    """A mask as upright as its image, which was stored in the EXIF orientation `stored`.

    Labelling tools show a photograph upright, and most masks are drawn on that. One that has the
    size of the stored pixels was drawn on those, and is turned with them.
    """
    drawn_on_stored = stored in SIDEWAYS and not same_shape(mask.size, image.size)
    return mask.transpose(TURNS[stored]) if drawn_on_stored else mask


# --- the size that a network takes --------------------------------------------------------


def fitted_box(
    photo_size: tuple[int, int], size: tuple[int, int], fit: str
) -> tuple[float, float, float, float]:
    """How a photograph lies in the picture that `fit_image` makes of it.

    Args:
        photo_size: width and height. size: height and width of the picture.
        fit: one of FITS.

    Returns:
        Left, top, right, bottom. "pad": the part of the picture that shows the photograph, in
        whole pixels. "crop": the part of the photograph that is shown. "stretch": all of the
        picture, which shows all of the photograph.
    """
    (across, down), (height, width) = photo_size, size
    if fit == "pad":
        scale = min(width / across, height / down)
        w, h = max(1, round(scale * across)), max(1, round(scale * down))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h
    if fit == "crop":
        scale = min(across / width, down / height)
        left, top = (across - scale * width) / 2, (down - scale * height) / 2
        return left, top, left + scale * width, top + scale * height
    return 0, 0, width, height


def fit_image(
    image: Image.Image,
    size: tuple[int, int],
    fit: str,
    resampling: Image.Resampling = Image.Resampling.BILINEAR,
    fill: int = 0,
) -> Image.Image:
    """An image or a mask at the size that a network takes.

    Args:
        size: height and width.
        fit: "stretch" changes the aspect, "pad" keeps it and fills what is left on two sides,
            "crop" keeps it and cuts two sides off.
        resampling: BILINEAR for images (Pillow's averages when it shrinks), NEAREST for masks.
        fill: the value of every channel of what "pad" adds.
    """
    height, width = size
    box = fitted_box(image.size, size, fit)
    if fit == "crop":
        return image.resize((width, height), resampling, box)
    if fit == "pad":
        left, top, right, bottom = box
        canvas = Image.new(image.mode, (width, height), (fill,) * len(image.getbands()))
        canvas.paste(image.resize((right - left, bottom - top), resampling), (left, top))
        return canvas
    return image.resize((width, height), resampling)
