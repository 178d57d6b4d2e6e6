"""Section: the map beside its controls. Whether its directions separate better than simpler ones, and how they lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sombrero.reports.charts import GREY, METHOD_COLOURS, add_band, base_layout, figure_data, plotted
from sombrero.reports.colours import shades
from sombrero.reports.direction_numbers import METHOD_NAMES, NULL, cosines, direction_sets, separations
from sombrero.reports.layer_numbers import first_band
from sombrero.reports.run_files import RunFiles, what_is_missing
from sombrero.reports.wording import NOTHING, number

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

DASHES = {
    "som": "solid",
    "single": "dash",
    "k-means": "dashdot",
    "pca": "dot",
    "random": "longdash",
    NULL: "longdashdot",
}


def controls_section(run: RunFiles) -> dict[str, Any] | None:
    """AUROC over the layers for every method that the run has, the same at the shown state as a table, the cosines."""
    if run.refusal_map is None or run.som is None or run.shown_state is None:
        return None
    names, matrix = cosines(run, run.shown_state)
    return {
        "missing": what_is_missing(run, ("controls",)),
        "shown": run.shown_state,
        "figure": figure_data(controls_figure(run, run.shown_state)),
        "figures": {"cosines": figure_data(cosine_figure(names, matrix))},
        "rows": [_row(run, name) for name in direction_sets(run)],
        "names": names,
        "cosines": [[number(value, 2) for value in row] for row in matrix],
    }


def controls_figure(run: RunFiles, shown: int) -> Figure:
    """The most salient direction's AUROC by method and state index; the interval of map, single direction and null."""
    import plotly.graph_objects as go

    figure = go.Figure(layout=base_layout(460))
    figure.update_layout(hovermode="x unified", margin={"t": 84})
    bands = {name: first_band(METHOD_NAMES[name], found) for name, found in direction_sets(run).items()}
    for name, band in bands.items():
        if name in ("som", "single", NULL):
            add_band(figure, band, METHOD_COLOURS[name])
    for name, band in bands.items():
        figure.add_scatter(
            x=list(range(len(band.line))),
            y=plotted(band.line),
            name=band.name,
            mode="lines",
            line={"color": METHOD_COLOURS[name], "dash": DASHES[name], "width": 2},
            hovertemplate="%{y:.3f}",
        )
    figure.add_vline(x=shown, line={"color": GREY, "dash": "dot", "width": 1})
    figure.add_hline(y=0.5, line={"color": GREY, "width": 1})
    figure.update_xaxes(title={"text": "state index", "font": {"size": 13}}, showgrid=False, zeroline=False)
    figure.update_yaxes(title={"text": "AUROC on held-out prompts", "font": {"size": 13}}, zeroline=False)
    return figure


def cosine_figure(names: list[str], matrix: list[list[float | None]]) -> Figure:
    """Every pair of directions; darker is nearer to parallel."""
    import plotly.graph_objects as go

    palette = shades()
    scale = [[i / (len(palette) - 1), shade] for i, shade in enumerate(palette)]
    figure = go.Figure(layout=base_layout(620))
    figure.add_heatmap(
        x=names,
        y=names,
        z=matrix,
        colorscale=scale,
        zmax=1,
        xgap=1,
        ygap=1,
        hovertemplate="%{y} and %{x}: %{z:.3f}<extra></extra>",
        colorbar={"thickness": 12, "outlinewidth": 0},
    )
    figure.update_layout(margin={"l": 84, "t": 20, "b": 84})
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(tickangle=-60, showgrid=False)
    return figure


def _row(run: RunFiles, method: str) -> dict[str, Any]:
    found = separations(direction_sets(run)[method], run.shown_state or 0)
    first = found[0]
    others = [one.auroc for one in found[1:] if one.auroc is not None]
    interval = NOTHING if first.low is None else f"{number(first.low)}–{number(first.high)}"
    return {
        "name": METHOD_NAMES[method],
        "directions": len(found),
        "auroc": number(first.auroc),
        "interval": interval,
        "others": f"{number(min(others))}–{number(max(others))}" if others else NOTHING,
    }
