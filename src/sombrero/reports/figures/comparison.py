"""Figure: the methods' fronts with bands over seeds, and the differences at equal refusal with their intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sombrero.records import Comparison
from sombrero.reports.charts import GREY, METHOD_COLOURS
from sombrero.reports.direction_numbers import METHOD_NAMES
from sombrero.reports.figures.canvas import Cell, Picture, drawable, place, sheet
from sombrero.reports.figures.controls import DASHES
from sombrero.reports.lattice_drawing import INK
from sombrero.reports.wording import finite, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = ("kind", "method", "refusals", "value", "low", "high", "seeds")
"""seeds: how many, or of a trial which one. value, low, high: first-token KL or its difference, in nats."""


def draw_comparison(found: Comparison, model: str) -> Picture:
    """Left, first-token KL over refusals on the search prompts; right, map − control on the reporting prompts."""
    figure = sheet(
        12.6,
        6.6,
        "What the same refusals cost, by where the directions come from",
        f"{drawable(model)} · {found.trials} trials each · {len(found.seeds)} seeds · rules: {', '.join(found.rules)}",
    )
    _draw_fronts(place(figure, 0.85, 1.35, 5.5, 4.2), found)
    _draw_differences(place(figure, 8.75, 1.35, 3.5, 4.2), found)
    return Picture(figure, COLUMNS, comparison_rows(found))


def _draw_fronts(axes: Axes, found: Comparison) -> None:
    for band, dash in zip(found.bands, DASHES, strict=False):
        there = [i for i, count in enumerate(band.reached) if count]
        x = [band.rates[i] for i in there]
        low, median, high = ([side[i] or 0.0 for i in there] for side in (band.low, band.median, band.high))
        colour = METHOD_COLOURS[band.method]
        axes.fill_between(x, low, high, color=colour, alpha=0.14, linewidth=0)
        axes.plot(x, median, color=colour, linestyle=dash, linewidth=1.8, label=METHOD_NAMES[band.method])
        points = [one.figures for front in found.fronts if front.method == band.method for one in front.measured]
        axes.plot(
            [p.unanswered.rate for p in points],
            [p.first_token for p in points],
            linestyle="none",
            marker="o",
            markersize=5,
            markerfacecolor="none",
            color=colour,
        )
    for level in found.levels:
        axes.axvline(level, color=GREY, linestyle=":", linewidth=1)
    axes.set_xlim(-0.02, 1.0)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(lambda value, _place: percent(value))
    axes.set_title("Search prompts: median and range over seeds · ○ reporting prompts", fontsize=9.5)
    axes.set_xlabel("refusals on harmful prompts")
    axes.set_ylabel("first-token KL (nats)")
    axes.legend(loc="upper left", bbox_to_anchor=(-0.03, -0.12), ncols=5, columnspacing=1.2)


def _draw_differences(axes: Axes, found: Comparison) -> None:
    rows = found.differences
    known = [v for d in rows for v in (d.first_token.value, d.first_token.low, d.first_token.high) if v is not None]
    reach = 1.15 * max((abs(value) for value in known), default=1.0) or 1.0
    for row, difference in enumerate(rows):
        colour, interval = METHOD_COLOURS[difference.control], difference.first_token
        if interval.value is None:
            axes.annotate("not reached", (0, row), ha="center", va="center", fontsize=8.5, color=INK)
            continue
        ends = [-reach if interval.low is None else interval.low, reach if interval.high is None else interval.high]
        axes.plot(ends, [row, row], color=colour, linewidth=4, alpha=0.45, solid_capstyle="butt")
        axes.plot([interval.value], [row], marker="o", markersize=7, color=colour)
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set_xlim(-reach, reach)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    labels = [f"{METHOD_NAMES[d.control]}, {percent(d.level)}" for d in rows]
    axes.set_yticks(range(len(rows)), labels, color=INK)
    axes.grid(False, axis="y")
    axes.set_title("Map − control, reporting prompts, 95%", fontsize=9.5)
    axes.set_xlabel("first-token KL (nats); left: the map costs less")


def comparison_rows(found: Comparison) -> list[tuple[Cell, ...]]:
    """The fronts over the seeds, the trials that were measured again, and the differences, by :data:`COLUMNS`."""
    bands: list[tuple[Cell, ...]] = [
        ("front, search prompts", b.method, b.rates[i], finite(b.median[i]), finite(b.low[i]), finite(b.high[i]), count)
        for b in found.bands
        for i, count in enumerate(b.reached)
        if count
    ]
    measured: list[tuple[Cell, ...]] = [
        (
            "trial, reporting prompts",
            f.method,
            finite(one.figures.unanswered.rate),
            finite(one.figures.first_token),
            None,
            None,
            f.seed,
        )
        for f in found.fronts
        for one in f.measured
    ]
    differences: list[tuple[Cell, ...]] = [
        (
            "map − control, reporting prompts",
            d.control,
            d.level,
            *(finite(end) for end in (d.first_token.value, d.first_token.low, d.first_token.high)),
            len(found.seeds),
        )
        for d in found.differences
    ]
    return bands + measured + differences
