"""How every chart is drawn: matplotlib's default settings, no formulas, a font for each letter.

matplotlib can read text between two dollar signs as a formula (mathtext), takes its settings from
the user's matplotlibrc, and draws an empty box for a letter that its font lacks. Names of classes,
files and layers are any text, so that all three are switched off or replaced here.
"""

from __future__ import annotations

import contextlib
import functools
import io
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ParamSpec

from pipeline.base.console import say
from pipeline.base.lazy import (
    matplotlib,
    matplotlib_fonts,
    matplotlib_ft2font,
    matplotlib_text,
)
from pipeline.base.text_table import shortened

SETTINGS = {
    "text.parse_math": False,
    "text.usetex": False,
    "svg.hashsalt": "report",  # the same figure, the same bytes
}
DOTS_PER_INCH = 110  # of PNG and JPEG files
DEFAULT_FONT = "DejaVu Sans"  # comes with matplotlib
NO_GLYPH = "\N{REPLACEMENT CHARACTER}"  # DejaVu Sans has it
NAMES_IN_NOTE = 5
FONTS_OF_BOXES = ("lastresort", "notdef")  # fonts whose glyphs are placeholders, not letters

Parameters = ParamSpec("Parameters")
_noted: set[str] = set()  # names and texts for which a note was printed


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draws with matplotlib's defaults and SETTINGS; afterwards the user's settings are back.

    Both making and saving a figure belong inside: some settings are read when a text is made,
    others when it is drawn. Also works as a decorator.
    """
    with matplotlib.rc_context():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some defaults are settings that are deprecated
            defaults = dict(matplotlib.rcParamsDefault)
            del defaults["backend"]  # the user's stays: files need none
            matplotlib.rcParams.update(defaults | SETTINGS)
        yield


@style()
def rendered(figure: Any, kind: str) -> bytes:
    """The content of a figure's file of this kind ("png", "jpg", "svg").

    Drawn into memory: on a full disk Pillow leaves half a JPEG and reports no error.
    """
    content = io.BytesIO()
    options: dict[str, Any] = {"dpi": DOTS_PER_INCH}
    if kind == "svg":
        options = {"metadata": {"Date": None}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names so long that they leave the axes no room
        figure.savefig(content, format=kind, **options)
    return content.getvalue()


def styled(draw: Callable[Parameters, Any]) -> Callable[Parameters, Any]:
    """Decorator for a function that returns a figure: it runs in `style`, with fonts that fit.

    Texts with letters that the default font lacks get another installed font in addition.
    """

    @functools.wraps(draw)
    def draw_styled(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Any:
        with style():
            figure = draw(*args, **kwargs)
            for text in figure.findobj(matplotlib_text.Text):
                families, _ = fallback_fonts(missing_letters(text.get_text()))
                if families:
                    text.set_fontfamily([*text.get_fontfamily(), *families])
            return figure

    return draw_styled


# --- texts ----------------------------------------------------------------------------------


def class_labels(names: Sequence[str], indices: Sequence[int] | None = None) -> list[str]:
    """What a chart calls the classes, or those with these indices: their names.

    A class whose name has letters of no installed font is called by its number, "class 3"; a note
    that says so is printed once for each name.
    """
    labels, undrawable = [], []
    for index in range(len(names)) if indices is None else indices:
        label = clean(names[index])
        if not label.strip() or fallback_fonts(missing_letters(label))[1]:
            undrawable.append(names[index])
            label = f"class {index}"
        if (short := shortened(label)) != label:
            label = f"{short} (class {index})"  # unlike another that begins so
        labels.append(label)
    if new := [name for name in undrawable if name not in _noted]:
        _noted.update(new)
        listed = ", ".join(map(repr, new[:NAMES_IN_NOTE]))
        more = f" and {len(new) - NAMES_IN_NOTE} more" if len(new) > NAMES_IN_NOTE else ""
        say(
            "note: the charts show class numbers: no installed font has the letters of "
            f"{listed}{more}"
        )
    return labels


def chart_text(text: str) -> str:
    """A title or another text, with U+FFFD for letters of no installed font, which a note says."""
    text = clean(text)
    _, lacking = fallback_fonts(missing_letters(text))
    if lacking and text not in _noted:
        _noted.add(text)
        say(
            f"note: a chart shows {NO_GLYPH} for letters that no installed font has: "
            f"{''.join(sorted(lacking))!r} in {text!r}"
        )
    return "".join(NO_GLYPH if letter in lacking else letter for letter in text)


def clean(text: str) -> str:
    """Text without characters that are no letters: a space for each control character and blank.

    Line feeds stay. Marks without a width (a zero-width joiner, a variation selector) are dropped:
    matplotlib joins no letters, and most fonts lack them.
    """
    if text.isascii() and text.isprintable():
        return text
    letters = []
    for letter in text:
        category = unicodedata.category(letter)
        if category == "Cf" or "\ufe00" <= letter <= "\ufe0f":
            continue
        letters.append(" " if category in ("Cc", "Zs", "Zl", "Zp") and letter != "\n" else letter)
    return "".join(letters)


# --- fonts ----------------------------------------------------------------------------------


def missing_letters(text: str) -> frozenset[str]:
    """Those characters of a text for which the default font has no glyph."""
    if text.isascii() and text.isprintable():
        return frozenset()
    letters = frozenset(text) - {"\n", " "}
    return letters - _default_font_letters(letters)


@functools.lru_cache
def _default_font_letters(letters: frozenset[str]) -> frozenset[str]:
    path = matplotlib_fonts.findfont(matplotlib_fonts.FontProperties(family=[DEFAULT_FONT]))
    return letters_in(path, letters)


@functools.lru_cache
def fallback_fonts(letters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Families of installed fonts that together have these letters, and the letters of none."""
    coverage: dict[str, set[str]] = {}
    for entry in matplotlib_fonts.fontManager.ttflist if letters else ():
        plain_name = entry.name.lower().replace(" ", "")
        if not any(word in plain_name for word in FONTS_OF_BOXES):
            coverage.setdefault(entry.name, set()).update(letters_in(entry.fname, letters))
    families, lacking = [], letters
    for family in sorted(coverage, key=lambda name: (-len(coverage[name]), name)):
        if not coverage[family] & lacking:
            continue
        # The file that matplotlib takes of a family need not be the one that has the letters.
        path = matplotlib_fonts.findfont(matplotlib_fonts.FontProperties(family=[family]))
        if drawn := letters_in(path, lacking):
            families.append(family)
            lacking -= drawn
    return tuple(families), lacking


def letters_in(path: str, letters: frozenset[str]) -> frozenset[str]:
    """Those letters for which a font file has an outline; none if it cannot be read.

    Fonts of coloured pictures (emoji) hold bitmaps, which matplotlib cannot draw.
    """
    drawn: set[str] = set()
    try:
        font = matplotlib_ft2font.FT2Font(path)
        font.set_size(12, 72)
        for letter in letters:
            if font.get_char_index(ord(letter)):
                font.load_char(ord(letter))
                outline, _ = font.get_path()
                drawn.update(letter if len(outline) else "")
    except (OSError, RuntimeError, ValueError):
        return frozenset()
    return frozenset(drawn)
