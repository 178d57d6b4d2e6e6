"""What the charts have in common. Their ink comes from the page's style sheet, so that they follow light and dark."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from sombrero.reports.wording import finite

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from sombrero.reports.layer_numbers import Band

BLUE, VERMILLION, GREEN, PURPLE, GREY = "#1b7fc0", "#d55e00", "#009e73", "#b7679a", "#858b94"
"""After Okabe & Ito: told apart without colour vision, and at 3:1 on both white and near-black paper."""

METHOD_COLOURS = {
    "som": VERMILLION,
    "single": BLUE,
    "k-means": GREEN,
    "pca": PURPLE,
    "random": "#96730a",
    "shuffled": GREY,
}
"""A colour for each method of finding directions; figures add dashes or names, as some are alike in grey."""


def figure_data(figure: Figure) -> dict[str, Any]:
    """A figure as plain JSON values, for ``Plotly.newPlot``."""
    data: dict[str, Any] = json.loads(figure.to_json())
    return data


def base_layout(height: int) -> dict[str, Any]:
    """Layout that every chart starts from: transparent, no drag (a finger scrolls the page), legend above."""
    return {
        "template": "none",
        "height": height,
        "margin": {"l": 58, "r": 12, "t": 56, "b": 48},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#858b94"},
        "hoverlabel": {"bgcolor": "#20242b", "bordercolor": "#20242b", "font": {"color": "#ffffff"}, "align": "left"},
        "dragmode": False,
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 1.0,
            "yanchor": "bottom",
            "xanchor": "left",
            "traceorder": "normal",
        },
    }


def decades(values: list[float]) -> int | str:
    """Ticks of a logarithmic axis over positive values: whole decades, or 1, 2 and 5 where there are few of them."""
    there = [value for value in values if math.isfinite(value) and value > 0]
    return 1 if there and math.log10(max(there) / min(there)) > 2.5 else "D2"


def log_ticks(values: list[float]) -> dict[str, Any]:
    """``tickvals`` and ``ticktext`` of a logarithmic axis: 1, 2 and 5 of each decade, written out, or whole decades.

    Where fewer than two of them lie among the values, more steps are taken.
    """
    found = [value for value in values if math.isfinite(value) and value > 0]
    there = found or [1.0]
    first, last = math.floor(math.log10(min(there))), math.ceil(math.log10(max(there)))
    steps: tuple[float, ...] = (1, 2, 5) if last - first <= 3 else (1,)
    among = [step for power in range(first, last + 1) for step in steps if min(there) <= step * 10**power <= max(there)]
    if found and len(among) < 2:
        steps = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)
    ticks = [float(f"{step}e{power}") for power in range(first, last + 1) for step in steps]
    return {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def add_band(figure: Figure, band: Band, colour: str, **panel: int) -> None:
    """The interval of a line, behind it; nothing where it was not measured."""
    there = [i for i, (low, high) in enumerate(zip(band.low, band.high, strict=True)) if low == low and high == high]
    if not there:
        return
    line = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False, **panel}
    shade = {"fill": "tonexty", "fillcolor": faded(colour)}
    high, low = ([limits[i] for i in there] for limits in (band.high, band.low))
    figure.add_scatter(x=there, y=plotted(high), name=f"{band.name}, 95% (upper)", **line)
    figure.add_scatter(x=there, y=plotted(low), name=f"{band.name}, 95%", **line, **shade)


def faded(colour: str, share: float = 0.2) -> str:
    """``#rrggbb`` as seen through: ``rgba(...)``."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{share:g})"


def plotted(values: list[float]) -> list[float | None]:
    """Values for a trace; gaps where a value is not finite."""
    return [finite(value) for value in values]
