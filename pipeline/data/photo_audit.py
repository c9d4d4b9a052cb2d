"""Looks at all photographs of a data set before any is prepared: what they have in common.

Of most of them, only the header is read. Those deeper than 8 bits are decoded, because the largest
of their values says how many bits the sensor had; and those with a fourth band, because its values
say whether it is transparency.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from pipeline.data.decoding import Source, deep_values, orientation, white_of_ppm
from pipeline.data.image_reader import opened
from pipeline.data.orientation import SIDEWAYS
from pipeline.data.pages import number_of_pages
from pipeline.data.photographs import (
    FLOAT_WHITES,
    PhotoRules,
    is_four_bands,
    white_for,
    white_key,
)

# Transparency is 0 or full in most pixels, a fourth colour such as infrared in few.
BETWEEN = 0.5  # share of pixels with other values above which a fourth band is no transparency


class PhotoFacts(NamedTuple):
    """What the audit notes about one photograph."""

    size: tuple[int, int]  # width and height as stored
    orientation: int  # 1..8, by EXIF
    form: str  # file format and mode
    largest: float | None = None  # of values deeper than 8 bits
    floating: bool = False  # whether those are floating-point numbers
    pages: int = 1  # pictures of the same size in the file, of which the first is read
    between: float | None = None  # share of a fourth band that is neither 0 nor full; None: no band


@dataclass
class Photos:
    """What the photographs of a data set hold."""

    forms: Counter[str] = field(default_factory=Counter)
    largest: dict[bool, float] = field(default_factory=dict)  # by `floating`
    deep: Counter[bool] = field(default_factory=Counter)  # number of deep ones, by `floating`
    shares: list[float] = field(default_factory=list)  # `between` of fourth bands with any such

    def add(self, facts: PhotoFacts) -> None:
        """Adds one photograph."""
        self.forms[facts.form] += 1
        if facts.largest is not None:
            self.deep[facts.floating] += 1
            self.largest[facts.floating] = max(facts.largest, self.largest.get(facts.floating, 0))
        if facts.between is not None:
            self.shares.append(facts.between)

    def rules(self) -> PhotoRules:
        """The rules for all photographs of the data set together."""
        rules = PhotoRules()
        if False in self.largest:
            rules = rules._replace(white=white_for(self.largest[False]))
        if True in self.largest:
            rules = rules._replace(float_white=white_for(self.largest[True], FLOAT_WHITES))
        return rules._replace(alpha=not self.shares or float(np.mean(self.shares)) <= BETWEEN)

    def record(self) -> dict[str, Any]:
        """The rules that photographs of this data set need, for dataset.json; {} if none does."""
        rules, stored = self.rules(), {}
        for floating, key in ((False, "white"), (True, "float_white")):
            if floating in self.deep:
                stored[key] = getattr(rules, key)
        if self.shares:
            stored["alpha"] = rules.alpha
        return stored

    def notes(self) -> list[str]:
        """Lines on what was decided."""
        rules, notes = self.rules(), []
        if number := self.deep[False]:
            bits = rules.white.bit_length()
            notes.append(
                f"note: {number} photographs are deeper than 8 bits; the largest of their values "
                f"is {self.largest[False]:g}, so {rules.white} ({bits} bits) counts as white in all"
            )
        if number := self.deep[True]:
            notes.append(
                f"note: {number} photographs hold floating-point numbers up to "
                f"{self.largest[True]:g}, so {rules.float_white} counts as white in all"
            )
        if number := len(self.shares):
            what = "transparent pixels, which become white"
            if not rules.alpha:
                what = (
                    "a fourth band that is no transparency, as infrared is; it is left out, here "
                    "and in evaluation.py --image"
                )
            notes.append(f"note: {number} photographs have {what}")
        return notes


def inspect_photo(source: Source, name: str) -> PhotoFacts:
    """Looks at one photograph; decodes it only if it is deep or has a fourth band.

    Args:
        source: a path, or the content of a file.
        name: for messages.

    Raises:
        Unreadable: it cannot be opened, or not decoded.
    """
    with opened(source, name) as picture:
        turn, size = orientation(picture, source), picture.size
        if turn in SIDEWAYS and picture.format == "TIFF":  # whose size is that of the upright one
            size = size[::-1]
        facts = PhotoFacts(size, turn, f"{picture.format} {picture.mode}")
        facts = facts._replace(pages=number_of_pages(picture))
        ppm = picture.format == "PPM" and picture.mode != "F"
        named = white_of_ppm(picture) if ppm else 0
        four = is_four_bands(picture)
        if white_key(picture):
            values = deep_values(picture, source)
            colours = values if values.ndim == 2 else values[..., : min(3, values.shape[-1])]
            floating = values.dtype.kind == "f"
            largest = float(colours.max())
            if named not in (0, 65535):  # a white that the file names on purpose
                largest = max(largest, named)
            facts = facts._replace(largest=largest, floating=floating)
            fourth = values[..., 3] >> 8 if four and values.ndim == 3 else None
        else:
            fourth = np.asarray(picture.getchannel(3)) if four else None
        if fourth is not None and (fourth < 255).any():
            facts = facts._replace(between=float(((fourth > 0) & (fourth < 255)).mean()))
        return facts
