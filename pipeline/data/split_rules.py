"""Rules that cut a test or a validation split off the training split of a data set.

`ranked` is for one's own pictures: it ranks them by a hash of seed and name, so that a picture
that comes or goes moves at most one other across each border. It also keeps groups together.
`permuted` draws from the order of the samples; the pets and the drawn animals keep it, because
their published figures are of these splits.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from pipeline.base import commands
from pipeline.base.console import UserError, say
from pipeline.data.sample_source import Collection

SHARES = {"test": 0.2, "validation": 0.1}  # of the training split that is left, in this order
# A name in two parts: what the frames of a sequence have in common, and the number of the frame.
FRAME = r"(.*?)\d+\D*\.\w+$"
FRAME_WORD = re.compile(r"frame|video|clip|seq|scene|scan|slice", re.IGNORECASE)
FEWEST_FRAMES = 5  # pictures that make a sequence
GROUPS_NEEDED = 3  # one for each split

Choose = Callable[[np.ndarray, str], np.ndarray]


@dataclass(frozen=True)
class Rule:
    """How the splits that a data set lacks are cut.

    `choose(rows, split)` takes the numbers of the samples of the training split that are left,
    int (n,), and returns bool (n,): which of them become the split, at least one.
    """

    text: str  # for the record and the console
    choose: Choose
    with_seed: Callable[[int], Choose]  # the same rule with another seed


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this module."""
    parser.add_argument(
        "--group",
        metavar="PATTERN",
        help="pictures of one group stay in one split: a regular expression that is searched in "
        r"the names that examples-*.csv lists, as 'patient(\d+)' for images/patient07_3.png",
    )


def missing_splits(collection: Collection) -> list[str]:
    """The splits that a data set lacks, in the order in which they are cut."""
    return [split for split in SHARES if split not in collection.splits]


def rule_of(collection: Collection, seed: int, pattern: str | None, published: bool) -> Rule:
    """The rule for the missing splits of a data set; says where names look like frames.

    Args:
        pattern: --group.
        published: whether there are published figures of the splits, so that they must stay.

    Raises:
        UserError: the pattern is not valid, matches no name, or has no effect.
    """
    missing = missing_splits(collection)
    if pattern and not missing:
        raise UserError(f"--group does nothing: {collection.title} has all splits; leave it out")
    if published or not missing:
        return Rule(f"by a permutation that --seed {seed} draws", permuted(seed), permuted)
    names = [name_of(sample.id) for sample in collection.splits["train"].read()]
    text, groups = f"by a hash of --seed {seed} and name", names
    if pattern is not None:
        text = f"by a hash of --seed {seed} and --group {commands.line(pattern)}"
        groups = groups_of(names, pattern)
    elif collection.named and (hint := hint_at_sequences(names)):
        say(hint)
    with_seed = functools.partial(ranked, groups=groups, pattern=pattern)
    return Rule(text, with_seed(seed), with_seed)


def record(collection: Collection, rule: Rule) -> dict[str, str]:
    """For dataset.json: where the test and the validation split come from."""
    missing = missing_splits(collection)
    return {split: rule.text if split in missing else "of the data set" for split in SHARES}


def name_of(sample_id: str) -> str:
    """A name that is the same on every system: with "/", accents in Unicode form NFC."""
    return unicodedata.normalize("NFC", sample_id.replace(os.sep, "/"))


def number_wanted(rows: np.ndarray, split: str) -> int:
    """The size of a missing split that is cut from these rows."""
    return max(1, round(SHARES[split] * len(rows)))


# --- the rules ------------------------------------------------------------------------------


def permuted(seed: int) -> Choose:
    """Draws from a permutation of the samples, in the order that the data set has them in."""

    def choose(rows: np.ndarray, split: str) -> np.ndarray:
        order = np.random.default_rng(seed).permutation(len(rows))
        chosen = np.zeros(len(rows), bool)
        chosen[order[: number_wanted(rows, split)]] = True
        return chosen

    return choose


def ranked(seed: int, groups: list[str], pattern: str | None = None) -> Choose:
    """Takes the groups of the lowest hashes.

    Args:
        groups: of every sample of the training split; its name, if each is a group of its own.
        pattern: that made the groups, for messages.
    """
    keys = np.array([key_of(seed, group) for group in groups], np.uint64)

    def choose(rows: np.ndarray, split: str) -> np.ndarray:
        _, first, group, sizes = np.unique(keys[rows], True, True, True)  # sorted by their keys
        if pattern and len(sizes) == 1:
            raise UserError(
                f"--group {commands.line(pattern)} leaves one group, {groups[rows[first[0]]]!r} "
                f"with {sizes[0]} pictures, to cut the {split} split from; use a pattern with more "
                "and smaller groups, or name the splits: images/train, images/val, images/test"
            )
        return nearest(sizes, number_wanted(rows, split))[group]

    return choose


def key_of(seed: int, group: str) -> int:
    """A hash of 64 bits."""
    text = f"{seed}/{group}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")


def nearest(sizes: np.ndarray, wanted: int) -> np.ndarray:
    """Which groups, in the order given, together have about as many members as wanted.

    A group that would lead farther above `wanted` than the members so far are below it is passed
    over. If that leaves none, the smallest group is taken.

    Args:
        sizes: members of each group, int (n,).

    Returns:
        bool (n,).
    """
    taken, number = np.zeros(len(sizes), bool), 0
    for position, size in enumerate(sizes.tolist()):
        if number >= wanted:
            break
        if number + size - wanted <= wanted - number:
            taken[position] = True
            number += size
    if len(sizes) and not number:
        taken[sizes.argmin()] = True
    return taken


# --- groups ---------------------------------------------------------------------------------


def groups_of(names: Iterable[str], pattern: str) -> list[str]:
    """The group of every name: what the pattern's parentheses match, or else all of it.

    A name that the pattern does not match is a group of its own; how many are is printed.

    Raises:
        UserError: the pattern is not valid, or matches no name.
    """
    quoted = commands.line(pattern)
    try:
        expression = re.compile(pattern)
    except re.error as error:
        reason = f"is not a regular expression ({error})"
        raise UserError(f"--group {quoted} {reason}; correct it") from None
    groups, alone = [], []
    for name in names:
        match = expression.search(name)
        if match:
            groups.append("/".join(part or "" for part in match.groups()) or match[0])
        else:
            groups.append(name)
            alone.append(name)
    if len(alone) == len(groups):
        example = f" (such as {alone[0]})" if alone else ""
        raise UserError(
            f"--group {quoted} matches none of the {len(groups)} names{example}; correct it"
        )
    if alone:
        say(
            f"note: --group {quoted} matches {len(groups) - len(alone)} of {len(groups)} names; "
            f"each of the others is a group of its own, such as {alone[0]}"
        )
    return groups


def hint_at_sequences(names: Iterable[str]) -> str:
    """A note if most names look like frames of sequences; "" if they do not."""
    frames: Counter[str] = Counter()
    first: dict[str, str] = {}  # by what its frames have in common
    number = 0
    for name in names:
        number += 1
        if match := re.match(FRAME, name):
            frames[match[1]] += 1
            first.setdefault(match[1], name)
    sequences = [start for start, count in frames.items() if count >= FEWEST_FRAMES]
    many = sum(frames[start] for start in sequences) >= number / 2
    # One sequence alone may be any numbered pictures, unless its name says more.
    if not many or not (len(sequences) > 1 or any(map(FRAME_WORD.search, sequences))):
        return ""
    if len(frames) >= GROUPS_NEEDED:
        remedy = f"to keep each in one split: --group {commands.line(FRAME)}"
    else:
        remedy = "name the splits yourself: images/train, images/val, images/test"
    return (
        f"note: names like {first[sequences[0]]} look like frames of the same sequence; where its "
        f"frames are in two splits, the IoU is better than on new pictures; {remedy}"
    )
