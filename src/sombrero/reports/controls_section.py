"""Section: the map beside its controls. Whether its directions separate better than simpler ones, and how they lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sombrero.reports.charts import GREY, METHOD_COLOURS, add_band, base_layout, figure_data, plotted
from sombrero.reports.colours import fills, ink
from sombrero.reports.data_table import data_table
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


COSINES = (-0.5, 1.0)
"""Ends of the scale of their fills: opposite directions are rare, and as light as can be."""


def controls_section(run: RunFiles) -> dict[str, Any] | None:
    """AUROC over the layers for every method that the run has, the same at the shown state as a table, the cosines."""
    if run.refusal_map is None or run.som is None or run.shown_state is None:
        return None
    names, matrix = cosines(run, run.shown_state)
    return {
        "missing": what_is_missing(run, ("controls",)),
        "shown": run.shown_state,
        "figure": figure_data(controls_figure(run, run.shown_state)),
        "tables": {
            "controls": data_table(("method", "state", "auroc", "low", "high"), _method_rows(run)),
            "cosines": data_table(
                ("direction", *names), ((name, *row) for name, row in zip(names, matrix, strict=True))
            ),
        },
        "rows": [_row(run, name) for name in direction_sets(run)],
        "names": names,
        "cosines": [cosine_cells(row) for row in matrix],
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


def cosine_cells(row: Sequence[float | None]) -> list[dict[str, str]]:
    """The cells of one row of the matrix; darker is nearer to parallel."""
    return [
        {"text": NOTHING if value is None else f"{value:.2f}".replace("-", "−"), "fill": fill, "ink": ink(fill)}
        for value, fill in zip(row, fills(row, COSINES[0], COSINES[1]), strict=True)
    ]


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


def _method_rows(run: RunFiles) -> Iterator[tuple[str | int | float, ...]]:
    for name, found in direction_sets(run).items():
        band = first_band(METHOD_NAMES[name], found)
        for state, values in enumerate(zip(band.line, band.low, band.high, strict=True)):
            yield band.name, state, *values
