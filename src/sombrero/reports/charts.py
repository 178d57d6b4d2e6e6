"""What the charts have in common. Their ink comes from the page's style sheet, so that they follow light and dark."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from sombrero.reports.wording import finite

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

BLUE, VERMILLION, GREEN, PURPLE, GREY = "#1b7fc0", "#d55e00", "#009e73", "#b7679a", "#858b94"
"""After Okabe & Ito: told apart without colour vision, and at 3:1 on both white and near-black paper."""


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
        "legend": {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "xanchor": "left"},
    }


def decades(values: list[float]) -> int | str:
    """Ticks of a logarithmic axis over positive values: whole decades, or 1, 2 and 5 where there are few of them."""
    there = [value for value in values if math.isfinite(value) and value > 0]
    return 1 if there and math.log10(max(there) / min(there)) > 2.5 else "D2"


def plotted(values: list[float]) -> list[float | None]:
    """Values for a trace; gaps where a value is not finite."""
    return [finite(value) for value in values]
