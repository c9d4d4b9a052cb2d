"""Charts of the numbers: curves of a training, what breaks first, trade-offs, bars.

Each function returns a matplotlib figure; `save` writes one.
"""

from __future__ import annotations

import io
import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.artifacts import atomic
from pipeline.base.lazy import matplotlib_figure
from pipeline.data.classes import Classes

ORANGE, BLUE, GREY = "#f28e2b", "#3a4862", "#b9bec7"
MOST_LINES = 12  # of classes in one chart; more are drawn in grey, without a name
LIGHTEST = 0.7  # brightness of a line on white, 0..1
WIDE_RANGE = 5  # how many times the least cost the greatest may be on an even scale
SHOWN_OPERATORS = 30  # the worst ones, in the chart of int8

Point = tuple[float, float]


def save(figure: Any, path: Path) -> None:
    """Writes a figure in the format of the path's suffix, atomically.

    Drawn into memory: on a full disk Pillow leaves half a JPEG and does not say so.
    """
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name with letters that the font does not have
        figure.savefig(picture, dpi=110, format=path.suffix[1:])
    with atomic(path) as temporary:
        temporary.write_bytes(picture.getbuffer())


def line_colour(colour: tuple[int, int, int]) -> str:
    """A class' colour, darkened if it could not be seen on white."""
    red, green, blue = colour
    bright = (0.3 * red + 0.59 * green + 0.11 * blue) / 255
    scale = min(1, LIGHTEST / max(bright, 1e-6))
    return "#" + "".join(f"{round(scale * part):02x}" for part in colour)


def curves(
    history: list[dict[str, float | None]], title: str, classes: Classes, kept: int | None = None
) -> Any:
    """Loss and validation IoU per class against the epoch, from the rows that `fit` returns.

    An IoU that is None leaves a gap. The loss of a second part is another one, and another line.
    The dot is on the epoch `kept`, counted from 1, or on the best one.
    """
    figure = matplotlib_figure.Figure((9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    for number, rows in itertools.groupby(history, key=lambda row: row.get("part", 1)):
        points = [(row["epoch"], row["loss"]) for row in rows]
        taught = {"linestyle": "--", "label": "loss with a teacher's part"} if number > 1 else {}
        left.plot(*zip(*points), color=BLUE, **taught)
    left.set(xlabel="epoch", ylabel="training loss")
    few = len(classes) <= MOST_LINES
    for name, colour in zip(classes.names, classes.colours):
        values = [np.nan if row[f"iou_{name}"] is None else row[f"iou_{name}"] for row in history]
        colour, label = (line_colour(colour), name) if few else (GREY, None)
        right.plot(epochs, values, color=colour, label=label, linewidth=1.5 if few else 0.6)
    means = [row["mean_iou"] for row in history]
    right.plot(epochs, means, color="black", label="mean IoU", linewidth=2)
    best = history[kept - 1] if kept else max(history, key=lambda row: row["mean_iou"])
    place = best["epoch"], best["mean_iou"]
    right.plot(*place, "o", color="black")
    white = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
    label = {"textcoords": "offset points", "ha": "right", "va": "top", "bbox": white}
    right.annotate(f"{place[1]:.4f}", place, (-2, -8), **label)
    right.set(xlabel="epoch", ylabel="validation IoU", ylim=(None, 1))
    # Outside, because a curve may lie anywhere.
    figure.legend(loc="outside lower center", ncols=7, frameon=False, fontsize=8)
    figure.suptitle(title)
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)  # no half epochs
    return figure


def zeros_sensitivity(rows: list[dict[str, Any]]) -> Any:
    """A row per layer, a column per sparsity, the drop of mean IoU in each cell."""
    levels = [key for key in rows[0] if key.endswith("%")]
    drops = 100 * np.array([[row[level] for level in levels] for row in rows])
    figure = matplotlib_figure.Figure((6.4, 1.2 + 0.24 * len(rows)), layout="constrained")
    axis = figure.subplots()
    picture = axis.imshow(drops, cmap="YlOrRd", vmin=0, vmax=5, aspect="auto")
    axis.set_xticks(range(len(levels)), levels)
    labels = [f"{row['layer']} ({row['weights']:,})" for row in rows]
    axis.set_yticks(range(len(rows)), labels, fontsize=8)
    axis.set(xlabel="zeros in this layer alone, before fine-tuning", title="Mean IoU lost, points")
    for (y, x), drop in np.ndenumerate(drops):
        colour = "white" if drop > 3 else "black"
        axis.text(x, y, f"{drop:.1f}", ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(picture, label="points of mean IoU", extend="max")
    return figure


def int8_sensitivity(rows: list[dict[str, Any]]) -> Any:
    """Signal-to-noise ratio and drop of mean IoU of the operators that int8 hurts most."""
    shown = rows[:SHOWN_OPERATORS][::-1]
    figure = matplotlib_figure.Figure((9, 1 + 0.24 * len(shown)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    labels = [f"{row['layer']}  {row['kind'].lower()}" for row in shown]
    left.barh(labels, [row["snr_db"] for row in shown], color=BLUE)
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
    """Those (cost, gain) than which none is at once no dearer and better, by rising cost."""
    front: list[Point] = []
    for cost, gain in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or gain > front[-1][1]:
            front.append((cost, gain))
    return front


def spread(values: list[float], gap: float) -> list[float]:
    """Moves values within 0..1 apart until neighbours are `gap` apart; their order stays.

    Those that lie close are moved to both sides; a gap for which there is no room is narrowed.
    """
    order = np.argsort(values, kind="stable")
    steps = min(gap, 1 / max(1, len(values) - 1)) * np.arange(len(values))
    level = np.clip(np.asarray(values, float)[order], 0, 1) - steps  # level: the gaps taken off
    up, down = np.maximum.accumulate(level), np.minimum.accumulate(level[::-1])[::-1]
    result = np.empty_like(level)
    result[order] = np.clip((up + down) / 2, 0, 1 - steps[-1]) + steps
    return result.tolist()


def untangled(points: list[Point], places: list[float], x: float) -> list[float]:
    """Swaps the heights of labels until no two lines from a point to its label cross.

    Two lines that cross are longer than the same two swapped (the triangle inequality), so that
    this comes to an end.

    Args:
        points: horizontal and vertical place of each. places: heights of their labels. x: where
            the labels stand, to the right of all points.
    """
    places, swapped = list(places), True
    while swapped:
        swapped = False
        for one, two in itertools.combinations(range(len(points)), 2):
            if cross(points[one], (x, places[one]), points[two], (x, places[two])):
                places[one], places[two], swapped = places[two], places[one], True
    return places


def cross(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Whether the line from a to b crosses that from c to d; to touch is not to cross."""

    def side(p: Point, q: Point, r: Point) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0


def trade_off(
    rows: list[dict[str, Any]], costs: list[float], label: str, figure: Any = None
) -> Any:
    """Cost against mean IoU with its 95 % interval, the Pareto front and a label for every point.

    Labels stand in a column on the right, so that they cannot overlap where models lie close.
    Costs that differ by more than WIDE_RANGE times are drawn on a logarithmic scale.

    Args:
        rows: of evaluation.json. costs: one for each of them. figure: to draw into, or a new one.
    """
    figure = figure or matplotlib_figure.Figure((5.4, 3.7), layout="constrained")
    axis = figure.subplots()
    gains = [row["mean_iou"] for row in rows]
    front = pareto_front(list(zip(costs, gains)))
    step = {"color": ORANGE, "linewidth": 1.5, "drawstyle": "steps-post", "label": "Pareto front"}
    axis.plot(*zip(*front), zorder=2, **step)
    intervals = np.abs(np.array([row["mean_iou_interval"] for row in rows]).T - gains)
    axis.errorbar(costs, gains, intervals, fmt="none", ecolor=GREY, elinewidth=1, zorder=1)
    colours = [ORANGE if point in front else BLUE for point in zip(costs, gains)]
    axis.scatter(costs, gains, 36, colours, zorder=3, clip_on=False)
    low, high = axis.get_ylim()
    axis.set(ylabel="mean IoU", ylim=(max(0, low), min(1, high)))  # there is no IoU beyond
    axis.set(xlabel=label, xlim=(0, 1.06 * max(costs)))
    if max(costs) > WIDE_RANGE * min(costs):
        spaced = [m * 10.0**k for k in range(-3, 6) for m in (1, 2, 5)]
        ticks = [tick for tick in spaced if min(costs) / 1.3 < tick < 1.3 * max(costs)]
        axis.set(xlabel=f"{label}, logarithmic", xscale="log")
        axis.set_xlim(min(costs) / 1.3, 1.3 * max(costs))
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right", fontsize=8, frameon=False)
    to_axes = axis.transData + axis.transAxes.inverted()
    points = to_axes.transform(list(zip(costs, gains))).tolist()
    places = [0.03 + 0.94 * place for place in spread([height for _, height in points], 0.09)]
    places = untangled(points, places, 1.05)
    line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.7, "shrinkB": 4, "relpos": (0, 0.5)}
    text = {"textcoords": "axes fraction", "va": "center", "fontsize": 9, "arrowprops": line}
    for row, cost, gain, place in zip(rows, costs, gains, places):
        axis.annotate(row["name"], (cost, gain), (1.05, place), **text)
    return figure


def bars(
    names: list[str],
    groups: dict[str, tuple[str, list[float]]],
    label: str,
    form: str,
    most: float | None = None,
) -> Any:
    """Horizontal bars: a row per name, in it a bar per group, each with its value.

    Args:
        groups: colour and values, one for each name. form: how a value is written, "{:.3f}".
        most: the largest value that there can be, at which the axis ends; None: the longest bar.
    """
    thick = 0.8 / len(groups)
    longest = most or max(max(values) for _, values in groups.values())
    size = (5.4, 0.8 + len(names) * max(0.17, 0.21 * len(groups)))
    figure = matplotlib_figure.Figure(size, layout="constrained")
    axis = figure.subplots()
    for k, (group, (colour, values)) in enumerate(groups.items()):
        places = np.arange(len(names)) + (k - (len(groups) - 1) / 2) * thick
        drawn = axis.barh(places, values, 0.9 * thick, color=colour, label=group)
        axis.bar_label(drawn, [form.format(value) for value in values], padding=2, fontsize=7)
    # Wider than the longest bar: room for what is written at its end.
    axis.set(xlabel=label, yticks=range(len(names)), xlim=(0, 1.15 * longest))
    axis.set_yticklabels(names, fontsize=7 if len(names) > 12 else 9)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.spines[["top", "right"]].set_visible(False)
    if most:
        axis.set_xticks([tick for tick in axis.get_xticks() if tick <= most])
        axis.spines["bottom"].set_bounds(0, most)
    if len(groups) > 1:
        figure.legend(loc="outside upper center", ncols=len(groups), frameon=False, fontsize=8)
    return figure
