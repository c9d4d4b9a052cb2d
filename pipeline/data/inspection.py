"""Looks at one sample before the data set is prepared: what its mask holds, and its faults."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pipeline.data import orientation
from pipeline.data.classes import Colour
from pipeline.data.image_reader import Unreadable
from pipeline.data.label_mapping import SHOWN
from pipeline.data.mask_causes import count_rims
from pipeline.data.masks import Mask, open_mask
from pipeline.data.palettes import BLACK, Reference, colour_at
from pipeline.data.photo_audit import PhotoFacts, inspect_photo
from pipeline.data.sample_source import (
    LOSSY,
    PALETTE,
    SIZES,
    UNREADABLE,
    VALUES,
    Collection,
    Fault,
    Sample,
)

PHOTO_LIKE = 256  # more values than this, and transparent pixels: a photograph that was cut out


class Kind(NamedTuple):
    """How mask and photograph are stored, in words."""

    mask: str  # file format and mode
    palette: str  # the first colours of an indexed mask
    photo: str
    exif: str  # orientation of the photo, and what the mask was drawn on


class Content(NamedTuple):
    """What one mask holds, and how it lies over its photograph."""

    counts: dict[int, int]  # pixels per value; {} if there are too many, and transparent pixels
    palette: bytes  # of an indexed mask
    colours: bool  # whether it is in colours that no mapping explains
    edges: np.ndarray | None  # `Mask.edges`, if neither names nor a mapping explain the values
    photo: PhotoFacts
    drawn_on: str  # from `orientation.place`
    kind: Kind
    see_through: bool  # `Mask.see_through`
    rims: np.ndarray  # from `mask_causes.count_rims`

    @property
    def says_by_alpha(self) -> bool | None:
        """Whether the mask differs in transparency only; None if it differs in nothing."""
        if self.see_through and not 1 < len(self.counts) <= PHOTO_LIKE:
            return True
        return False if len(self.counts) != 1 else None


def inspect(sample: Sample, collection: Collection, meaning: str) -> Content | Fault:
    """Reads the mask of a sample, and what is needed of its photograph.

    Returns:
        What they hold, or what is wrong with the sample.
    """
    labels, name = collection.labels, sample.mask.name
    try:
        mask: Mask = open_mask(sample.mask.fetch(), name, meaning)
        if mask.lossy:
            reason = "which changes values at the edges of the classes"
            return Fault(LOSSY, f"{name} is stored as {mask.lossy}, {reason}; export masks as PNG")
        if mask.pages > 1:
            return Fault(VALUES, explain_pages(name, mask.pages))
        photo = inspect_photo(sample.image.fetch(), sample.image.name)
    except Unreadable as error:
        return Fault(UNREADABLE, f"{error}; {collection.remedy}")
    size = mask.picture.size
    placement = orientation.place(size, mask.own, photo.size, photo.orientation)
    if not placement.fits and not collection.any_shape:
        return Fault(SIZES, explain_sizes(name, mask, photo))
    counts = mask.counts
    if not counts and not mask.see_through:
        return too_many_values(name)
    colours = mask.picture.mode == "RGB" and not labels.by_colour
    unexplained = labels.names is None and not labels.mapping and mask.picture.mode == "L"
    edges = mask.edges if unexplained else None
    turns = ""
    if photo.orientation != 1 or mask.own > 1:
        turns = f"{photo.orientation}, mask drawn on: {placement.drawn_on or mask.own}"
    kind = Kind(mask.form, first_colours(mask.palette), photo.form, turns)
    drawn_on = placement.drawn_on
    return Content(
        *(counts, mask.palette, colours, edges, photo, drawn_on, kind, mask.see_through),
        count_rims(mask),
    )


def too_many_values(name: str) -> Fault:
    """The fault of a mask with more values than are counted."""
    reason = "thousands of values, like a photograph or a mask once saved as JPEG"
    return Fault(VALUES, f"{name} holds {reason}; save masks as PNG, with one value per class")


def explain_pages(name: str, pages: int) -> str:
    """The message on a mask with several pages of one size."""
    return (
        f"{name} has {pages} pages, and a mask is one; if each page is a class, draw them into one "
        "with a value for each class; if each is a picture, save them as files of their own"
    )


def first_colours(palette: bytes) -> str:
    """The first colours of a palette, as "0,0,0 255,0,0"; "" without one."""
    colours = (colour_at(palette, index) for index in range(SHOWN))
    return " ".join(format_colour(colour) for colour in colours if colour)


def explain_sizes(name: str, mask: Mask, photo: PhotoFacts) -> str:
    """The message on a mask whose shape is not that of its image."""
    (width, height), (photo_width, photo_height) = mask.picture.size, photo.size
    sizes = f"{width} x {height} pixels, and its image {photo_width} x {photo_height}"
    turns = [f"EXIF orientation {mask.own} of the mask"] if mask.own > 1 else []
    if photo.orientation in orientation.SIDEWAYS:
        turns.append(f"EXIF orientation {photo.orientation} of the image")
    by_exif = f" (by the {' and the '.join(turns)})" if turns else ""
    return f"{name} has {sizes}{by_exif}; draw the mask on this image"


def unless_contradicting(content: Content, sample: Sample, reference: Reference) -> Content | Fault:
    """The content; or a fault, if the mask shows an index otherwise than most others do."""
    if not content.palette:
        return content
    index = reference.contradiction(content.palette, content.counts)
    if index is None:
        return content
    colour = format_colour(colour_at(content.palette, index) or BLACK)
    mapping = ",".join(
        f"{format_colour(c)}:{k}" for k, c in sorted(reference.colours.items())[:SHOWN]
    )
    return Fault(
        PALETTE,
        f"the value {index} has the colour {colour} in the palette of {sample.mask.name}, and "
        f"{format_colour(reference.colours[index])} in that of most other masks, so its class is "
        f"not clear; map colours instead: --label-mapping {mapping}",
    )


def format_colour(colour: Colour) -> str:
    """A colour as the command line takes it: "255,0,0"."""
    return ",".join(map(str, colour))
