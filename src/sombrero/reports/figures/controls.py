"""Figure: the map beside its controls. How well each method's directions separate, and what shuffled labels reach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sombrero.reports.charts import GREY, METHOD_COLOURS
from sombrero.reports.direction_numbers import METHOD_NAMES, NULL, direction_sets, separations
from sombrero.reports.figures.canvas import Cell, Picture, place, sheet
from sombrero.reports.figures.curves import Dash, draw_band
from sombrero.reports.lattice_drawing import INK
from sombrero.reports.layer_numbers import first_band, without_interval
from sombrero.reports.run_files import RunFiles
from sombrero.reports.wording import finite, number, state_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DASHES: tuple[Dash, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (10, 3)))
BANDS = ("som", "single", NULL)
"""Methods whose interval is drawn over the layers, too: six bands would hide each other; the table holds all."""


def draw_controls(run: RunFiles) -> Picture:
    """Left, every direction at the shown state; right, the most salient one of each method over the layers."""
    shown = run.shown_state
    if shown is None:
        raise ValueError("the controls need the map's directions")
    sets = direction_sets(run)
    figure = sheet(
        12.0,
        6.35,
        "Is it the map? The same figure for the controls",
        f"AUROC on held-out prompts · {state_name(shown)}",
    )
    _draw_state(place(figure, 2.05, 1.45, 3.5, 3.9), run, shown)
    right = place(figure, 6.45, 1.45, 5.2, 3.9)
    for (name, found), dash in zip(sets.items(), DASHES, strict=False):
        band = first_band(METHOD_NAMES[name], found)
        draw_band(right, band if name in BANDS else without_interval(band), METHOD_COLOURS[name], dash, said=False)
    right.axvline(shown, color=GREY, linestyle=":", linewidth=1)
    right.set_title("Most salient direction of each; bands: 95%")
    right.set_xlabel("state index")
    right.legend(loc="upper left", bbox_to_anchor=(-0.03, -0.13), ncols=3, fontsize=8.5, columnspacing=1.4)
    return Picture(figure, ("state", "method", "rank", "unit", "hits", "auroc", "auroc_low", "auroc_high"), _rows(run))


def _draw_state(axes: Axes, run: RunFiles, index: int) -> None:
    sets = direction_sets(run)
    for row, (name, found) in enumerate(sets.items()):
        all_directions, colour = separations(found, index), METHOD_COLOURS[name]
        others = [one.auroc for one in all_directions[1:] if one.auroc is not None]
        axes.plot(
            others, [row + 0.2] * len(others), linestyle="none", marker="|", markersize=8, color=colour, alpha=0.7
        )
        first = all_directions[0]
        if first.auroc is None:
            continue
        if first.low is not None and first.high is not None:
            axes.plot([first.low, first.high], [row, row], color=colour, linewidth=4, alpha=0.45, solid_capstyle="butt")
        axes.plot([first.auroc], [row], marker="o", markersize=7, color=colour)
        style: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": 8.5, "color": INK}
        axes.annotate(number(first.auroc), (first.auroc, row), (0, 8), **style)
    axes.axvline(0.5, color=GREY, linewidth=1)
    axes.set_yticks(range(len(sets)), [METHOD_NAMES[name] for name in sets], color=INK)
    axes.set_ylim(len(sets) - 0.4, -0.7)
    axes.grid(False, axis="y")
    axes.set_title("● most salient, with 95% interval · | the others", fontsize=9, fontweight="normal")
    axes.set_xlabel("AUROC (0.5: chance)")


def _rows(run: RunFiles) -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = []
    for name, found in direction_sets(run).items():
        for state in range(len(found.auroc)):
            for rank in range(found.auroc.shape[1]):
                values = (found.auroc, found.auroc_low, found.auroc_high)
                measured = [finite(float(value[state, rank])) for value in values]
                unit, hits = int(found.units[state, rank]), int(found.hit_counts[state, rank])
                rows.append((state, name, rank + 1, unit, hits, *measured))
    return rows
