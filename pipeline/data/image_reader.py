"""Reads photographs, for data preparation and for `evaluation.py --image` alike.

Photographs are decoded at inference as they were for training; `fitting` brings them to the input
size of a network.
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
# Formats that Pillow decodes with another program, only on some systems, or not at all.
UNSUPPORTED = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}


class Unreadable(UserError):
    """A picture cannot be read. The message names it and gives the reason."""


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
