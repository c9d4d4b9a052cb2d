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

from PIL import Image

from pipeline.base.console import UserError
from pipeline.data.decoding import Source, open_picture
from pipeline.data.foreign_files import describe, kind_of_content
from pipeline.data.photographs import PHOTO_RULES, PhotoRules, upright_rgb

MOST_PIXELS = 100_000_000  # per photograph, 300 MB decoded; larger ones are refused undecoded
FITS = ("stretch", "pad", "crop")
# Formats that Pillow decodes with another program, only on some systems, or not at all.
UNSUPPORTED = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}


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
    names = (*formats(), "MPO")  # which Pillow opens as JPEG: two photographs of a stereo camera
    return frozenset(
        suffix for suffix, name in Image.registered_extensions().items() if name in names
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
        if isinstance(source, Path) and not stat.S_ISREG(source.stat().st_mode):
            raise Unreadable(f"{name} is a {'folder' if source.is_dir() else 'device'}, not a file")
        with open_picture(source, formats()) as picture:
            yield picture
    except (Unreadable, MemoryError):  # out of memory: not the fault of the picture
        raise
    except FileNotFoundError:
        link = isinstance(source, Path) and source.is_symlink()
        raise Unreadable(f"{name} is {'a link to a missing file' if link else 'missing'}") from None
    except PermissionError:
        raise Unreadable(f"{name} cannot be read (permission denied)") from None
    except Image.UnidentifiedImageError:
        kind = kind_of_content(source)
        reason = describe(kind) if kind else "is damaged, or not a picture of a supported format"
        raise Unreadable(f"{name} {reason}") from None
    except Image.DecompressionBombError:
        limit = f"{MOST_PIXELS // 1_000_000} million pixels"
        raise Unreadable(f"{name} has more than {limit}, or its header says so") from None
    except Exception as error:  # Pillow raises many types on damaged files, also RuntimeError
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise Unreadable(f"{name} cannot be read ({reason})") from None


def open_photograph(source: Source, name: str, rules: PhotoRules = PHOTO_RULES) -> Image.Image:
    """Decodes a photograph as upright RGB, 8 bits per channel, as `photographs.upright_rgb` does.

    Of a file with several pictures the first one is read.

    Args:
        source: a path, or the content of a file.
        name: of the photograph, for messages.
        rules: of the data set that the network was trained on.

    Raises:
        Unreadable: it is missing, damaged, larger than MOST_PIXELS, or otherwise not readable.
    """
    return open_upright(source, name, rules)[0]


def open_upright(
    source: Source, name: str, rules: PhotoRules = PHOTO_RULES
) -> tuple[Image.Image, int]:
    """Like `open_photograph`; also returns the EXIF orientation of the stored pixels, 1..8."""
    with opened(source, name) as picture:
        return upright_rgb(picture, source, rules)


def as_png(picture: Image.Image) -> bytes:
    """Encodes a picture as PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, "png", compress_level=1)
    return buffer.getvalue()


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
