"""Charts: training curves, sensitivity to pruning and int8, accuracy against cost, bars.

Each function returns a matplotlib figure, which `save` writes.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.files import atomic
from pipeline.base.lazy import matplotlib_figure
from pipeline.data.classes import Classes
from pipeline.report.chart_style import chart_text, class_labels, rendered, styled

ORANGE, BLUE, GREY = "#f28e2b", "#3a4862", "#b9bec7"
MOST_LINES = 12  # most classes with a line in their colour; more are all grey, without a name
LIGHTEST = 0.7  # greatest brightness, 0..1, of a line on white
WIDE_RANGE = 5  # largest ratio of the highest to the lowest cost on a linear scale
SHOWN_OPERATORS = 30  # most operators in the int8 chart
MARKERS = "os^Dvph<"  # of models, whose colours are matplotlib's ten

Point = tuple[float, float]


def save(figure: Any, path: Path) -> None:
    """Writes a figure in the format of the path's suffix, atomically.

    Raises:
        OSError: the file cannot be written.
    """
    content = rendered(figure, path.suffix[1:])
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def line_colour(colour: tuple[int, int, int]) -> str:
    """The colour of a class (RGB, 0..255) as "#rrggbb", darkened if too light on white."""
    red, green, blue = colour
    brightness = (0.3 * red + 0.59 * green + 0.11 * blue) / 255
    scale = min(1, LIGHTEST / max(brightness, 1e-6))
    return "#" + "".join(f"{round(scale * channel):02x}" for channel in colour)


@styled
def curves(
    history: list[dict[str, float | None]], title: str, classes: Classes, kept: int | None = None
) -> Any:
    """Loss and validation IoU of each class against the epoch.

    A self-distillation loss is drawn as a dashed line of its own, because it is not comparable
    with the supervised loss. An IoU that is None leaves a gap.

    Args:
        history: a row for each epoch, as `fit` returns them.
        kept: epoch that the dot marks, counted from 1; None: the one with the best mean IoU.
    """
    figure = matplotlib_figure.Figure((9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    lines = {}  # label of each line that the legend lists, in its order
    for part, rows in itertools.groupby(history, key=lambda row: row.get("part", 1)):
        points = [(row["epoch"], row["loss"]) for row in rows]
        line_style = "--" if part > 1 else "-"
        (line,) = left.plot(*zip(*points), color=BLUE, linestyle=line_style)
        if part > 1:
            lines[line] = "self-distillation loss"
    left.set(xlabel="epoch", ylabel="training loss")
    in_colours = len(classes) <= MOST_LINES
    labels = class_labels(classes.names) if in_colours else classes.names
    for name, label, colour in zip(classes.names, labels, classes.colours):
        values = [np.nan if row[f"iou_{name}"] is None else row[f"iou_{name}"] for row in history]
        look = {"color": line_colour(colour), "linewidth": 1.5}
        look = look if in_colours else {"color": GREY, "linewidth": 0.6}
        (line,) = right.plot(epochs, values, **look)
        if in_colours:
            lines[line] = label
    means = [row["mean_iou"] for row in history]
    (line,) = right.plot(epochs, means, color="black", linewidth=2)
    lines[line] = "mean IoU"
    best = history[kept - 1] if kept else max(history, key=lambda row: row["mean_iou"] or 0)
    dot = best["epoch"], best["mean_iou"]
    right.plot(*dot, "o", color="black")
    white = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
    place = {"textcoords": "offset points", "ha": "right", "va": "top", "bbox": white}
    right.annotate(f"{dot[1]:.4f}", dot, (-2, -8), **place)
    right.set(xlabel="epoch", ylabel="validation IoU", ylim=(None, 1))
    # Below the axes, because the curves may lie anywhere in them. Handles and labels are passed
    # one by one: a legend that collects them itself skips labels that start with "_".
    look = {"ncols": 7, "frameon": False, "fontsize": 8}
    figure.legend([*lines], [*lines.values()], loc="outside lower center", **look)
    figure.suptitle(chart_text(title))
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)  # no half epochs
    return figure


@styled
def pruning_sensitivity(rows: list[dict[str, Any]]) -> Any:
    """Heat map of the drop of mean IoU: a row for each layer, a column for each sparsity.

    Args:
        rows: a row for each layer; its keys that end in "%" are the sparsities, their values the
            drop as a fraction.
    """
    levels = [key for key in rows[0] if key.endswith("%")]
    drops = 100 * np.array([[row[level] for level in levels] for row in rows])
    figure = matplotlib_figure.Figure((6.4, 1.2 + 0.24 * len(rows)), layout="constrained")
    axis = figure.subplots()
    heat_map = axis.imshow(drops, cmap="YlOrRd", vmin=0, vmax=5, aspect="auto")
    axis.set_xticks(range(len(levels)), levels)
    labels = [chart_text(f"{row['layer']} ({row['weights']:,})") for row in rows]
    axis.set_yticks(range(len(rows)), labels, fontsize=8)
    axis.set(xlabel="zeros in this layer alone, before fine-tuning", title="Mean IoU lost, points")
    for (y, x), drop in np.ndenumerate(drops):
        colour = "white" if drop > 3 else "black"
        axis.text(x, y, f"{drop:.1f}", ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(heat_map, label="points of mean IoU", extend="max")
    return figure


@styled
def int8_sensitivity(rows: list[dict[str, Any]]) -> Any:
    """Signal-to-noise ratio and drop of mean IoU of the operators that lose most in int8.

    Args:
        rows: a row for each operator, the worst first: `layer`, `kind`, `snr_db`, `drop` (a
            fraction).
    """
    shown = rows[:SHOWN_OPERATORS][::-1]
    figure = matplotlib_figure.Figure((9, 1 + 0.24 * len(shown)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    labels = [chart_text(f"{row['layer']}  {row['kind'].lower()}") for row in shown]
    left.barh(range(len(shown)), [row["snr_db"] for row in shown], color=BLUE)
    left.set_yticks(range(len(shown)), labels)
    left.set(xlabel="signal to noise of the logits, dB (short: bad)")
    right.barh(range(len(shown)), [100 * row["drop"] for row in shown], color=ORANGE)
    right.axvline(0, color="black", linewidth=0.8)
    right.set(xlabel="points of validation mean IoU lost")
    left.tick_params(axis="y", labelsize=8)
    figure.suptitle(f"Each operator in int8 alone: the {len(shown)} worst of {len(rows)}")
    for axis in (left, right):
        axis.grid(axis="x", alpha=0.3)
    return figure


def pareto_front(points: list[Point]) -> list[Point]:
    """Points (cost, gain) that no other point beats in both, by rising cost."""
    front: list[Point] = []
    for cost, gain in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or gain > front[-1][1]:
            front.append((cost, gain))
    return front


@styled
def trade_off(
    rows: list[dict[str, Any]], costs: list[float], label: str, figure: Any = None
) -> Any:
    """Cost against mean IoU with its 95 % interval, the Pareto front and the name of every model.

    Names stand in the legend, the most accurate model first, because models often lie close
    together. Those of the front have a black edge. Costs that differ by more than WIDE_RANGE times
    are drawn on a logarithmic scale.

    Args:
        rows: of evaluation.json.
        costs: one for each row, in the unit that `label` names.
        figure: to draw into; None: a new one.
    """
    size = (5.4, max(3.7, 1 + 0.2 * len(rows)))
    figure = figure or matplotlib_figure.Figure(size, layout="constrained")
    axis = figure.subplots()
    gains = [row["mean_iou"] for row in rows]
    front = pareto_front(list(zip(costs, gains)))
    steps = {"color": ORANGE, "linewidth": 1.5, "drawstyle": "steps-post"}
    (line,) = axis.plot(*zip(*front), zorder=2, **steps)
    intervals = np.abs(np.array([row["mean_iou_interval"] for row in rows]).T - gains)
    axis.errorbar(costs, gains, intervals, fmt="none", ecolor=GREY, elinewidth=1, zorder=1)
    models = []
    for number, point in enumerate(zip(costs, gains)):
        look = {"color": f"C{number}", "marker": MARKERS[number % len(MARKERS)], "clip_on": False}
        # A larger one below shows where two lie in the same place.
        look |= {"s": 90, "zorder": 3, "linewidths": 0}
        if point in front:
            look |= {"s": 45, "zorder": 4, "edgecolors": "black", "linewidths": 1}
        models.append(axis.scatter(*point, **look))
    low, high = axis.get_ylim()
    axis.set(ylabel="mean IoU", ylim=(max(0, low), min(1, high)))  # IoU lies within 0..1
    axis.set(xlabel=label, xlim=(0, 1.06 * max(costs)))
    if max(costs) > WIDE_RANGE * min(costs):
        candidates = [m * 10.0**k for k in range(-3, 6) for m in (1, 2, 5)]
        ticks = [tick for tick in candidates if min(costs) / 1.3 < tick < 1.3 * max(costs)]
        axis.set(xlabel=f"{label}, logarithmic", xscale="log")
        axis.set_xlim(min(costs) / 1.3, 1.3 * max(costs))
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
    axis.grid(alpha=0.3)
    best_first = sorted(range(len(rows)), key=lambda number: -gains[number])
    handles = [*(models[number] for number in best_first), line]
    labels = [*(chart_text(rows[number]["name"]) for number in best_first), "Pareto front"]
    beside = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "borderaxespad": 0.0}
    axis.legend(handles, labels, **beside, fontsize=8, frameon=False)
    return figure


@styled
def bars(
    names: list[str],
    groups: dict[str, tuple[str, list[float]]],
    label: str,
    form: str,
    most: float | None = None,
) -> Any:
    """Horizontal bars: a row for each name, in it a bar for each group, with its value.

    Args:
        groups: colour and values (one for each name) of each group, such as a class.
        label: of the axis.
        form: format of a value, "{:.3f}".
        most: the largest possible value, where the axis ends; None: the longest bar.
    """
    thickness = 0.8 / len(groups)
    longest = most or max(max(values) for _, values in groups.values())
    size = (5.4, 0.8 + len(names) * max(0.17, 0.21 * len(groups)))
    figure = matplotlib_figure.Figure(size, layout="constrained")
    axis = figure.subplots()
    drawn: list[Any] = []  # bar containers: a legend takes them, though its type hints do not
    for k, (colour, values) in enumerate(groups.values()):
        heights = np.arange(len(names)) + (k - (len(groups) - 1) / 2) * thickness
        drawn.append(axis.barh(heights, values, 0.9 * thickness, color=colour))
        axis.bar_label(drawn[-1], [form.format(value) for value in values], padding=2, fontsize=7)
    # Wider than the longest bar: room for the value at its end.
    axis.set(xlabel=label, yticks=range(len(names)), xlim=(0, 1.15 * longest))
    axis.set_yticklabels(map(chart_text, names), fontsize=7 if len(names) > 12 else 9)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.spines[["top", "right"]].set_visible(False)
    if most:
        axis.set_xticks([tick for tick in axis.get_xticks() if tick <= most])
        axis.spines["bottom"].set_bounds(0, most)
    if len(groups) > 1:
        look = {"ncols": len(groups), "frameon": False, "fontsize": 8}
        figure.legend(drawn, class_labels([*groups]), loc="outside upper center", **look)
    return figure


@styled
def confusion(matrix: list[list[int]], names: list[str]) -> Any:
    """A confusion matrix: for each class of the masks, where its pixels went, in percent.

    Args:
        matrix: pixels, a row per class of the masks, a column per predicted class.
        names: of the classes.
    """
    pixels = np.asarray(matrix, np.float64)
    share = pixels / np.maximum(pixels.sum(axis=1, keepdims=True), 1)
    side = min(9.0, 1.8 + 0.45 * len(names))  # inches
    figure = matplotlib_figure.Figure((side + 0.8, side), layout="constrained")
    axis = figure.subplots()
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    labels = class_labels(names)
    small = 9 if len(names) <= MOST_LINES else 5
    axis.set(xlabel="predicted", ylabel="mask", xticks=range(len(names)), yticks=range(len(names)))
    axis.set_xticklabels(labels, rotation=90, fontsize=small)
    axis.set_yticklabels(labels, fontsize=small)
    if len(names) <= MOST_LINES:
        for (row, column), value in np.ndenumerate(share):
            colour = "white" if value > 0.5 else "black"
            text = f"{value:.1%}" if value >= 0.0005 else "0"
            axis.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    return figure
