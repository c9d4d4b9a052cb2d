"""What the mirror image of a picture means: whether to train on it, and which classes change sides.

Flipping doubles the examples where left and right mean the same. It is wrong where they do not: for
writing, for a class "left lung", for the lanes of a road.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.base.console import UserError


class Mirror(NamedTuple):
    """How a training treats mirror images."""

    flips: bool = True  # whether it sees any
    # The class that each class becomes in the mirror, by index; (): each stays what it is.
    classes: tuple[int, ...] = ()

    def as_metrics(self) -> dict[str, Any]:
        """For the record of a model; later stages read it with `recorded`."""
        return {"flips": self.flips, "classes": list(self.classes)}


USUAL = Mirror()


def recorded(metrics: Mapping[str, Any]) -> Mirror:
    """How the training of a model treated mirror images; older records do not tell: as usual."""
    known = metrics.get("mirror") or {}
    return Mirror(bool(known.get("flips", True)), tuple(known.get("classes", ())))


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --no-flip and --swap-on-flip."""
    parser.add_argument(
        "--no-flip",
        action="store_true",
        help="do not train on mirror images: where left and right differ, as in writing",
    )
    parser.add_argument(
        "--swap-on-flip",
        nargs="+",
        metavar="LEFT,RIGHT",
        help="two classes that change places in a mirror image, as left_hand,right_hand; more "
        "pairs after a space",
    )


def asked(arguments: argparse.Namespace, names: Sequence[str]) -> Mirror:
    """What the flags ask for.

    Args:
        names: of the classes, in the order of their indices.

    Raises:
        UserError: --swap-on-flip names no two classes of the data set, or one of them twice.
    """
    classes = list(range(len(names)))
    for pair in arguments.swap_on_flip or ():
        left, _, right = pair.partition(",")
        if left == right or not {left, right} <= set(names):
            raise UserError(
                f"--swap-on-flip {pair}: not two classes of the data set, as LEFT,RIGHT; it has "
                f"{', '.join(names)}"
            )
        one, other = names.index(left), names.index(right)
        if (classes[one], classes[other]) != (one, other):
            raise UserError(f"--swap-on-flip {pair}: a class is in two pairs; name each once")
        classes[one], classes[other] = other, one
    changes = classes != list(range(len(names)))
    return Mirror(not arguments.no_flip, tuple(classes) if changes else ())
