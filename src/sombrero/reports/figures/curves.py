"""Figure: what changes over the layers. AUROC with its intervals, distances, effective rank, topographic error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sombrero.reports.charts import BLUE, GREEN, GREY, PURPLE, VERMILLION
from sombrero.reports.figures.canvas import Cell, Picture, place, sheet
from sombrero.reports.layer_numbers import Band, layer_numbers
from sombrero.reports.run_files import RunFiles
from sombrero.reports.wording import finite

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Dash = str | tuple[int, tuple[int, ...]]

WIDTH, PANEL_HEIGHT, LARGE_HEIGHT = 10.4, 1.45, 2.7


def draw_curves(run: RunFiles) -> Picture:
    """Four panels over one axis, the state index."""
    lines = layer_numbers(run)
    n_units = 0 if run.som is None else run.som.hit_counts.shape[1]
    figure = sheet(WIDTH, 9.9, "Where refusal is readable", "over the layers; state 0 is the embeddings")
    top = _panel(figure, 1.3, LARGE_HEIGHT, "AUROC on held-out prompts")
    draw_band(top, lines.single, BLUE, "-")
    draw_band(top, lines.salient, VERMILLION, "--")
    x = list(range(len(lines.best)))
    best = f"best of {n_units} units, picked on these prompts"
    top.plot(x, lines.best, color=GREY, linestyle=":", linewidth=1.4, label=best)
    top.axhline(0.5, color=GREY, linewidth=0.8)
    distances = _panel(figure, 4.5, PANEL_HEIGHT, "Distances in state space")
    distances.plot(x, lines.difference, color=BLUE, label="norm of the difference of means")
    distances.plot(x, lines.quantization, color=GREEN, linestyle="--", label="quantization error")
    rank = _panel(figure, 6.4, PANEL_HEIGHT - 0.2, "Effective rank of the map's directions")
    rank.plot(x, lines.rank, color=PURPLE)
    topographic = _panel(figure, 8.1, PANEL_HEIGHT - 0.2, "Topographic error")
    topographic.plot(x, lines.topographic, color=GREEN)
    topographic.set_xlabel("state index")
    for axes in (top, distances, rank):
        axes.tick_params(labelbottom=False)
    for axes in (distances, rank, topographic):
        axes.set_ylim(bottom=0)
    for axes in (top, distances):
        axes.legend(loc="best", frameon=True, edgecolor="none", framealpha=0.85)
    for axes in figure.axes:
        axes.set_xlim(-0.5, len(x) - 0.5)
        if run.shown_state is not None:
            axes.axvline(run.shown_state, color=GREY, linestyle=":", linewidth=1)
    return Picture(figure, *_table(lines.single, lines.salient, lines.table))


def draw_band(axes: Axes, band: Band, colour: str, dash: Dash, *, said: bool = True) -> None:
    """A line with its interval, as far as it was measured; ``said`` names the interval in the legend, too."""
    x = list(range(len(band.line)))
    measured = any(value == value for value in band.low)
    axes.fill_between(x, band.low, band.high, color=colour, alpha=0.2, linewidth=0)
    name = f"{band.name}, 95% interval" if measured and said else band.name
    axes.plot(x, band.line, color=colour, linestyle=dash, linewidth=1.8, label=name)


def _panel(figure: Figure, top: float, height: float, title: str) -> Axes:
    axes = place(figure, 0.85, top, WIDTH - 1.2, height)
    axes.set_title(title)
    return axes


def _table(
    single: Band, salient: Band, table: dict[str, list[float]]
) -> tuple[tuple[str, ...], list[tuple[Cell, ...]]]:
    bands = {
        "single, low": single.low,
        "single, high": single.high,
        "most salient unit, low": salient.low,
        "most salient unit, high": salient.high,
    }
    columns = table | bands
    rows: list[tuple[Cell, ...]] = [
        (i, *(finite(values[i], 6) for values in columns.values())) for i in range(len(single.line))
    ]
    return ("state", *columns), rows
