"""Pairs the names of images and masks that differ by an ending: p00.jpg and p00_mask.png."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

# Words that tools put before or after the name of an image.
MASK_WORDS = (
    *("masks?", "seg", "segm", "segmentations?", "labels?", "lbl", "gt", "ground_?truth", "l", "m"),
    *("annotations?", "annots?", "anno", "mattes?", "trimaps?", "targets?", "label_?(?:train)?ids"),
)
IMAGE_WORDS = (
    *("images?", "img", "im", "photo", "rgb", "sat", "input", "picture", "frame", "training"),
    *("test", "orig", "original", "0000"),
)
BETWEEN = r"[ _.-]"
SHORT = r"(?:l|m|gt|im|0000|test)"  # only with a sign before or after them


class Ending(NamedTuple):
    """What a name has before and after the part that image and mask share."""

    before: str = ""
    after: str = ""

    def shared(self, key: str) -> str | None:
        """The key without the ending, its folders included; None if it does not have it."""
        folder, slash, name = key.rpartition("/")
        if len(name) <= len(self.before) + len(self.after):
            return None
        if not (name.startswith(self.before) and name.endswith(self.after)):
            return None
        return folder + slash + name[len(self.before) : len(name) - len(self.after)]

    def __str__(self) -> str:
        return " ... ".join(part for part in (self.before, self.after) if part)


NONE = Ending()


def patterns(words: tuple[str, ...]) -> list[re.Pattern[str]]:
    """Patterns that find a word at the end and at the beginning of a name."""
    word = rf"(?:{'|'.join(words)})"
    after = rf"{BETWEEN}{word}|(?<![a-z])(?!{SHORT}$){word}"
    before = rf"{word}{BETWEEN}|(?!{SHORT}(?![a-z])){word}(?=\d)"
    return [
        re.compile(rf".+?(?P<after>{after})$", re.I),
        re.compile(rf"(?P<before>{before}).+$", re.I),
    ]


def endings(keys: Iterable[str], words: tuple[str, ...]) -> list[Ending]:
    """The endings with one of some words that occur in names, the most common first."""
    expressions, found = patterns(words), Counter[Ending]()
    for key in sorted(keys):  # the same order always
        name = key.rpartition("/")[2]
        for expression in expressions:
            if match := expression.fullmatch(name):
                found[Ending(**match.groupdict())] += 1
    return [ending for ending, _ in found.most_common()]


def continued(images: Iterable[str], masks: Iterable[str]) -> list[Ending]:
    """What masks have after the name of the first image, if a sign comes between."""
    first = min(images, default="")
    starts = tuple(first + sign for sign in " _.-")
    return [Ending("", key[len(first) :]) for key in sorted(masks) if key.startswith(starts)]


def find(images: set[str], masks: set[str]) -> tuple[Ending, Ending, list[Ending]]:
    """The endings of images and of masks that make the most pairs.

    Args:
        images, masks: keys, which are paths without suffix.

    Returns:
        The endings of images and of masks, NONE for both if a name is in both sets or nothing
        makes a pair; and all endings of masks that make as many pairs, if there are two.
    """
    if images & masks:
        return NONE, NONE, []
    of_masks = [*endings(masks, MASK_WORDS), *continued(images, masks)]
    return best([(images, masks, ending) for ending in dict.fromkeys([NONE, *of_masks])])


def find_mixed(keys: set[str]) -> tuple[Ending, Ending, list[Ending]]:
    """As `find`, of images and masks in one set: those with the ending are the masks."""
    candidates = []
    for ending in endings(keys, MASK_WORDS):
        masks = {key for key in keys if ending.shared(key)}
        candidates.append((keys - masks, masks, ending))
    return best(candidates)


def best(
    candidates: list[tuple[set[str], set[str], Ending]],
) -> tuple[Ending, Ending, list[Ending]]:
    """Of images, masks and an ending of masks, the one that makes the most pairs; see `find`."""
    most, found, rivals = 0, (NONE, NONE), list[Ending]()
    for images, masks, mask_ending in candidates:
        shared = {mask_ending.shared(key) for key in masks} - {None}
        for image_ending in (NONE, *endings(images, IMAGE_WORDS)):
            number = len(shared & {image_ending.shared(key) for key in images})
            if number > most:
                most, found, rivals = number, (image_ending, mask_ending), [mask_ending]
            elif number and number == most and mask_ending not in rivals:
                rivals.append(mask_ending)
    return *found, rivals if len(rivals) > 1 else []
