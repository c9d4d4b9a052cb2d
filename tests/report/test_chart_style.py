"""No setting of the user changes or breaks a chart; any name is shown as it is, or by number."""

import io
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.classes import make_classes
from pipeline.prediction import legends
from pipeline.report import chart_style, charts, overlays

ROOT = Path(__file__).parents[2]
NAMES = ("pet", "border")
CHINESE = ("背景", "道路", "sky")
ODD_NAMES = ("Ba$$in", "$x^2$", "$", "_", "_background_", "^{", "\\frac", "100 %", "a  b", "naïve")
DRAW = """
import sys
from pathlib import Path
from pipeline.data.classes import make_classes
from pipeline.report import charts
rows = [
    {"epoch": k, "loss": 1 / k, "mean_iou": 0.5, "iou_pet": 0.4, "iou_border": 0.6} for k in (1, 2)
]
figure = charts.curves(rows, "Training of a network", make_classes(("pet", "border")))
charts.save(figure, Path(sys.argv[1]))
"""


def history(names):
    """Two epochs of a training on classes of these names."""
    values = {f"iou_{name}": 0.4 + 0.2 * k for k, name in enumerate(names)}
    return [{"epoch": epoch, "loss": 1 / epoch, "mean_iou": 0.5} | values for epoch in (1, 2)]


def drawn(figure):
    """The figure as PNG; fails where matplotlib warns of a letter without a glyph."""
    content = io.BytesIO()
    with chart_style.style(), warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(content, format="png", dpi=chart_style.DOTS_PER_INCH)
    return content.getvalue()


def legend_labels(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def run_python(code, *arguments, folder, **environment):
    """Runs code in a process of its own, whose working directory is `folder`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    environment = {key: value for key, value in environment.items() if value is not None}
    code = code.encode("ascii", "backslashreplace").decode()  # a locale may know ASCII alone
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout.decode(errors="replace")


# --- settings -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ordinary_chart():
    return drawn(charts.curves(history(NAMES), "Training of a network", make_classes(NAMES)))


USER_SETTINGS = b"text.usetex: True\nfont.family: serif\nfont.size: 20\naxes.facecolor: red\n"
UNREADABLE = b"font.size: 20 # \xff\n"


@pytest.mark.parametrize(
    ("variables", "file", "content"),
    [
        ({"MPLBACKEND": "module://matplotlib_inline.backend_inline"}, "", b""),
        ({"MATPLOTLIBRC": "settings"}, "settings", USER_SETTINGS),
        ({"MATPLOTLIBRC": "settings"}, "settings", UNREADABLE),
        ({}, "matplotlibrc", UNREADABLE),
    ],
    ids=["notebook", "settings", "unreadable", "unreadable-here"],
)
def test_settings_of_the_user_change_no_chart(ordinary_chart, tmp_path, variables, file, content):
    if file:
        (tmp_path / file).write_bytes(content)
    run_python(DRAW, "chart.png", folder=tmp_path, **variables)
    assert (tmp_path / "chart.png").read_bytes() == ordinary_chart


def test_user_without_a_home_gets_the_same_chart(ordinary_chart, tmp_path):
    """As in a container that runs under a number that no user has."""
    code = "import pwd\ndef nobody(number): raise KeyError(number)\npwd.getpwuid = nobody\n" + DRAW
    homes = dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR"))
    run_python(code, "chart.png", folder=tmp_path, TMPDIR=str(tmp_path), **homes)
    assert (tmp_path / "chart.png").read_bytes() == ordinary_chart
    assert [path.name for path in tmp_path.iterdir()] == ["chart.png"], "the list of fonts is gone"


def test_variables_and_backend_are_as_before_once_matplotlib_is_imported(tmp_path):
    (tmp_path / "matplotlibrc").write_bytes(UNREADABLE)
    ask = "import matplotlib, os; print(os.environ['MPLBACKEND'], os.environ['MATPLOTLIBRC'])\n"
    ask += "print(matplotlib.get_backend(), os.getcwd())"
    variables = {"MPLBACKEND": "svg", "MATPLOTLIBRC": "settings"}
    output = run_python(DRAW + ask, "chart.png", folder=tmp_path, **variables)
    assert output.split() == ["svg", "settings", "svg", str(tmp_path.resolve())]


def test_settings_of_a_notebook_neither_change_a_chart_nor_are_changed(ordinary_chart):
    import matplotlib

    own = {"text.usetex": True, "font.size": 20, "axes.facecolor": "red", "savefig.bbox": "tight"}
    with matplotlib.rc_context(own):
        before = matplotlib.rcParams.copy()
        chart = charts.curves(history(NAMES), "Training of a network", make_classes(NAMES))
        content = chart_style.rendered(chart, "png")
        with pytest.raises(ZeroDivisionError), chart_style.style():
            raise ZeroDivisionError
        assert matplotlib.rcParams.copy() == before
    assert content == ordinary_chart


def test_same_figure_has_the_same_svg():
    figures = [charts.curves(history(NAMES), "Training", make_classes(NAMES)) for _ in range(2)]
    first, second = (chart_style.rendered(figure, "svg") for figure in figures)
    assert first == second and b"<svg" in first


def test_text_files_are_utf8_under_an_ascii_locale(numbers, tmp_path):
    """Also the report, with names that the terminal cannot show."""
    code = """
import json, locale, sys
from pathlib import Path
from pipeline.base.files import write_csv, write_json
from pipeline.base import artifacts, console
from pipeline.report import page

def main():
    assert locale.getpreferredencoding(False) != "UTF-8"
    evaluation = json.loads(Path("numbers.json").read_text(encoding="utf-8"))
    html = page.page(evaluation, Path("models"))
    Path("report.html").write_text(html, encoding="utf-8")
    write_json(Path("record.json"), {"class_names": ["背景"]})
    write_csv(Path("table.csv"), [{"iou_背景": 1, "caf\\udce9": 2}])

console.run(main)
"""
    shown = dict(zip(numbers["dataset"]["class_names"], (*CHINESE[:2], "\u1780")))
    text = json.dumps(numbers)
    for name, other in shown.items():
        text = text.replace(json.dumps(name), json.dumps(other))
    (tmp_path / "numbers.json").write_text(text, encoding="utf-8")
    ascii_locale = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    run_python(code, folder=tmp_path, **ascii_locale)
    assert "背景" in (tmp_path / "report.html").read_text(encoding="utf-8")
    table = (tmp_path / "table.csv").read_text(encoding="utf-8")
    assert table.split() == ["iou_背景,caf?", "1,2"]
    assert json.loads((tmp_path / "record.json").read_bytes()) == {"class_names": ["背景"]}


# --- names ----------------------------------------------------------------------------------


def test_names_are_no_formulas():
    """A legend that collects its entries itself leaves out what starts with an underscore."""
    classes = make_classes(ODD_NAMES)
    figure = charts.curves(history(ODD_NAMES), "$a_b^$ of 'Ba$$in'", classes)
    drawn(figure)
    assert legend_labels(figure) == [*ODD_NAMES, "mean IoU"]
    assert figure.get_suptitle() == "$a_b^$ of 'Ba$$in'"
    groups = {name: ("red", [0.5, 0.6]) for name in ODD_NAMES}
    figure = charts.bars(["Ba$$in", "$x^$"], groups, "IoU", "{:.3f}")
    drawn(figure)
    assert legend_labels(figure) == [*ODD_NAMES]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["Ba$$in", "$x^$"]


@pytest.mark.parametrize(
    "name", [*ODD_NAMES, "caf\udce9", "two\nlines", "a\x1b[31m\tb\x00", "\u200b"]
)
def test_no_name_or_title_stops_a_chart(tmp_path, name):
    image, mask = np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 8, 8), np.uint8)
    classes = make_classes((name, "other"))
    charts.save(overlays.examples(image, mask, f"data/{name}", classes), tmp_path / "dataset.jpg")
    legends.draw_legend(classes, np.array([[0.75, 0.25]]), tmp_path / "legend.png")
    for file in ("dataset.jpg", "legend.png"):
        with Image.open(tmp_path / file) as picture:
            picture.load()


def test_layers_of_any_name_are_shown():
    rows = [
        {"layer": "$x^$_背", "weights": 512, "kind": "CONV_2D", "30%": 0.1, "snr_db": 9, "drop": 0}
    ]
    drawn(charts.pruning_sensitivity(rows))
    drawn(charts.int8_sensitivity(rows))


# --- fonts ----------------------------------------------------------------------------------


def make_font(path, family, letters, empty=False):
    """Writes a font whose glyphs are rectangles, or without an outline."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen, names = TTGlyphPen(None), [".notdef", *(f"letter{k}" for k in range(len(letters)))]
    if not empty:
        pen.moveTo((100, 0))
        for corner in ((100, 700), (800, 700), (800, 0)):
            pen.lineTo(corner)
        pen.closePath()
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(names)
    font.setupCharacterMap(dict(zip(map(ord, letters), names[1:])))
    font.setupGlyf(dict.fromkeys(names, pen.glyph()))
    font.setupHorizontalMetrics(dict.fromkeys(names, (900, 100)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": family, "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(path)
    return path


@pytest.fixture
def install_fonts(monkeypatch):
    """Function that makes the given font files the only installed ones besides DejaVu Sans."""
    from matplotlib import font_manager

    manager = font_manager.fontManager

    def forget():
        manager._findfont_cached.cache_clear()
        chart_style.fallback_fonts.cache_clear()

    def install(*paths):
        default = [entry for entry in manager.ttflist if entry.name == chart_style.DEFAULT_FONT]
        entries = [font_manager.ttfFontProperty(font_manager.get_font(path)) for path in paths]
        monkeypatch.setattr(manager, "ttflist", default + entries)
        monkeypatch.setattr(chart_style, "_noted", set())
        forget()

    yield install
    monkeypatch.undo()
    forget()


def test_names_without_a_font_are_numbers_and_one_note_says_so(install_fonts, capsys):
    install_fonts()
    classes = make_classes(CHINESE)
    for _ in range(2):
        figure = charts.curves(history(CHINESE), "Training", classes)
        drawn(figure)
        assert legend_labels(figure) == ["class 0", "class 1", "sky", "mean IoU"]
    image, mask = np.zeros((1, 8, 8, 3), np.uint8), np.ones((1, 8, 8), np.uint8)
    figure = overlays.examples(image, mask, "Training", classes)
    drawn(figure)
    assert legend_labels(figure) == ["class 1"]
    figure = legends.legend_figure(classes, np.array([[0, 0.4, 0.6]]))
    drawn(figure)
    assert legend_labels(figure) == ["sky (2): 60.0%", "class 1 (1): 40.0%"]
    figure = charts.bars(["int8"], {name: ("red", [0.5]) for name in CHINESE}, "IoU", "{:.3f}")
    drawn(figure)
    assert legend_labels(figure) == ["class 0", "class 1", "sky"]
    assert capsys.readouterr().out == (
        "note: the charts show class numbers: no installed font has the letters of '背景', '道路'\n"
    )


def test_letters_that_the_default_font_lacks_are_drawn_with_another(
    install_fonts, tmp_path, capsys
):
    fonts = [make_font(tmp_path / f"{k}.ttf", f"Font {k}", "背景道路"[k : k + 3]) for k in range(2)]
    install_fonts(*fonts)
    figure = charts.curves(history(CHINESE), "Training on 道路", make_classes(CHINESE))
    drawn(figure)
    assert legend_labels(figure) == [*CHINESE, "mean IoU"]
    families = [text.get_fontfamily() for text in figure.legends[0].get_texts()]
    assert families[0][1:] == ["Font 0"] and families[1][1:] and not families[2][1:]
    assert figure.get_suptitle() == "Training on 道路"
    assert chart_style.fallback_fonts(frozenset("背路")) == (("Font 0", "Font 1"), frozenset())
    assert capsys.readouterr().out == ""
    assert drawn(figure) == drawn(figure)
    assert b"<svg" in chart_style.rendered(figure, "svg")


def test_fonts_that_show_no_letters_are_not_used(install_fonts, tmp_path):
    """Placeholders for every letter, glyphs without an outline (as of emoji), no font at all."""
    broken = make_font(tmp_path / "broken.ttf", "Broken", CHINESE[0])
    install_fonts(
        make_font(tmp_path / "boxes.ttf", "Last Resort", CHINESE[0]),
        make_font(tmp_path / "empty.ttf", "Empty", CHINESE[0], empty=True),
        broken,
    )
    broken.write_bytes(b"")
    assert chart_style.class_labels(CHINESE) == ["class 0", "class 1", "sky"]


def test_title_without_a_font_keeps_its_other_letters(install_fonts, capsys):
    install_fonts()
    figure = charts.curves(history(NAMES), "Training on caf\udce9/背", make_classes(NAMES))
    drawn(figure)
    assert (
        figure.get_suptitle()
        == "Training on caf\N{REPLACEMENT CHARACTER}/\N{REPLACEMENT CHARACTER}"
    )
    output = capsys.readouterr().out
    assert output.startswith("note: a chart shows ") and r"\udce9" in output and "背" in output


def test_many_names_make_a_short_note(install_fonts, capsys):
    install_fonts()
    names = [chr(0x4E00 + k) for k in range(9)]
    assert chart_style.class_labels(names) == [f"class {k}" for k in range(9)]
    assert capsys.readouterr().out.rstrip().endswith("'一', '丁', '丂', '七', '丄' and 4 more")
