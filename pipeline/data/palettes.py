"""Decides for all masks of a data set together what an index of an indexed mask means.

Where the palettes agree, the index is the value. Where they differ in what an index looks like, as
programs leave them that sort a palette by frequency or drop its unused entries, only the colours
can carry the meaning.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.base.console import UserError
from pipeline.data.classes import FEWEST, IGNORED, MOST, Colour
from pipeline.data.label_mapping import Labels
from pipeline.data.masks import GREY, INDEX

BLACK = (0, 0, 0)  # what an index looks like that the palette does not have
SHOWN = 12  # colours that a message lists at most


def colour_at(palette: bytes, index: int) -> Colour | None:
    """The colour of an index; None if the palette has no such entry."""
    entry = palette[3 * index : 3 * index + 3]
    return (entry[0], entry[1], entry[2]) if len(entry) == 3 else None


class Reference(NamedTuple):
    """Indices and colours as most masks of a data set have them."""

    colours: dict[int, Colour]  # by index
    indices: dict[Colour, int]  # by colour

    def contradiction(self, palette: bytes, values: Iterable[int]) -> int | None:
        """The first value of a mask that most other masks show otherwise; None if there is none.

        Args:
            palette: of the mask.
            values: that occur in it.
        """
        for value in sorted(values):
            colour = colour_at(palette, value) or BLACK
            index = self.indices.get(colour, value)
            # Two indices of one palette may look the same, as its black rest does.
            if self.colours[value] != colour:
                return value
            if index != value and colour_at(palette, index) != colour:
                return value
        return None


@dataclass
class Palettes:
    """The palettes of the masks of a data set, and which of their entries occur."""

    used: dict[bytes, set[int]] = field(default_factory=dict)  # indices in use, by palette
    files: Counter[bytes] = field(default_factory=Counter)  # number of masks, by palette
    plain: set[int] = field(default_factory=set)  # values of masks without a palette

    def add(self, palette: bytes, values: Iterable[int]) -> None:
        """Adds one mask: its palette, empty if it has none, and the values in it."""
        if palette:
            self.files[palette] += 1
            self.used.setdefault(palette, set()).update(values)
        else:
            self.plain.update(values)

    def entries(self) -> dict[int, Counter[Colour]]:
        """By index, how many masks with it show it in which colour."""
        entries: dict[int, Counter[Colour]] = defaultdict(Counter)
        for palette, indices in self.used.items():
            for index in indices:
                entries[index][colour_at(palette, index) or BLACK] += self.files[palette]
        return entries

    def disagree(self) -> bool:
        """Whether two masks show an index in two colours, or a colour at two indices."""
        entries = self.entries()
        if any(len(colours) > 1 for colours in entries.values()):
            return True
        by_colour: dict[Colour, list[tuple[int, bytes]]] = defaultdict(list)
        for palette, indices in self.used.items():
            for index in indices:
                by_colour[colour_at(palette, index) or BLACK].append((index, palette))
        return any(
            index != other and colour not in (colour_at(palette, other), colour_at(second, index))
            for colour, places in by_colour.items()
            for index, palette in places[:1]
            for other, second in places[1:]
        )

    def reference(self) -> Reference:
        """What most masks show each index in."""
        common = {index: colours.most_common(1)[0][0] for index, colours in self.entries().items()}
        return Reference(common, {colour: index for index, colour in common.items()})

    def greys_only(self) -> bool:
        """Whether all entries in use are greys."""
        return all(
            red == green == blue
            for colours in self.entries().values()
            for red, green, blue in colours
        )


def meaning_of(palettes: Palettes, labels: Labels) -> tuple[str, str]:
    """What carries the meaning of indexed masks: INDEX or GREY; and a note on it, or "".

    A palette of colours is read by index; masks that contradict the others are faults.
    """
    entries = palettes.entries()
    if not entries or not palettes.greys_only():
        return INDEX, ""
    greys = {grey for colours in entries.values() for grey, _, _ in colours}
    number, indices = sum(palettes.files.values()), set(entries)
    listed = ", ".join(map(str, sorted(greys)[:SHOWN])) + (", ..." if len(greys) > SHOWN else "")
    start = f"note: {number} masks are indexed, with palettes of greys"
    if palettes.disagree():
        return GREY, (
            f"{start} that differ in what an index looks like; so the greys are the values "
            f"({listed})"
        )
    if all(index == grey for index, colours in entries.items() for grey, _, _ in colours):
        return INDEX, ""
    named = (labels.mapping.keys() & greys) - indices  # by the user, who means greys
    classes = [grey for grey in greys if labels.mapping.get(grey) != IGNORED]
    if named and len(classes) >= FEWEST:
        return GREY, f"{start}; the greys are the values ({listed}), as the command line names them"
    if max(greys) <= MOST:  # shrunk grey masks, whatever the order
        return GREY, f"{start}; the greys are the values ({listed})"
    if not greys <= palettes.plain:
        return INDEX, ""
    if not indices <= palettes.plain:
        return GREY, f"{start}; the greys are the values ({listed}), as in the other masks"
    index = min(index for index, colours in entries.items() if (index,) * 3 not in colours)
    grey = entries[index].most_common(1)[0][0][0]
    raise UserError(
        f"{number} masks are indexed, and their index {index} looks like the grey {grey}; other "
        f"masks hold both {index} and {grey}, so nothing tells which of them is meant; save all "
        "masks as 8-bit grey, or map the greys as colours: --label-mapping "
        + ",".join(f"{v},{v},{v}:{k}" for k, v in enumerate(sorted(palettes.plain)[:SHOWN]))
    )
