"""Section: the layers. Where refusal is readable, how large it is, how many directions it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sombrero.reports.charts import (
    BLUE,
    GREEN,
    GREY,
    PURPLE,
    VERMILLION,
    add_band,
    base_layout,
    decades,
    figure_data,
    plotted,
)
from sombrero.reports.data_table import by_state
from sombrero.reports.layer_numbers import LayerNumbers, layer_numbers
from sombrero.reports.run_files import RunFiles
from sombrero.reports.wording import number

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

PANELS = (
    "AUROC on held-out prompts, with 95% intervals",
    "Distances in state space",
    "Effective rank of the map's directions",
    "Topographic error of the map",
    "Residual accounting, relative error",
)
HEIGHT = 1020
"""Pixels of the chart."""


def layers_section(run: RunFiles) -> dict[str, Any] | None:
    """The chart of panels over the state index, and the same numbers as a table."""
    if run.refusal_map is None or run.som is None or run.single is None:
        return None
    lines = layer_numbers(run)
    window = edited_window(run)
    rows = [[str(i), *(number(values[i]) for values in lines.table.values())] for i in range(len(lines.best))]
    return {
        "figure": figure_data(layer_figure(lines, run.best_state or 0, window)),
        "columns": ["State", *lines.table],
        "rows": rows,
        "table": by_state(lines.all_columns),
        "best": run.best_state,
        "window": window,
        "height": HEIGHT,
        "n_units": run.som.hit_counts.shape[1],
        "with_intervals": any(value == value for value in lines.single.low),
    }


def edited_window(run: RunFiles) -> tuple[int, int] | None:
    """First and last state index that the picked edit changes directly: those after its first and last edited layer."""
    if run.chosen is None:
        return None
    active = [profile for profile in run.chosen.parameters.profiles.values() if profile.strength]
    if not active:
        return None
    return min(profile.first for profile in active) + 1, max(profile.last for profile in active) + 1


def layer_figure(lines: LayerNumbers, best: int, window: tuple[int, int] | None) -> Figure:
    """The panels over one axis, the state index."""
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=len(PANELS), cols=1, shared_xaxes=True, vertical_spacing=0.06, subplot_titles=PANELS)
    figure.update_layout(base_layout(HEIGHT), hovermode="x unified", hoversubplots="axis")
    figure.update_layout(legend={"y": 1.04}, margin={"t": 92})
    figure.update_annotations(x=0, xanchor="left", font={"size": 13})
    for band, colour in ((lines.single, BLUE), (lines.salient, VERMILLION)):
        add_band(figure, band, colour, row=1, col=1)
    for name, values, panel, colour, dash in _traces(lines):
        figure.add_scatter(
            x=list(range(len(values))),
            y=plotted(values),
            name=name,
            mode="lines+markers",
            marker={"size": 4},
            line={"color": colour, "dash": dash, "width": 2},
            hovertemplate="%{y:.4g}",
            row=panel,
            col=1,
        )
    figure.add_vline(x=best, line={"color": GREY, "dash": "dot", "width": 1})
    if window is not None:
        figure.add_vrect(x0=window[0] - 0.5, x1=window[1] + 0.5, fillcolor=GREY, opacity=0.13, line_width=0)
    figure.update_xaxes(showgrid=False, zeroline=False)
    figure.update_yaxes(zeroline=False, nticks=5)
    figure.update_yaxes(rangemode="tozero", row=2)
    figure.update_yaxes(rangemode="tozero", row=4)
    figure.update_yaxes(type="log", tickformat=".0e", dtick=decades(lines.accounting), row=len(PANELS))
    figure.update_xaxes(title={"text": "state index", "font": {"size": 13}}, row=len(PANELS))
    return figure


def _traces(lines: LayerNumbers) -> list[tuple[str, list[float], int, str, str]]:
    return [
        ("single direction", lines.single.line, 1, BLUE, "solid"),
        ("most salient unit", lines.salient.line, 1, VERMILLION, "dash"),
        ("best unit", lines.best, 1, VERMILLION, "dot"),
        ("norm of the difference of means", lines.difference, 2, BLUE, "solid"),
        ("quantization error", lines.quantization, 2, GREEN, "dash"),
        ("effective rank", lines.rank, 3, PURPLE, "solid"),
        ("topographic error", lines.topographic, 4, GREEN, "solid"),
        ("accounting error", lines.accounting, 5, GREY, "solid"),
    ]
