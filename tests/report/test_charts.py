"""Charts show the numbers that they get: the best epoch, the Pareto front, the worst operators."""

import numpy as np
import pytest
from PIL import Image

from pipeline.data.classes import make_classes
from pipeline.report import charts
from tests.helpers.runs import CLASSES

HISTORY = [
    {"epoch": epoch, "loss": 1 / epoch, "mean_iou": iou, **{f"iou_{name}": iou for name in CLASSES}}
    for epoch, iou in enumerate((0.4, 0.6, 0.5), 1)
]


def words(figure):
    """All texts of a figure: names, numbers, titles."""
    figure.draw_without_rendering()  # the labels along an axis are made then
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".svg"])
def test_full_disk_raises_an_error_and_leaves_no_file(full_disk, tmp_path, suffix):
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().plot(range(9))
    with pytest.raises(OSError):
        charts.save(figure, tmp_path / f"chart{suffix}")
    assert not list(tmp_path.iterdir())


def test_pareto_front_holds_the_points_that_no_other_beats():
    points = [(3.0, 0.7), (1.0, 0.5), (2.0, 0.5), (2.5, 0.8), (1.0, 0.4)]
    assert charts.pareto_front(points) == [(1.0, 0.5), (2.5, 0.8)]


def test_curves_mark_the_best_epoch():
    figure = charts.curves(HISTORY, "Training of a network", make_classes(CLASSES))
    assert "0.6000" in words(figure) and "Training of a network" in words(figure)
    assert {"mean IoU", *CLASSES} <= set(words(figure))
    kept = charts.curves(HISTORY, "Pruning", make_classes(CLASSES), 3)
    assert "0.5000" in words(kept) and "0.6000" not in words(kept), "the epoch that was kept"
    loss, iou = figure.axes
    assert loss.lines[0].get_xydata().tolist() == [[1, 1], [2, 1 / 2], [3, 1 / 3]]
    assert [list(line.get_xydata()[0]) for line in iou.lines if len(line.get_xydata()) == 1] == [
        [2, 0.6]
    ]


def test_self_distillation_loss_is_a_line_of_its_own():
    history = [row | {"part": part} for row, part in zip(HISTORY, (1, 1, 2))]
    figure = charts.curves(history, "Training", make_classes(CLASSES))
    lines = [line.get_xydata().tolist() for line in figure.axes[0].lines]
    assert lines == [[[1, 1], [2, 1 / 2]], [[3, 1 / 3]]]
    assert [len(line.get_xydata()) for line in figure.axes[1].lines] == [3] * 4 + [1]


def test_curves_of_many_classes_have_one_legend_entry():
    names = tuple(f"class {k}" for k in range(40))
    history = [
        {"epoch": 1, "loss": 1, "mean_iou": 0.4, **{f"iou_{name}": 0.4 for name in names}},
        {"epoch": 2, "loss": 1, "mean_iou": 0.5, **{f"iou_{name}": None for name in names}},
    ]
    figure = charts.curves(history, "Training", make_classes(names))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["mean IoU"]
    assert len(figure.axes[1].lines) == len(names) + 2  # the mean and its best epoch


@pytest.mark.parametrize(("colour", "drawn"), [((0, 114, 178), "#0072b2"), ((255,) * 3, "#b2b2b2")])
def test_line_of_a_class_is_visible_on_white(colour, drawn):
    assert charts.line_colour(colour) == drawn


def test_trade_off_draws_the_pareto_front_and_names_every_model(numbers):
    rows = numbers["models"]
    for k, row in enumerate(rows):
        row["mean_iou"] = 0.70 if k == len(rows) - 1 else 0.76
    costs = [row["bytes"] / 1e6 for row in rows]  # each is smaller than the one before
    figure = charts.trade_off(rows, costs, "size of the file, MB")
    front = figure.axes[0].lines[0].get_xydata().tolist()
    assert front == [[costs[-1], 0.70], [costs[-2], 0.76]]
    assert {"size of the file, MB", "mean IoU", *(row["name"] for row in rows)} <= set(
        words(figure)
    )


def test_models_stand_in_the_legend_in_their_colours_the_most_accurate_first(numbers):
    """Also where several lie in the same place, and a name begins with "_"."""
    rows = numbers["models"][:4]
    for row, name, iou in zip(rows, ("_low", "high", "mid", "$mid$"), (0.7, 0.9, 0.8, 0.8)):
        row |= {"name": name, "mean_iou": iou, "mean_iou_interval": [iou, iou]}
    axis = charts.trade_off(rows, [1.0, 2.0, 3.0, 3.0], "MB").axes[0]
    legend = axis.get_legend()
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["high", "mid", "$mid$", "_low", "Pareto front"]
    points = {tuple(dots.get_offsets()[0]): dots for dots in axis.collections[1:]}
    assert set(points) == {(1.0, 0.7), (2.0, 0.9), (3.0, 0.8)}
    colours = [tuple(handle.get_facecolor()[0]) for handle in legend.legend_handles[:4]]
    assert len(set(colours)) == 4
    assert colours[0] == tuple(points[2.0, 0.9].get_facecolor()[0])


def test_costs_of_a_wide_range_get_a_logarithmic_axis(numbers):
    rows = numbers["models"]
    even, wide = (charts.trade_off(rows, [1.0, *[top] * 6], "ms").axes[0] for top in (5.0, 50.0))
    assert (even.get_xscale(), even.get_xlabel()) == ("linear", "ms")
    assert (wide.get_xscale(), wide.get_xlabel()) == ("log", "ms, logarithmic")
    assert [text.get_text() for text in wide.get_xticklabels()] == ["1", "2", "5", "10", "20", "50"]


def test_axes_of_iou_stay_within_0_and_1(numbers):
    for row, value in zip(numbers["models"], (0.999, 0.001, 0.5, 1.0, 0.9, 0.9, 0.9)):
        row |= {"mean_iou": value, "mean_iou_interval": [value, value]}
    low, high = charts.trade_off(numbers["models"], [1.0] * 7, "cost").axes[0].get_ylim()
    assert low == 0 and high == 1
    for values in ([0.3, 0.2], [1.0, 0.99]):
        axis = charts.bars(["a", "b"], {"pet": ("red", values)}, "IoU", "{:.3f}", most=1.0).axes[0]
        assert axis.spines["bottom"].get_bounds() == (0, 1)
        assert max(axis.get_xticks()) <= 1 < axis.get_xlim()[1], "room for the values"


def test_trade_off_draws_into_a_given_figure(numbers):
    from pipeline.base.lazy import matplotlib_figure

    own = matplotlib_figure.Figure((4, 3))
    assert charts.trade_off(numbers["models"], [1.0] * 7, "cost", own) is own
    assert len(own.axes) == 1


def test_bars_write_each_value_at_its_end():
    groups = {"pet": ("red", [0.5, 0.25]), "border": ("blue", [0.75, 1.0])}
    figure = charts.bars(["original", "pruned"], groups, "IoU", "{:.3f}")
    assert {"0.500", "0.250", "0.750", "1.000", "original", "pruned", "pet", "border", "IoU"} <= (
        set(words(figure))
    )
    axis = figure.axes[0]
    assert sorted(bar.get_width() for bar in axis.patches) == [0.25, 0.5, 0.75, 1.0]
    assert axis.get_ylim()[0] > axis.get_ylim()[1]  # the first name stands on top
    alone = charts.bars(["original"], {"memory": ("red", [3.0])}, "MB", "{:.1f}")
    assert "memory" not in words(alone)  # a single group needs no legend


def test_heat_map_of_sparsity_has_a_cell_per_layer_and_level():
    rows = [
        {"layer": "stem", "weights": 1024, "30%": 0.001, "60%": 0.02},
        {"layer": "head", "weights": 512, "30%": -0.0004, "60%": 0.1234},
    ]
    texts = words(charts.pruning_sensitivity(rows))
    assert {"stem (1,024)", "head (512)", "30%", "60%", "0.1", "2.0", "12.3"} <= set(texts)


def test_chart_of_int8_shows_the_worst_operators_first():
    rows = [
        {"layer": f"layer{k}", "kind": "CONV_2D", "snr_db": 10.0 + k, "drop": 0.01}
        for k in range(charts.SHOWN_OPERATORS + 5)
    ]
    figure = charts.int8_sensitivity(rows)
    texts = words(figure)
    assert (
        f"Each operator in int8 alone: the {charts.SHOWN_OPERATORS} worst of {len(rows)}" in texts
    )
    assert "layer0  conv_2d" in texts
    assert f"layer{charts.SHOWN_OPERATORS}  conv_2d" not in texts
    bars = figure.axes[0].patches
    assert bars[-1].get_width() == 10.0 and bars[-1].get_y() > bars[0].get_y()


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_figure_is_saved_whole_or_not_at_all(tmp_path, suffix):
    path = tmp_path / f"curves.{suffix}"
    charts.save(charts.curves(HISTORY, "Training", make_classes(CLASSES)), path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    if suffix == "png":
        with Image.open(path) as picture:
            assert picture.width == 990
    else:
        assert "<svg" in path.read_text()
    before = path.read_bytes()
    with pytest.raises(AttributeError):
        charts.save("no figure", path)
    assert path.read_bytes() == before


def test_confusion_matrix_shows_where_the_pixels_of_each_class_went():
    figure = charts.confusion([[90, 10, 0], [0, 3, 1], [0, 0, 0]], ["pet", "sky", "never"])
    axis = figure.axes[0]
    shares = axis.images[0].get_array()
    np.testing.assert_allclose(shares, [[0.9, 0.1, 0], [0, 0.75, 0.25], [0, 0, 0]])
    texts = {text.get_position(): text.get_text() for text in axis.texts}
    assert texts[0, 0] == "90.0%" and texts[1, 0] == "10.0%" and texts[2, 1] == "25.0%"
    assert [label.get_text() for label in axis.get_yticklabels()] == ["pet", "sky", "never"]
    many = charts.confusion(np.eye(40, dtype=int).tolist(), [f"class {k}" for k in range(40)])
    assert not many.axes[0].texts
