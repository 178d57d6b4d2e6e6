"""Figure: how many units the harmful samples support, and whether the harmless ones support as many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sombrero.reports.charts import BLUE, GREEN, GREY, VERMILLION
from sombrero.reports.figures.canvas import Cell, Picture, place, sheet
from sombrero.reports.run_files import RunFiles
from sombrero.reports.wording import finite, state_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sombrero.records import MapQuality

COLUMNS = (
    *("state", "chosen", "chosen_low", "chosen_high", "chosen_harmless"),
    *("units", "held_out_error", "reference_error", "strength"),
)


def draw_grid_size(run: RunFiles) -> Picture:
    """At the shown state, error and prediction strength by number of units; at all states, the number chosen."""
    found, shown = run.quality, run.shown_state
    if found is None or shown is None:
        raise ValueError("the grid size needs the quality of the map and its directions")
    figure = sheet(12.0, 5.5, "How many directions does refusal have here?", describe(found, shown))
    sizes: list[int] = found.candidates.tolist()
    error = place(figure, 0.85, 1.45, 4.1, 1.5)
    error.plot(
        sizes, found.held_out_error[shown].tolist(), color=GREEN, marker="o", markersize=4, label="harmful prompts"
    )
    error.plot(
        sizes, found.reference_error[shown].tolist(), color=GREY, linestyle=":", label="one Gaussian of their spread"
    )
    error.set_title("Quantization error of held-out prompts", pad=22)
    error.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.97), ncols=2, columnspacing=1.2, handlelength=1.4)
    strength = place(figure, 0.85, 3.4, 4.1, 1.5)
    strength.plot(sizes, found.strength[shown].tolist(), color=BLUE, marker="s", markersize=4)
    strength.set_title("Prediction strength")
    strength.set_ylim(0, 1.06)
    strength.set_xlabel("number of units")
    for axes in (error, strength):
        _mark_choice(axes, found, shown)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes] if axes is strength else [])
        axes.minorticks_off()
    _draw_choices(place(figure, 5.85, 1.55, 5.8, 3.35), found, shown)
    return Picture(figure, COLUMNS, size_rows(found))


def describe(found: MapQuality, index: int) -> str:
    """The answer at one state index, in words."""
    low, high = int(found.chosen_low[index]), int(found.chosen_high[index])
    chosen = int(found.chosen[index])
    return (
        f"{state_name(index)}: the harmful prompts support {chosen} {'unit' if chosen == 1 else 'units'} (95% interval "
        f"over resamples {low}–{high}); as many harmless prompts, the control, support {int(found.control[index])}"
    )


def _mark_choice(axes: Axes, found: MapQuality, index: int) -> None:
    axes.axvspan(
        int(found.chosen_low[index]) * 0.94, int(found.chosen_high[index]) * 1.06, color=GREY, alpha=0.18, lw=0
    )
    axes.axvline(int(found.chosen[index]), color=VERMILLION, linestyle="--", linewidth=1.4)


def _draw_choices(axes: Axes, found: MapQuality, shown: int) -> None:
    from matplotlib.ticker import MaxNLocator

    chosen, low, high = (part.tolist() for part in (found.chosen, found.chosen_low, found.chosen_high))
    x = list(range(len(chosen)))
    axes.vlines(x, low, high, color=VERMILLION, alpha=0.45, linewidth=4, label="95% interval")
    axes.plot(x, chosen, color=VERMILLION, linestyle="none", marker="o", markersize=5, label="harmful prompts")
    ring: dict[str, Any] = {
        "marker": "D",
        "markersize": 7,
        "markerfacecolor": "none",
        "markeredgecolor": GREY,
        "markeredgewidth": 1.3,
    }
    axes.plot(x, found.control.tolist(), linestyle="none", label="harmless prompts (control)", **ring)
    axes.axvline(shown, color=GREY, linestyle=":", linewidth=1)
    axes.set_title("Number of units that the samples support, layer by layer", pad=28)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=3, columnspacing=1.2, handletextpad=0.3)
    axes.set_xlabel("state index")
    axes.set_xlim(-0.7, len(x) - 0.3)
    axes.set_ylim(0.4, max(*high, *found.control.tolist(), 2) + 0.6)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def size_rows(found: MapQuality) -> list[tuple[Cell, ...]]:
    """A row for each state index and number of units, as :data:`COLUMNS` names them."""
    rows: list[tuple[Cell, ...]] = []
    for state in range(len(found.chosen)):
        parts = (found.chosen, found.chosen_low, found.chosen_high, found.control)
        choice = [int(part[state]) for part in parts]
        for i, size in enumerate(found.candidates.tolist()):
            figures = (found.held_out_error, found.reference_error, found.strength)
            rows.append((state, *choice, size, *(finite(float(figure[state, i]), 6) for figure in figures)))
    return rows
