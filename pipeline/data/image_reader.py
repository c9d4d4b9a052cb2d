"""Reads photographs and resizes them to the input size of a network.

Data preparation and `evaluation.py --image` both use this module, so that photographs are decoded
and resized at inference as they were for training.
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

MOST_PIXELS = 100_000_000  # per photograph, 300 MB decoded; larger ones are refused undecoded
FITS = ("stretch", "pad", "crop")
ORIENTATION = 0x0112  # EXIF tag (Exif 2.32, section 4.6.4 A)
TURNS = {  # value of that tag: the operation that makes the stored pixels upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)  # values whose operation swaps width and height
TRANSPARENT = {"RGBA", "RGBa", "LA", "La", "PA"}  # Pillow modes with an alpha channel
# Formats that Pillow decodes with another program, only on some systems, or not at all.
UNSUPPORTED = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}

Source = Path | bytes  # an encoded picture: a file or its content


class Unreadable(UserError):
    """A picture cannot be read. The message names it and gives the reason."""


# --- reading ------------------------------------------------------------------------------


@functools.cache
def formats() -> tuple[str, ...]:
    """File formats that are supported: all that Pillow decodes by itself.

    The first call also sets Pillow's size limit and silences its warnings.
    """
    Image.init()
    Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2  # Pillow refuses pictures above twice this value
    warnings.filterwarnings("ignore", module=r"PIL\.")  # damaged EXIF data, large photographs
    return tuple(sorted(set(Image.OPEN) - UNSUPPORTED))


@functools.cache
def suffixes() -> frozenset[str]:
    """File name suffixes of the supported formats, in lower case: ".jpg", ".png", ..."""
    return frozenset(
        suffix for suffix, name in Image.registered_extensions().items() if name in formats()
    )


@contextlib.contextmanager
def opened(source: Source, name: str) -> Iterator[Image.Image]:
    """Opens a picture without decoding it.

    Any error with it inside the `with` block is raised as `Unreadable`.

    Args:
        source: a path, or the content of a file.
        name: of the picture, for messages.
    """
    try:
        if isinstance(source, bytes):
            file: Path | io.BytesIO = io.BytesIO(source)
        elif stat.S_ISREG(source.stat().st_mode):
            file = source
        else:
            raise Unreadable(f"{name} is a {'folder' if source.is_dir() else 'device'}, not a file")
        with Image.open(file, formats=formats()) as picture:
            yield picture
    except (Unreadable, MemoryError):  # out of memory: not the fault of the picture
        raise
    except FileNotFoundError:
        link = isinstance(source, Path) and source.is_symlink()
        raise Unreadable(f"{name} is {'a link to a missing file' if link else 'missing'}") from None
    except PermissionError:
        raise Unreadable(f"{name} cannot be read (permission denied)") from None
    except Image.UnidentifiedImageError:
        raise Unreadable(f"{name} is damaged, or not a picture of a supported format") from None
    except Image.DecompressionBombError:
        limit = f"{MOST_PIXELS // 1_000_000} million pixels"
        raise Unreadable(f"{name} has more than {limit}, or its header says so") from None
    except Exception as error:  # Pillow raises many types on damaged files, also RuntimeError
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise Unreadable(f"{name} cannot be read ({reason})") from None


def orientation(picture: Image.Image) -> int:
    """EXIF orientation of an opened picture, 1..8; 1 (upright) if it is missing or invalid."""
    try:
        value = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow raises many types on damaged EXIF data; the picture may be whole
        return 1
    return value if value in TURNS else 1


def open_photograph(source: Source, name: str) -> Image.Image:
    """Decodes a photograph as upright RGB, 8 bits per channel.

    Transparent pixels are blended with white, as browsers do; the colours that a file stores under
    them depend on the tool that wrote it. 16-bit grey values are divided by 257 (0..65535 becomes
    0..255). Floating-point values up to 1 are scaled by 255. Of a file with several pictures the
    first one is read.

    Args:
        source: a path, or the content of a file.
        name: of the photograph, for messages.

    Raises:
        Unreadable: it is missing, damaged, larger than MOST_PIXELS, or otherwise not readable.
    """
    return open_upright(source, name)[0]


def open_upright(source: Source, name: str) -> tuple[Image.Image, int]:
    """Like `open_photograph`; also returns the EXIF orientation of the stored pixels, 1..8."""
    with opened(source, name) as picture:
        stored = orientation(picture)
        picture.load()
        remaining = orientation(picture)  # `load` already turns TIFF upright
        rgb = to_rgb(picture)
        return (rgb.transpose(TURNS[remaining]) if remaining in TURNS else rgb), stored


def to_rgb(picture: Image.Image) -> Image.Image:
    """Converts a decoded picture of any mode to RGB, as `open_photograph` describes."""
    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture)
        fractions = picture.mode == "F" and values.max() <= 1
        scaled = values * 255 if fractions else values // 257 if picture.mode != "F" else values
        if not (values.min() >= 0 and scaled.max() <= 255):  # false for NaN, too
            raise ValueError(
                f"values {values.min():g} to {values.max():g}: save it with 8 or 16 bits"
            )
        return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
    if picture.mode in TRANSPARENT or "transparency" in picture.info:
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def as_png(picture: Image.Image) -> bytes:
    """Encodes a picture as PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, "png", compress_level=1)
    return buffer.getvalue()


# --- the shape of an image and of its mask ------------------------------------------------


def same_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes (width, height) have the same aspect ratio, up to one pixel of rounding."""
    (width, height), (w, h) = size, other
    return abs(width * h - height * w) <= max(width + height, w + h) and min(*size, *other) > 0


def agrees(image: Source, name: str, mask_size: tuple[int, int]) -> tuple[bool, tuple[int, int]]:
    """Whether a mask of `mask_size` (width, height) fits an image, upright or as stored.

    Reads only the header of the image.

    Args:
        image: a path, or the content of a file.
        name: of the image, for messages.

    Returns:
        Whether it fits; width and height of the image as stored.

    Raises:
        Unreadable: the header cannot be read.
    """
    with opened(image, name) as picture:
        size = picture.size
        fits = same_shape(size, mask_size) or (
            same_shape(size[::-1], mask_size) and orientation(picture) in SIDEWAYS
        )
    return fits, size


def turn_mask(mask: Image.Image, image: Image.Image, stored: int) -> Image.Image:
    """Returns the mask of an upright image, turned upright if it was drawn on the stored pixels.

    Most labelling tools show photographs upright, so most masks are upright. A mask with the aspect
    ratio of the stored pixels (EXIF orientation `stored`) was drawn on those and is turned.
    """
    drawn_on_stored = stored in SIDEWAYS and not same_shape(mask.size, image.size)
    return mask.transpose(TURNS[stored]) if drawn_on_stored else mask


# --- the size that a network takes --------------------------------------------------------


def padded_box(photo_size: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box (left, top, right, bottom) of the photograph in the result of "pad", in pixels.

    Args:
        photo_size: width and height of the photograph.
        size: height and width of the result.
    """
    (photo_width, photo_height), (height, width) = photo_size, size
    scale = min(width / photo_width, height / photo_height)
    w, h = max(1, round(scale * photo_width)), max(1, round(scale * photo_height))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def fitted_box(
    photo_size: tuple[int, int], size: tuple[int, int], fit: str
) -> tuple[float, float, float, float]:
    """The box (left, top, right, bottom) that `fit_image` pastes to or crops from, in pixels.

    Args:
        photo_size: width and height of the photograph.
        size: height and width of the result.
        fit: one of FITS.

    Returns:
        "pad": the part of the result that shows the photograph, in whole pixels. "crop": the part
        of the photograph that is shown. "stretch": the whole result.
    """
    (photo_width, photo_height), (height, width) = photo_size, size
    if fit == "pad":
        return padded_box(photo_size, size)
    if fit == "crop":
        scale = min(photo_width / width, photo_height / height)
        left, top = (photo_width - scale * width) / 2, (photo_height - scale * height) / 2
        left, top = max(0.0, left), max(0.0, top)  # rounding may put them just outside
        return left, top, left + scale * width, top + scale * height
    return 0, 0, width, height


def fit_image(
    image: Image.Image,
    size: tuple[int, int],
    fit: str,
    resampling: Image.Resampling = Image.Resampling.BILINEAR,
    fill: int = 0,
) -> Image.Image:
    """Resizes an image or a mask to the input size of a network.

    Args:
        size: height and width of the result.
        fit: "stretch" changes the aspect ratio; "pad" keeps it and adds bars on two sides; "crop"
            keeps it and cuts off two sides.
        resampling: BILINEAR for images (with antialiasing in Pillow), NEAREST for masks.
        fill: value of every channel in the bars that "pad" adds.
    """
    height, width = size
    if fit == "crop":
        return image.resize((width, height), resampling, fitted_box(image.size, size, fit))
    if fit == "pad":
        left, top, right, bottom = padded_box(image.size, size)
        canvas = Image.new(image.mode, (width, height), (fill,) * len(image.getbands()))
        canvas.paste(image.resize((right - left, bottom - top), resampling), (left, top))
        return canvas
    return image.resize((width, height), resampling)
