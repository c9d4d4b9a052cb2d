"""Brings pictures to the size that a network takes, and says where they are in its answer.

The one rule for data preparation, for `evaluation.py --image` and for the program in the handover
folder, which holds a copy of this file. Needs only Pillow, and imports no other module of ours.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from PIL import Image

FITS = ("stretch", "pad", "crop")
RESAMPLINGS = {"bilinear": Image.Resampling.BILINEAR}  # with antialiasing, as Pillow does it
WholeBox = tuple[int, int, int, int]  # left, top, right, bottom, in whole pixels
Box = tuple[float, float, float, float]


class FitRule(NamedTuple):
    """How a picture comes to the size of a network: `input.picture` in a contract."""

    fit: str = FITS[0]  # one of FITS, as for `fit_image`
    resampling: str = "bilinear"  # a key of RESAMPLINGS
    fill: int = 0  # value of every channel in the bars of "pad"


class Fitted(NamedTuple):
    """A picture at the size of a network, and the part of it that the network answers for."""

    image: Image.Image  # what goes into the network
    part: WholeBox  # of the picture: all of it, or for "crop" what is left of it
    box: Box  # where that part lies in `image`


def rule_from(stored: Any) -> FitRule:
    """The rule that a contract holds as a dictionary; other keys are for people.

    Raises:
        ValueError: it asks for what is not known here, as the file of a later version may.
    """
    if not isinstance(stored, dict):
        raise ValueError(f"a rule for pictures that is none: {stored!r}")
    rule = FitRule(**{key: stored[key] for key in FitRule._fields if key in stored})
    for key, known in (("fit", FITS), ("resampling", tuple(RESAMPLINGS))):
        if (value := getattr(rule, key)) not in known:
            raise ValueError(f"pictures with {key} {value!r}, and {', '.join(known)} are known")
    if type(rule.fill) is not int or not 0 <= rule.fill <= 255:
        raise ValueError(f"pictures with fill {rule.fill!r}, which is not 0 to 255")
    return rule


def fitted(photo: Image.Image, size: tuple[int, int], rule: FitRule) -> Fitted:
    """Brings a photograph to the size of a network.

    Args:
        photo: upright RGB of any size.
        size: height and width that the network takes.
        rule: that its training pictures were fitted by.
    """
    height, width = size
    image = fit_image(photo, size, rule.fit, RESAMPLINGS[rule.resampling], rule.fill)
    whole = (0, 0, photo.width, photo.height)
    if rule.fit == "pad":
        return Fitted(image, whole, padded_box(photo.size, size))
    if rule.fit == "crop":
        left, top, right, bottom = fitted_box(photo.size, size, rule.fit)
        columns, in_width = whole_part(left, right, photo.width, width)
        rows, in_height = whole_part(top, bottom, photo.height, height)
        part = (columns[0], rows[0], columns[1], rows[1])
        return Fitted(image, part, (in_width[0], in_height[0], in_width[1], in_height[1]))
    return Fitted(image, whole, (0, 0, width, height))


def whole_part(
    start: float, end: float, length: int, size: int
) -> tuple[tuple[int, int], tuple[float, float]]:
    """Rounds the part of one side of a photograph that cropping leaves to whole pixels.

    Args:
        start, end: of the part, in pixels of the photograph.
        length: of that side of the photograph.
        size: of the same side of the network's image, which shows the part.

    Returns:
        The first pixel of the rounded part and the one after its last, at least one pixel; and
        where these two lie in the network's image.
    """
    first, after = round(start), round(end)
    if first >= after:  # less than a pixel is left of a very long photograph
        first = min(int((start + end) / 2), length - 1)
        after = first + 1
    scale = size / (end - start)
    inside = max(0.0, (first - start) * scale), min(float(size), (after - start) * scale)
    return (first, after), inside


def padded_box(photo_size: tuple[int, int], size: tuple[int, int]) -> WholeBox:
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


def fitted_box(photo_size: tuple[int, int], size: tuple[int, int], fit: str) -> Box:
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
